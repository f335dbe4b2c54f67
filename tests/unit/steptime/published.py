"""Published measurements that the tests compare with, and how to predict them. Data and sources: data/*.csv."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

from supernode.chips import Chip, find_chip
from supernode.steptime.calibration import ASSUMED_NODE_BANDWIDTH, family_of
from supernode.steptime.collectives import Links, collective_seconds, levels_for, regular_links
from supernode.steptime.cuts import cuts_of
from supernode.steptime.layer import layer_passes
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.roofline import gemm_seconds
from supernode.steptime.wiring import regular_wiring

A100 = find_chip("nvidia-a100-80g-sxm")
V100 = find_chip("nvidia-v100-32g-sxm")
H100 = find_chip("nvidia-h100-80g-sxm")
BW1000 = find_chip("hygon-bw1000")
#: Seconds between nodes of p5en and p6-b200, as AWS's plugin for NCCL tells it (aws/aws-ofi-nccl 2daf7d30,
#: src/platform-aws.cpp): a figure of the network, as users give one per level.
EFA_LATENCY = 35e-6


@cache
def rows(name: str) -> list[dict[str, str]]:
    """Rows of a data file; lines that begin with # are its source."""
    text = (Path(__file__).parent / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def step(chip: Chip, model: ModelShape, cut: Parallelism, devices_per_node: int, scale_out: float) -> StepTime:
    """Prediction for a job that fills whole nodes behind one flat network."""
    family = family_of(chip.name)
    node = chip.link_bandwidth or ASSUMED_NODE_BANDWIDTH
    figures = [("network", scale_out, family.network_latency), ("node", node, family.node_latency)]
    levels = levels_for(chip, figures)
    inside = min(cut.devices, devices_per_node)
    return predict(chip, model, cut, regular_wiring(levels, (cut.devices // inside, inside), cut))


def korthikanti() -> list[tuple[str, ModelShape, Parallelism, float]]:
    """(name, model, cut, measured seconds) of Korthikanti et al. 2022, tables 3 and 5."""
    result = []
    for row in rows("korthikanti_2022_tables_3_5.csv"):
        sizes = (int(row[k]) for k in ("layers", "hidden", "heads", "vocab", "seq_len"))
        model = ModelShape(*sizes, "f16")
        for column, sequence_parallel, recompute in (
            ("full_recompute_iter_s", False, "Full"),
            ("seqpar_selective_iter_s", True, "Selective"),
        ):
            cut = Parallelism(
                tensor=int(row["tp"]),
                pipeline=int(row["pp"]),
                data=int(row["dp"]),
                interleave=int(row["interleave_v"]),
                micro_batch_size=int(row["microbatch"]),
                global_batch_size=int(row["global_batch"]),
                sequence_parallel=sequence_parallel,
                recompute=recompute,
            )
            result.append((row["model"], model, cut, float(row[column])))
    return result


def korthikanti_steps() -> list[tuple[str, float, float]]:
    """(name, predicted, measured seconds) of all rows, with that of section 6.3: 530B on 2,240 devices."""
    found = [
        (f"{name}, {cut.recompute}", step(A100, model, cut, 8, 25e9).seconds, measured)
        for name, model, cut, measured in korthikanti()
    ]
    model = ModelShape(105, 20480, 128, 51200, 2048, "f16")
    cut = Parallelism(8, 35, 8, interleave=3, global_batch_size=2240, sequence_parallel=True, recompute="Selective")
    return [*found, ("MT-NLG 530B, 2,240 devices", step(A100, model, cut, 8, 25e9).seconds, 39.15)]


def korthikanti_layers() -> list[tuple[str, float, float]]:
    """(experiment and pass, predicted, measured milliseconds) of table 4: one layer of the 22B model on 8 devices."""
    model = ModelShape(48, 6144, 64, 51200, 2048, "f16")
    group = regular_links(levels_for(A100, [("node", 300e9, family_of(A100.name).node_latency)]), (8,))
    activations = 4 * 2048 * 6144 * 2.0
    result = []
    for row in rows("korthikanti_2022_table_4.csv"):
        name = row["experiment"]
        sequence_parallel = "sequence" in name
        # The software of the paper has no fused attention: its scores cross memory, recomputed or not.
        cut = Parallelism(tensor=8, micro_batch_size=4, sequence_parallel=sequence_parallel, recompute="Selective")
        passes = layer_passes(A100, model, cuts_of(cut))
        if sequence_parallel:
            traffic = 2 * sum(collective_seconds(k, activations, group) for k in ("all_gather", "reduce_scatter"))
        else:
            traffic = 2 * collective_seconds("all_reduce", activations, group)
        forward = passes.forward + traffic
        again = forward if "full" in name else passes.again if "selective" in name else 0.0
        result.append((f"{name}, forward", forward * 1e3, float(row["forward_ms"])))
        result.append((f"{name}, backward", (passes.backward + traffic + again) * 1e3, float(row["backward_ms"])))
    return result


def megatron(gpu: str) -> list[tuple[str, int, float, float]]:
    """(case, devices, predicted, measured milliseconds) of Megatron-LM 2020's weak scaling."""
    result = []
    for row in rows("megatron_lm_2020.csv"):
        if not row["gpu_type"].startswith(gpu):
            continue
        devices, tensor, batch = int(row["gpus"]), int(row["tp"]), int(row["global_batch_seqs"])
        data = devices // tensor
        model = ModelShape(int(row["layers"]), int(row["hidden"]), int(row["heads"]), 51200, 1024, "f16")
        cut = Parallelism(
            tensor=tensor, data=data, micro_batch_size=batch // data, global_batch_size=batch, recompute="Full"
        )
        chip, per_node, network = (V100, 16, 12.5e9) if gpu == "V100" else (A100, 8, 25e9)
        seconds = step(chip, model, cut, per_node, network).seconds
        result.append((row["case"], devices, seconds * 1e3, float(row["iter_time_ms"])))
    return result


def bw1000_products() -> list[tuple[float, float]]:
    """(predicted, measured) bf16 TFLOPS: HYGON-AI/hcu-train-simulator, profiles/builtin."""
    result = []
    for (m, n, k), measured in (
        ((6144, 4096, 4096), 245.6),
        ((24576, 4096, 4096), 249.3),
        ((2560, 4096, 9728), 298.3),
    ):
        result.append((2 * m * n * k / gemm_seconds(BW1000, m, n, k, "bf16") / 1e12, measured))
    return result


def bw1000_bus(nbytes: int) -> list[tuple[str, tuple[int, int], float, float]]:
    """(collective, (nodes, cards a node), predicted, measured bus bandwidth in GB/s) on BW1000."""
    family = family_of(BW1000.name)
    levels = levels_for(BW1000, [("network", 50e9, family.network_latency), ("node", 224e9, family.node_latency)])
    result = []
    for row in rows("bw1000_busbw.csv"):
        if int(row["bytes"]) != nbytes:
            continue
        kind = {"alltoall": "all_to_all", "sendrecv": "send_recv"}.get(row["collective"], row["collective"])
        for nodes, cards in ((1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4), (2, 8)):
            links = regular_links(levels, (nodes, cards))
            bus = bus_bandwidth(kind, nbytes, links, nodes * cards)
            result.append((kind, (nodes, cards), bus, float(row[f"n{nodes}_c{cards}"])))
    return result


def expert_exchanges() -> list[tuple[int, float, float]]:
    """(ranks, predicted, measured microseconds) of all-to-alls on H100.

    Megatron-Core's report on mixtures of experts (2026), table 7, all-to-all, dispatch: hidden size 7168, 4,096 tokens
    that visit 8 experts each, in 16 bits.
    """
    family = family_of(H100.name)
    levels = levels_for(H100, [("network", 50e9, family.network_latency), ("node", 450e9, family.node_latency)])
    return [
        (ranks, collective_seconds("all_to_all", 4096 * 8 * 7168 * 2, regular_links(levels, (ranks // 8, 8))) * 1e6, us)
        for ranks, us in ((8, 1265.0), (16, 5774.0), (32, 8059.0), (64, 9164.0))
    ]


def bus_bandwidth(kind: str, nbytes: float, links: Links, ranks: int) -> float:
    """GB/s as nccl-tests count them: what a link carries."""
    share = {"all_reduce": 2 * (ranks - 1) / ranks, "send_recv": 1.0}.get(kind, (ranks - 1) / ranks)
    return nbytes * share / collective_seconds(kind, nbytes, links) / 1e9


def all_reduces() -> list[tuple[dict[str, str], float, float]]:
    """(row, predicted, measured bus bandwidth) of NVIDIA's and AMD's all-reduces."""
    result = []
    for row in rows("allreduce_busbw.csv"):
        chip = find_chip(row["chip"])
        family = family_of(chip.name)
        nodes, devices, nbytes = int(row["nodes"]), int(row["gpus"]), int(row["size_bytes"])
        node = chip.link_bandwidth or 448e9  # MI300X: 7 links of 64 GB/s
        latency = EFA_LATENCY if row["system"] == "aws" else family.network_latency
        levels = levels_for(chip, [("network", 50e9, latency), ("node", node, family.node_latency)])
        if row["switch"] == "off":
            levels = tuple(replace(level, switch=0.0) for level in levels)
        links = regular_links(levels, (nodes, devices // nodes))
        result.append((row, bus_bandwidth("all_reduce", nbytes, links, devices), float(row["busbw_GBps"])))
    return result


@cache
def _all_reduce_table() -> dict[tuple[str | int, ...], float]:
    """(system, chip, nodes, switch, bytes) -> bus bandwidth."""
    return {
        (one["system"], one["chip"], one["nodes"], one["switch"], int(one["size_bytes"])): float(one["busbw_GBps"])
        for one in rows("allreduce_busbw.csv")
    }


def odd(row: dict[str, str]) -> str:
    """Why no model of bytes, ranks and links can tell this all-reduce; empty for the others.

    Each reason is read from the other rows of the same system (an algorithm or a setting was changed by hand or by
    the library between two sizes), or of the same devices with other settings.
    """
    table = _all_reduce_table()
    *series, _ = key = (row["system"], row["chip"], row["nodes"], row["switch"], int(row["size_bytes"]))
    size, bus = key[-1], table[key]
    half, twice = (table.get((*series, at)) for at in (size // 2, size * 2))
    if twice is not None and bus * 2.1 < twice:
        return "takes longer than twice as many bytes"
    if half is not None and bus * 1.03 < half:
        return "slower than half as many bytes"
    if size >= 2**26 and twice is not None and bus * 1.4 < twice:
        return "half as fast again at twice as many bytes: the library changes its algorithm there"
    other = table.get((row["system"].removesuffix(" tuned"), *key[1:]))
    if row["system"].endswith(" tuned") and other is not None and bus * 1.09 < other:
        return "settings that make the same devices slower than the defaults do"
    if table.get((*series, size * 4), 0) > 3.4 * bus:
        return "takes as long as four times as many bytes: a floor that is not in the figures of the links"
    return ""


def large_runs(use: str | None = None) -> list[tuple[dict[str, str], float, StepTime]]:
    """(row, measured seconds, prediction) of large_runs.csv; `use`: only the rows with that use."""
    result = []
    for row in rows("large_runs.csv"):
        if use is not None and row["use"] != use:
            continue
        number = {name: int(text) for name, text in row.items() if text.isdigit()}
        model = ModelShape(
            *(number[k] for k in ("layers", "hidden", "heads", "vocab", "seq_len")),
            row["dtype"],
            feed_forward_size=number.get("ffn"),
            kv_heads=number.get("kv_heads"),
            gated=row["gated"] == "1",
            experts=number.get("experts", 1),
            experts_per_token=number.get("experts_per_token", 1),
        )
        cut = Parallelism(
            *(number[k] for k in ("tp", "pp", "dp", "cp", "ep")),
            micro_batch_size=number["micro_batch"],
            global_batch_size=number["global_batch"],
            interleave=number["interleave"],
            sequence_parallel=row["sequence_parallel"] == "1",
            recompute=row["recompute"],
            zero_stage=number["zero_stage"],
        )
        predicted = step(find_chip(row["chip"]), model, cut, 8, number["scaleout_GBps"] * 1e9)
        result.append((row, float(row["measured_s"]), predicted))
    return result
