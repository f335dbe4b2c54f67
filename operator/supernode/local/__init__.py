"""A Kubernetes cluster without Docker: an API server, nodes whose pods are processes, and the controllers they need.

`server` is the embedded API server and `machinery` what it decides by, `engines` the switch between it and a real one,
`agent` plays the kubelets, `controllers` what kube-controller-manager and kube-scheduler would do. Nothing here knows
our own kinds: they are validated by their CRDs, as on a real server.
"""
