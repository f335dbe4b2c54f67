"""Every flag and variable of the sidecar is in docs/emulator.md, every metric in docs/metrics.md, nothing else is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from supernode import names
from supernode.commands import emulator
from supernode.emulator import client
from supernode.emulator.kernels import TABLE
from supernode.emulator.metrics import METRICS

TEXT = (Path(__file__).parents[3] / "docs/emulator.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_flags() -> None:
    parser = argparse.ArgumentParser()
    emulator._add_settings(parser)
    flags = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
    assert set(re.findall(r"^\| `(--[a-z-]+)`", section("Settings"), re.MULTILINE)) == flags


def test_variables() -> None:
    written = set(re.findall(r"`((?:SUPERNODE|HIP)_[A-Z_]+)`", TEXT))
    known = {value for name, value in vars(names).items() if name.startswith("ENV_")}
    used = {
        *(names.ENV_CHIP, names.ENV_DEVICES, names.ENV_SOCKET, names.ENV_RANK, names.ENV_WORKERS, names.ENV_ATTEMPT),
        *(names.ENV_RENDEZVOUS, names.ENV_POD_IP, names.ENV_FABRIC_TIMEOUT, names.ENV_FABRIC_SECRET),
        *(names.ENV_TOPOLOGY, names.ENV_VISIBLE_DEVICES, names.ENV_DEVICE_CORES, names.ENV_DEVICE_MEMORY),
        *(names.ENV_FABRIC_TRANSPORT, names.ENV_TRACE_EVENTS),
    }
    assert written == used <= known


def test_metrics() -> None:
    shown = {f"{name}_total" if figure.kind == "counter" else name for name, figure in METRICS.items()}
    page = (Path(__file__).parents[3] / "docs/metrics.md").read_text().split("## Emulator sidecar")[1]
    assert set(re.findall(r"^\| `(supernode_[a-z_]+)`", page, re.MULTILINE)) == shown


def test_the_clients_help_names_every_kernel_a_gpt_needs() -> None:
    words = set(re.findall(r"[a-z_]+", client.__doc__ or ""))
    families = (
        "activation",
        "matmul",
        "normalise",
        "attention",
        "loss",
        "embedding",
        "optimizer",
        "creation",
        "layout",
    )
    named = {kernel.name for family in families for kernel in TABLE.families[family]}
    # What a GPT can do without.
    others = {"relu_backward", "tanh_backward", "rms_norm", "rms_norm_backward", "sgd", "attention_packed"}
    others |= {"attention_packed_backward", "matmul_backward", "silu", "silu_backward", "swiglu", "swiglu_backward"}
    assert named - words <= others


def test_the_clients_help_gives_kernels_attributes_that_they_have() -> None:
    text = client.__doc__ or ""
    calls = re.findall(r"\b([a-z_]+)\(([^()]*)\)", text[text.index("Kernels (attributes") :])
    named = {
        (name, key) for name, inside in calls if name in TABLE.kernels for key in re.findall(r"([a-z_0-9]+)=", inside)
    }
    assert len(named) > 40
    assert [pair for pair in sorted(named) if pair[1] not in TABLE.kernels[pair[0]].attributes] == []
