"""The few controllers of Kubernetes that a local cluster needs beside its API server, for engines that bring none.

`Deployment` and `ReplicaSet` to pods, pods to nodes, and nodes that are no longer heard of. Each is small and says in
its module what it leaves out.
"""
