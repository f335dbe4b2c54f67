"""The one table of calibration constants: how much of a data sheet's figure a real program gets.

Flows in: nothing. Flows out: `family_of(chip name)`, the constants of the chip's family, each with its source.
Not here: the data sheet itself (`chips`) and the formulas (`roofline`, `collectives`, `predict`).

A family is a generation of chips that share a design. A chip without a family of its own gets `DEFAULT`, and
whatever is computed with it is marked as not calibrated: a careful guess, good for comparing placements of the same
job, not for promising a date.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from supernode.errors import ModelError
from supernode.steptime.family import Family

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
    overlap=0.5,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=False,
    attention=0.45,
    sources=MappingProxyType(
        {
            "gemm_peak": "vendor's own planning default for DCU: 0.6 (HYGON-AI/hcu-train-simulator, README)",
            "gemm_small": "half a 128x128 tile; a pipeline of four 64-deep stages: common tile shapes, not measured",
            "memory": "STREAM-like kernels reach 0.7 to 0.9 of the data sheet on the chips we have figures for",
            "launch": "round figure for asynchronous launches of CUDA-like runtimes",
            "node_links": "HYGON-AI/hcu-train-simulator templates/config.yaml: collective efficiency 0.7 in the node",
            "network_links": "HYGON-AI/hcu-train-simulator templates/config.yaml: efficiency 0.8 between nodes",
            "collective_launch": "8-byte all-reduce of 4 ranks takes 16 us, launch and 6 hops (nccl-tests issue 290)",
            "overlap": "half of the gradient traffic behind the last micro batch: frameworks offer it, few hide it all",
            "score_passes": "fused attention kernels (flash attention) are the rule since 2023",
            "attention": "three quarters of a large product on long sequences; Ampere and Hopper reach that or more",
            "node_latency": "8 KiB all-reduce of 2, 4 and 8 BW1000: 20, 21 and 29 us, less launch, by the ring's steps",
            "network_latency": "8-byte all-reduce of 2 and 4 nodes of H100: 25 and 35 us, 5 us a hop (nccl-tests 309)",
            "exchange": "two nodes of BW1000 exchange 15 to 16 GB/s a card where rings carry 23 (bw1000_2.txt)",
            "reserved": "runtime and communication buffers of usual installations, 1 to 3 GiB",
        }
    ),
)

_AMPERE: Final = Family(
    name="nvidia-ampere",
    chips=("nvidia-a100-80g-sxm", "nvidia-a800-80g-sxm"),
    gemm_peak=0.80,
    gemm_small=(64.0, 64.0, 128.0),
    memory=0.83,
    launch=4e-6,
    node_links=0.78,
    network_links=0.93,
    collective_launch=10e-6,
    overlap=0.0,
    score_passes=5.0,
    reserved=2 * 2**30,
    calibrated=True,
    attention=0.50,
    pair_tree=True,
    exchange=0.96,
    sources=MappingProxyType(
        {
            "gemm_peak": "large fp16 products reach 250 of 312 TFLOPS, a usual figure; tables 3 to 5 of Korthikanti et "
            "al. 2022 alone would say 0.82 (fit_steptime), larger runs less",
            "gemm_small": "as default, with half the depth: asynchronous copies hide part of the fill",
            "memory": "fitted on the same rows; streaming kernels reach 1.7 of 2.04 TB/s",
            "launch": "usual figure for CUDA on A100",
            "node_links": "all-reduce plateau 232 to 235 of 300 GB/s on 8 A100 (nccl-tests threads)",
            "network_links": "46 to 48 of 50 GB/s per 400 Gb/s port (nccl-tests threads)",
            "collective_launch": "as default",
            "overlap": "nothing is assumed to overlap: Korthikanti et al. reduce gradients after the backward pass",
            "score_passes": "softmax and dropout each read and write the scores, plus masks (Korthikanti et al. 2022)",
            "attention": "flash attention 2 on A100: 0.45 to 0.6 of the peak, head 128, as its paper prints",
            "reserved": "as default",
        }
    ),
)

_VOLTA: Final = Family(
    name="nvidia-volta",
    chips=("nvidia-v100-32g-sxm", "nvidia-v100-32g", "nvidia-v100"),
    gemm_peak=0.82,
    gemm_small=(64.0, 64.0, 128.0),
    memory=0.80,
    launch=5e-6,
    node_links=0.80,
    network_links=0.80,
    collective_launch=10e-6,
    overlap=0.0,
    score_passes=5.0,
    reserved=2 * 2**30,
    calibrated=True,
    pair_tree=True,
    exchange=0.96,
    sources=MappingProxyType(
        {
            "gemm_peak": "fitted on the V100 rows of 1, 2 and 8 devices of Megatron-LM 2020 (fit_steptime)",
            "gemm_small": "as Ampere",
            "memory": "usual figure for HBM2 in streaming kernels",
            "launch": "as default",
            "node_links": "as Ampere; not measured",
            "network_links": "as default",
            "overlap": "as Ampere",
            "score_passes": "as Ampere",
            "reserved": "as default",
        }
    ),
)

_HOPPER: Final = Family(
    name="nvidia-hopper",
    chips=("nvidia-h100-80g-sxm", "nvidia-h800-80g-sxm", "nvidia-h200-141g-sxm", "nvidia-h20-96g"),
    gemm_peak=0.66,
    gemm_small=(128.0, 128.0, 768.0),
    memory=0.75,
    launch=4e-6,
    node_links=0.82,
    network_links=0.895,
    collective_launch=12e-6,
    overlap=0.8,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=True,
    attention=0.60,
    tensor_overlap=0.5,
    switch_reduce=0.58,
    node_latency=1.3e-6,
    network_latency=8e-6,
    pair_tree=True,
    exchange=0.96,
    sources=MappingProxyType(
        {
            "gemm_peak": "fitted, with gemm_small, memory and tensor_overlap, on the rows of large_runs.csv marked so "
            "(Megatron-LM, MPT, mixtures of experts, Llama 3); power limits large products to 620 to 720 of 989 TFLOPS",
            "gemm_small": "tiles twice as wide as the default's, as wgmma works on 128 x 256; the depth is fitted, see "
            "gemm_peak",
            "memory": "fitted, see gemm_peak; copies reach 0.9, norms and losses with their reductions less",
            "tensor_overlap": "fitted, see gemm_peak: gathers and scatters run piece by piece beside the products",
            "launch": "as Ampere",
            "node_links": "ring all-reduce 363 to 366 of 450 GB/s on 4 to 8 H200 (stas00/ml-engineering, network)",
            "switch_reduce": "all-reduce of 8 GiB summed in the switch, 5 to 8 H200: 259 to 270 of 450 GB/s; "
            "2 nodes of H100: 250",
            "network_links": "between 366 and 325 (4 nodes of two clusters), 391 and 320 (8 nodes, tuned and not) of "
            "400 GB/s a node (nccl-tests issue 309)",
            "network_latency": "with node_latency, fitted on the 1 MiB rows of 2, 4 and 8 nodes of H100 (nccl-tests "
            "issue 309): 72 and 93, 82, 117 and 127 us; below 64 KiB a hop takes 5 us",
            "node_latency": "see network_latency",
            "pair_tree": "2 nodes of 2: 98 of 100 GB/s summed, where a ring would sum 67 (DGX H100 log); NVIDIA's "
            "engineers say that NCCL reduces over two nodes by a tree (nccl-tests issue 196)",
            "exchange": "fitted on the all-to-alls of 16, 32 and 64 H100 (Megatron-Core's report on mixtures of "
            "experts, 2026, table 7): 5.8, 8.1 and 9.2 ms for 8 x 7168 x 4096 numbers of 2 bytes",
            "collective_launch": "8-byte all-reduce of 16 ranks takes 25 us (nccl-tests issue 309)",
            "overlap": "gradient reduction and weight gathering run behind the passes by default; not all of it",
            "attention": "cuDNN's kernel on H100, see ATTENTION_SHORT",
            "score_passes": "as default",
            "reserved": "as default",
        }
    ),
)

_BLACKWELL: Final = Family(
    name="nvidia-blackwell",
    chips=("nvidia-b200-sxm", "nvidia-gb200-nvl72"),
    gemm_peak=0.64,
    gemm_small=(128.0, 128.0, 768.0),
    memory=0.75,
    launch=4e-6,
    node_links=0.75,
    network_links=0.95,
    collective_launch=20e-6,
    overlap=0.8,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=False,
    attention=0.65,
    tensor_overlap=0.5,
    switch_reduce=0.49,
    pair_tree=True,
    exchange=0.96,
    sources=MappingProxyType(
        {
            "gemm_peak": "as Hopper, a little less: power limits more",
            "attention": "the same table as ATTENTION_SHORT: 1,324 and 1,083 TFLOPS at 4,096 tokens",
            "node_links": "ring all-reduce 673 to 682 of 900 GB/s on 4 to 8 B200 (stas00/ml-engineering, network)",
            "switch_reduce": "all-reduce on 8 B200: 423 of 900 GB/s at 4 GiB, 480 above (the same)",
            "network_links": "4 nodes with EFA reach 372 to 382 of 400 GB/s a node from 2 GiB on (the same)",
            "collective_launch": "all-reduce of 128 KiB to 1 MiB on 8 B200: 47 to 51 us (the same), less SWITCH_LAUNCH",
        }
    ),
)

_CDNA3: Final = Family(
    name="amd-cdna3",
    chips=("amd-mi300x",),
    gemm_peak=0.55,
    gemm_small=(64.0, 64.0, 256.0),
    memory=0.75,
    launch=6e-6,
    node_links=0.70,
    network_links=0.80,
    collective_launch=15e-6,
    overlap=0.5,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=False,
    attention=0.35,
    mesh=True,
    sources=MappingProxyType(
        {
            "gemm_peak": "power limits large products more than on Hopper; a guess",
            "node_links": "all-reduce of 4 GiB: 313 of 448 GB/s on 8, 48 of 64 GB/s (one link) on 2 MI300X "
            "(stas00/ml-engineering, network)",
            "mesh": "one link to each of the 7 other devices: the same two figures",
        }
    ),
)

_ASCEND: Final = Family(
    name="huawei-ascend",
    chips=("huawei-ascend-910b2", "huawei-ascend-910b3", "huawei-ascend-910c"),
    gemm_peak=0.74,
    gemm_small=(64.0, 64.0, 256.0),
    memory=0.75,
    launch=6e-6,
    node_links=0.70,
    network_links=0.80,
    collective_launch=15e-6,
    overlap=0.8,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=True,
    attention=0.55,
    tensor_overlap=0.6,
    sources=MappingProxyType(
        {
            "gemm_peak": "fitted on the rows of Llama 2 7B and 70B and of 175B on 128 devices (Ascend/MindSpeed-LLM, "
            "README at 5b913a1c; large_runs.csv), with a figure for links that is assumed; Pangu Ultra was in view",
            "overlap": "Pangu Ultra (arXiv 2504.07866, section 4) hides gradient, weight and pipeline traffic",
            "tensor_overlap": "its 4.3.1: products fused with gathers and scatters (MC2), as in those runs; the share "
            "is our reading",
            "attention": "as Hopper, a little less",
            "node_links": "as default",
            "network_links": "as default",
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
    network_links=0.46,
    collective_launch=17e-6,
    overlap=0.5,
    score_passes=0.0,
    reserved=2 * 2**30,
    calibrated=True,
    attention=0.45,
    network_thin=0.36,
    node_latency=1.3e-6,
    network_latency=4e-6,
    sources=MappingProxyType(
        {
            "gemm_peak": "bf16 6144x4096x4096 245.6, 24576x4096x4096 249.3, 2560x4096x9728 298.3 of 480 TFLOPS "
            "(HYGON-AI/hcu-train-simulator profiles/builtin): the curve is within 11 % of each",
            "gemm_small": "same three products",
            "memory": "as default",
            "launch": "not published; between the CUDA figure and twice it",
            "node_links": "all-reduce of 1 GiB, one node: 115.6 to 120.1 of 224 GB/s (same repository, bw1000_1.txt)",
            "network_links": "all-reduce of 1 GiB, two nodes of 4 cards: 23.4 of 50 GB/s per card (bw1000_2.txt; the "
            "meaning of its columns is our reading)",
            "network_latency": "with node_latency, fitted on the 1 MiB rows (bw1000_1.txt, bw1000_2.txt): 34 to 73 us "
            "for 2 to 8 cards of a node, 103 to 156 us for 2 to 16 cards of two",
            "node_latency": "see network_latency",
            "exchange": "15 to 16 GB/s a card between two nodes, where rings carry 23 (bw1000_2.txt)",
            "network_thin": "the same with 1 and 2 cards a node: 17.8 of 50 GB/s per card",
            "collective_launch": "all-reduce of 8 KiB on 2 cards takes 20 us (bw1000_1.txt)",
            "overlap": "as default",
            "attention": "as default",
            "reserved": "as default; the vendor's simulator keeps 5 GiB free, which is a margin for planning",
        }
    ),
)

FAMILIES: Final[tuple[Family, ...]] = (DEFAULT, _AMPERE, _VOLTA, _HOPPER, _BLACKWELL, _CDNA3, _ASCEND, _BOWEN)
_BY_CHIP: Final[Mapping[str, Family]] = MappingProxyType({chip: f for f in FAMILIES for chip in f.chips})

#: Common to all families.
#: A fused attention kernel computes the scores again: five products backward for two forward.
ATTENTION_BACKWARD: Final = 2.5
#: Tokens of a sequence at which a fused attention kernel reaches half of its rate. Fitted, with Hopper's rate, on the
#: cuDNN kernel forward and backward: 553 and 422 TFLOPS at 4,096 tokens, 638 and 523 at 16,384 (H100, Megatron-Core's
#: report on mixtures of experts, 2026, table 9).
ATTENTION_SHORT: Final = 1200.0
#: Share of the traffic of fully sharded weights that hides behind the layers they are for: a layer cannot begin before
#: its weights are there. Fitted on MosaicML's MPT runs on H100 (fit_steptime).
SHARDED_OVERLAP: Final = 0.5
#: Gradients that travel together, at least, and more of them per replica: those that are ready last have no backward
#: pass left to hide behind. The defaults of Megatron-Core's DistributedDataParallel (max(40 million, 1 million x
#: replicas)); PyTorch's 25 MiB are less.
BUCKET: Final = 40_000_000
BUCKET_PER_REPLICA: Final = 1_000_000
#: Seconds of transfer beyond which a collective's pieces don't grow any more. Fitted on the all-reduces of 2 and 4
#: nodes of 8 H100 and of 4 nodes of B200 from 64 MiB to 1 GiB (nccl-tests issue 309; stas00/ml-engineering, network).
PIECES: Final = 250e-6
#: Fewer ranks of a node than this drive their network links less well (`Family.network_thin`).
THIN_LANES: Final = 4
#: NCCL lets the NVLink switch sum from 5 devices on: all-reduces of 4 to 8 H200 (stas00/ml-engineering, network).
SWITCH_FROM: Final = 5
#: Seconds that such a sum takes on top of the launch: 1 MiB on 2 nodes of H100 72 and 93 us, on 8 B200 51 us (same
#: sources, two clusters of H100).
SWITCH_LAUNCH: Final = 33e-6

#: Share of a port's rate that is left to gradient reduction in a job of more than `BLOCK` devices, whose groups all
#: reduce at once and meet in the upper switches. Fitted on one pair: 530B on 280 A100 and, 8-fold data-parallel, 2,240
#: takes 37.83 and 39.15 s (Korthikanti et al. 2022, 6.3), where a lone all-reduce would take 0.6 s.
CROWD: Final = 0.5
#: 64 nodes of 8: what one block of leaf switches with 64 ports joins; chosen with MegaScale's baseline rows in view.
BLOCK: Final = 512

#: Figures of the data sheet that a prediction cannot do without, where a catalogue has none: used and said so.
ASSUMED_NODE_BANDWIDTH: Final = 200e9  # bytes/s, one way, of all links of a device in a node: that of an A800
ASSUMED_NODE_LATENCY: Final = 2e-6  # seconds per hop inside a node, where a pool must have one
ASSUMED_NETWORK_LATENCY: Final = 10e-6  # seconds per hop between nodes: the API's own example
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
