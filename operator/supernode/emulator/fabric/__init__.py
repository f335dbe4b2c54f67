"""The links between emulated devices: collectives inside a pod and, over TCP, between the pods of one job.

What flows in: a `CollectiveCall` per device with that device's buffers and its virtual time, on the device's stream
thread. What flows out: the same bits in every rank's buffer, and the virtual time at which the collective ended.

    call         what ranks do together; buffers each kind needs
    reduction    sum, product, min, max, average
    topology     which pods share which links (SUPERNODE_TOPOLOGY)
    timing       virtual start and end of a collective
    frames       the wire format: fixed header with an authentication code, bounded body
    handshake    both sides prove the job's secret before anything else is read
    reception    the listener: strangers are turned away and counted
    bootstrap    every pod finds every other pod through rank 0
    control      losses, aborts and questions between pods
    link         one data connection and the moving of bytes over it
    memory       boards that pods on one host share; memory_link: a link through them
    order        the order of a sum over pods, as an expression
    choice       tree, ring or hierarchy, by size and wiring
    opinions     whether all call the same, and data that goes along; agreement: what else has to be settled
    channel      one group's place in order: local meeting, agreement between pods, failure
    algorithms/  ring, tree, hierarchy and pairwise exchange between pods, and working together in shared memory
    collectives  each kind, from device buffers to algorithms and back
    fabric       the front: `Fabric.start`, `run`, `close`

    fabric = Fabric(FabricConfig(rank=0, workers=2, devices_per_worker=2, rendezvous="10.0.0.1:29400", secret=...))
    fabric.start()                                      # blocks until all pods are connected, FabricError if not
    end = fabric.run(CollectiveCall("all_reduce", (0, 1, 2, 3), dtype="bf16", count=4096), 0, send, recv, ready)
    fabric.close()

`run` is called once per participating device, each on its own thread, and blocks until the collective is done or
has failed; a failure is the same FabricError on every rank. Not here: streams, devices, handles, HTTP.
"""

from __future__ import annotations

from supernode.emulator.fabric.call import KINDS, REDUCTIONS, CollectiveCall
from supernode.emulator.fabric.config import FabricConfig
from supernode.emulator.fabric.fabric import Fabric

__all__ = ["KINDS", "REDUCTIONS", "CollectiveCall", "Fabric", "FabricConfig"]
