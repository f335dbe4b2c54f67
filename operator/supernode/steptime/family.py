"""What the table of calibration constants has for each family of chips: the names of the constants, and what they mean.

Flows in: nothing. Flows out: `Family`. Not here: the figures (`calibration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """Constants of one chip family.

    GEMM efficiency is a smooth curve: ``gemm_peak / ((1 + m0/m) (1 + n0/n) (1 + k0/k))``. The three small sizes stand
    for partly filled tiles and waves (m, n) and for filling and draining the pipeline of a tile (k).

    Attributes:
        name: of the family.
        chips: catalogue names that belong to it.
        gemm_peak: share of the peak FLOP/s that a very large matrix product reaches.
        gemm_small: (m0, n0, k0), the sizes at which one dimension alone halves the efficiency.
        memory: share of the peak memory bandwidth that a streaming kernel reaches.
        launch: seconds from one kernel to the next in a busy stream.
        node_links: share of the nominal link bandwidth that a large collective inside a node reaches.
        network_links: the same between nodes, at any level.
        collective_launch: seconds before the first byte of a collective moves.
        overlap: share of the data-parallel traffic that hides behind the backward pass, if the pass is long enough.
        tensor_overlap: share of the traffic between tensor ranks that hides behind the matrix products it feeds, with
            sequence parallelism (whose gathers and scatters can be cut into pieces).
        score_passes: how often the attention scores cross the memory forward (softmax, mask, dropout) in software that
            recomputes activations; 0 = a fused kernel keeps them on the chip and leaves the masked half out.
        attention: share of the peak FLOP/s that a fused attention kernel reaches on long sequences
            (`ATTENTION_SHORT`); None = there is no such
            kernel. Where there is one, jobs without recomputation and jobs with fully sharded weights use it whatever
            `score_passes` says: without it the scores would have to be kept, and sharding came with it.
        reserved: bytes of device memory that the model can't have: runtime, communication buffers.
        network_thin: share of the network bandwidth where fewer than `THIN_LANES` devices of a node take part; None =
            no difference known.
        switch_reduce: share of the link bandwidth at which the switch inside a node sums an all-reduce; 0 = it can't.
        mesh: the devices of a node have one link to each other device, so a small group can't use all of them.
        pair_tree: its library reduces over two nodes by a tree where that is faster (`links.LinkLevel`).
        exchange: share of the network's bandwidth that is left to all-to-all, where many senders meet at one receiver.
        node_latency, network_latency: seconds per hop where neither pool nor group says.
        calibrated: False where the constants are defaults, not measurements of this family.
        sources: constant -> where it comes from.
    """

    name: str
    chips: tuple[str, ...]
    gemm_peak: float
    gemm_small: tuple[float, float, float]
    memory: float
    launch: float
    node_links: float
    network_links: float
    collective_launch: float
    overlap: float
    score_passes: float
    reserved: int
    calibrated: bool
    sources: Mapping[str, str]
    attention: float | None = None
    tensor_overlap: float = 0.0
    network_thin: float | None = None
    switch_reduce: float = 0.0
    mesh: bool = False
    pair_tree: bool = False
    exchange: float = 0.68
    node_latency: float = 1e-6
    network_latency: float = 5e-6
