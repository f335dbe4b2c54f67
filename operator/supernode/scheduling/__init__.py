"""Which gang goes where: topology, snapshot, demand, fit, score, ranks, placement, or why not.

What may live here: pure decisions on numpy and the standard library; no clock, no I/O, no logging, no Kubernetes.
In: `State`, fed by `cluster`, hands out a `Snapshot`; a `GangDemand` asks. Out: `Placement | Unplaceable` by `place`,
decisions for a whole queue by `plan_cycle`, and English by `explain`, the only module that writes any.
"""
