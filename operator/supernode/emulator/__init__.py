"""The emulated DCU: a sidecar that really runs the kernels of training code on the CPU, under a card's rules.

Layers, from the inside out: `kernels` (the operators, a table), `runtime` (devices, memory, streams, events, virtual
clock), `fabric` (links and collectives between devices and between sidecars), `wire` and `session` (one client's
commands), `server` (the process), `client` (what training code imports). Flows in: commands over a Unix socket.
Flows out: numbers, device seconds, metrics. Not here: Kubernetes, and any credential for it.
"""
