"""The one table of calibration constants: how much of a data sheet's figure a real program gets.

Flows in: nothing. Flows out: `family_of(chip name)`, the constants of the chip's family, each with its source.
Not here: the data sheet itself (`chips`) and the formulas (`roofline`, `collectives`, `predict`).

A family is a generation of chips that share a design. A chip without a family of its own gets `DEFAULT`, and
whatever is computed with it is marked as not calibrated: a careful guess, good for comparing placements of the same
job, not for promising a date.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from supernode.errors import ModelError


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
        score_passes: how often the attention scores cross the memory forward (softmax, mask, dropout); 0 = a fused
            kernel keeps them on the chip.
        reserved: bytes of device memory that the model can't have: runtime, communication buffers.
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


DEFAULT: Final = Family(
    name="default",
    chips=(),
    gemm_peak=0.60,
    gemm_small=(64.0, 64.0, 256.0),
    memory=0.75,
    launch=5e-6,
    node_links=0.70,
    network_links=0.80,
    collective_launch=10e-6,
    overlap=0.0,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=False,
    sources=MappingProxyType(
        {
            "gemm_peak": "vendor's own planning default for DCU: 0.6 (HYGON-AI/hcu-train-simulator, README)",
            "gemm_small": "half a 128x128 tile; a pipeline of four 64-deep stages: common tile shapes, not measured",
            "memory": "STREAM-like kernels reach 0.7 to 0.9 of the data sheet on the chips we have figures for",
            "launch": "round figure for asynchronous launches of CUDA-like runtimes",
            "node_links": "HYGON-AI/hcu-train-simulator templates/config.yaml: collective efficiency 0.7 in the node",
            "network_links": "HYGON-AI/hcu-train-simulator templates/config.yaml: efficiency 0.8 between nodes",
            "collective_launch": "8-byte all-reduce of 4 ranks takes 16 us, launch and 6 hops (nccl-tests issue 290)",
            "overlap": "nothing is assumed to overlap unless measured",
            "score_passes": "fused attention kernels (flash attention) are the rule since 2023",
            "reserved": "runtime and communication buffers of usual installations, 1 to 3 GiB",
        }
    ),
)

_AMPERE: Final = Family(
    name="nvidia-ampere",
    chips=("nvidia-a100-80g-sxm", "nvidia-a800-80g-sxm"),
    gemm_peak=0.80,
    gemm_small=(64.0, 64.0, 128.0),
    memory=0.85,
    launch=4e-6,
    node_links=0.78,
    network_links=0.93,
    collective_launch=10e-6,
    overlap=0.0,
    score_passes=5.0,
    reserved=2 * 2**30,
    calibrated=True,
    sources=MappingProxyType(
        {
            "gemm_peak": "large fp16 products reach 250 of 312 TFLOPS, a usual figure; not fitted to step times",
            "gemm_small": "as default, with half the depth: asynchronous copies hide part of the fill",
            "memory": "1.7 of 2.04 TB/s in streaming kernels, a usual figure for A100-80GB",
            "launch": "usual figure for CUDA on A100",
            "node_links": "all-reduce plateau 232 to 235 of 300 GB/s on 8 A100 (nccl-tests threads)",
            "network_links": "46 to 48 of 50 GB/s per 400 Gb/s port (nccl-tests threads)",
            "collective_launch": "as default",
            "overlap": "nothing is assumed to overlap: Korthikanti et al. reduce gradients after the backward pass",
            "score_passes": "softmax and dropout each read and write the scores, plus masks (Korthikanti et al. 2022)",
            "reserved": "as default",
        }
    ),
)

_VOLTA: Final = Family(
    name="nvidia-volta",
    chips=("nvidia-v100-32g-sxm", "nvidia-v100-32g", "nvidia-v100"),
    gemm_peak=0.80,
    gemm_small=(64.0, 64.0, 128.0),
    memory=0.80,
    launch=5e-6,
    node_links=0.80,
    network_links=0.80,
    collective_launch=10e-6,
    overlap=0.0,
    score_passes=5.0,
    reserved=2 * 2**30,
    calibrated=False,
    sources=MappingProxyType({"gemm_peak": "as Ampere, not fitted yet", "memory": "usual figure for HBM2"}),
)

_HOPPER: Final = Family(
    name="nvidia-hopper",
    chips=("nvidia-h100-80g-sxm", "nvidia-h800-80g-sxm", "nvidia-h200-141g-sxm", "nvidia-h20-96g"),
    gemm_peak=0.70,
    gemm_small=(128.0, 128.0, 256.0),
    memory=0.85,
    launch=4e-6,
    node_links=0.82,
    network_links=0.93,
    collective_launch=12e-6,
    overlap=0.0,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=False,
    sources=MappingProxyType(
        {
            "gemm_peak": "not fitted: large bf16 products are limited by power, 600 to 750 of 989 TFLOPS are usual",
            "node_links": "ring all-reduce 366 to 370 of 450 GB/s on 8 H100 or H200 (nccl-tests threads)",
            "network_links": "46 to 48 of 50 GB/s per 400 Gb/s port (nccl-tests threads)",
            "collective_launch": "8-byte all-reduce of 16 ranks takes 25 us (nccl-tests issue 309)",
        }
    ),
)

_BOWEN: Final = Family(
    name="hygon-gfx936",
    chips=("hygon-bw1000",),
    gemm_peak=0.60,
    gemm_small=(64.0, 64.0, 256.0),
    memory=0.75,
    launch=6e-6,
    node_links=0.54,
    network_links=0.40,
    collective_launch=15e-6,
    overlap=0.0,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=True,
    sources=MappingProxyType(
        {
            "gemm_peak": "bf16 6144x4096x4096 245.6, 24576x4096x4096 249.3, 2560x4096x9728 298.3 of 480 TFLOPS "
            "(HYGON-AI/hcu-train-simulator profiles/builtin): the curve is within 11 % of each",
            "gemm_small": "same three products",
            "memory": "as default",
            "launch": "not published; between the CUDA figure and twice it",
            "node_links": "all-reduce of 1 GiB, one node: 115.6 to 120.1 of 224 GB/s (same repository, bw1000_1.txt)",
            "network_links": "all-reduce of 1 GiB, two nodes: 17.8 to 23.4 of 50 GB/s per card (bw1000_2.txt; the "
            "meaning of its columns is our reading)",
            "collective_launch": "all-reduce of 8 KiB on 2 cards takes 20 us (bw1000_1.txt)",
            "reserved": "as default; the vendor's simulator keeps 5 GiB free, which is a margin for planning",
        }
    ),
)

FAMILIES: Final[tuple[Family, ...]] = (DEFAULT, _AMPERE, _VOLTA, _HOPPER, _BOWEN)
_BY_CHIP: Final[Mapping[str, Family]] = MappingProxyType({chip: f for f in FAMILIES for chip in f.chips})

#: Figures of the data sheet that a prediction cannot do without, where a catalogue has none: used and said so.
ASSUMED_NODE_LATENCY: Final = 2e-6  # seconds per hop inside a node: 8 KiB over 2 BW1000 cards, less the launch
ASSUMED_NETWORK_LATENCY: Final = 10e-6  # seconds per hop between nodes: the RDMA figure of the API's own example
ASSUMED_NETWORK_BANDWIDTH: Final = 25e9  # bytes/s per accelerator, one way: one 200 Gb/s port per card


def family_of(chip_name: str) -> Family:
    """Constants for a chip by its catalogue name; `DEFAULT` for a chip that nobody has measured."""
    return _BY_CHIP.get(chip_name, DEFAULT)


def family_named(name: str) -> Family:
    """The family of that name.

    Raises:
        ModelError: no such family.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(f.name for f in FAMILIES)
    raise ModelError(f"no calibration family {name!r}; there are {known}")
