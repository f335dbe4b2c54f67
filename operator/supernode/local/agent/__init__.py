"""The node agent of the local cluster: plays the kubelet, runs pods as processes of this machine."""
