"""Steps of the demo's program as the emulator measures them and as they are predicted, part by part, for several cuts.

`python -m tests.wire.demo.agreement` from the repository's root runs all of them and writes the table of
docs/time-and-traces.md; test_demo_agreement compares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from supernode.chips import find_chip
from supernode.demo.cut import Cut
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.fabric.topology import read_topology
from supernode.emulator.server import Server, ServerConfig
from supernode.emulator.trace import COLLECTIVE, KERNEL, Entry
from supernode.names import ENV_PARALLELISM
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.wiring import wiring_of

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "time-and-traces.md"
BEGIN, END = "<!-- table: python -m tests.wire.demo.agreement -->", "<!-- end of table -->"
#: Of the parts that are compared; `pipeline` takes in what is left: waits for a batch, for a stage, for nobody.
PARTS = ("compute", "tensor", "pipeline", "data", "optimizer")
STEPS = 4


@dataclass(frozen=True)
class Job:
    """A GPT on one pod's devices, cut in some way."""

    name: str
    cut: Parallelism = field(default_factory=Parallelism)
    chip: str = "hygon-bw1000"
    model: ModelShape = field(default_factory=lambda: ModelShape(2, 64, 4, 256, 64))

    @property
    def launches(self) -> int:
        """Kernels that the prediction counts on the last stage in a step, but for the update."""
        cut, layers = self.cut, self.model.layers // self.cut.pipeline
        around = 7 + 2 * (cut.tensor > 1) + 2 * (cut.pipeline == 1)
        return cut.micro_batches * (around + layers * (24 + 10 * (cut.recompute == "Full")))


def a_cut(tensor: int = 1, pipeline: int = 1, data: int = 1, micro: int = 8, **more: object) -> Parallelism:
    """8 sequences for each replica and step, `micro` of them at once."""
    more = {"micro_batch_size": micro, "global_batch_size": 8 * data, **more}
    return Parallelism(tensor, pipeline, data, **more)  # type: ignore[arg-type]


_WIDE = ModelShape(4, 256, 8, 256, 128)
#: The rows of the table.
JOBS = (
    Job("one device", a_cut()),
    Job("four micro batches", a_cut(micro=2)),
    Job("data 4", a_cut(data=4)),
    Job("data 4, state of the optimizer shared", a_cut(data=4, zero_stage=1)),
    Job("pipeline 2, four micro batches", a_cut(pipeline=2, micro=2)),
    Job("tensor 2", a_cut(2)),
    Job("tensor 4", a_cut(4)),
    Job("tensor 2, sequence parallel", a_cut(2, sequence_parallel=True)),
    Job("tensor 2, all recomputed", a_cut(2, recompute="Full")),
    Job("tensor 2, pipeline 2, data 2, four micro batches", a_cut(2, 2, 2, micro=2)),
    Job("data 2, f32, A100", a_cut(data=2), "nvidia-a100-80g-sxm", ModelShape(2, 64, 4, 256, 64, "f32")),
    Job("tensor 2, sequence parallel, H100", a_cut(2, sequence_parallel=True), "nvidia-h100-80g-sxm"),
    Job("4 layers of 256, tensor 2, pipeline 2, four micro batches", a_cut(2, 2, micro=2), model=_WIDE),
)


@dataclass(frozen=True)
class Measured:
    """A step of one device, in seconds; `launches`: of kernels that take time, without the update."""

    seconds: float
    parts: dict[str, float]
    launches: int


def predicted(job: Job) -> StepTime:
    """The prediction, over the links that the sidecar has."""
    chip = find_chip(job.chip)
    levels = read_topology(None, workers=1, devices=job.cut.devices, chip=chip).levels
    wiring = wiring_of(levels, np.zeros((len(levels), 1), dtype=np.int64), job.cut, job.cut.devices)
    return predict(chip, job.model, job.cut, wiring)


def measured(job: Job) -> Measured:
    """The last of some steps of the program on the last stage's last device, by its trace.

    Raises:
        RuntimeError: the program failed; with its words.
    """
    chip, cut, model = find_chip(job.chip), job.cut, job.model
    with TemporaryDirectory(prefix="sn-") as folder:
        path = Path(folder) / "e.sock"
        fabric = FabricConfig(0, 1, cut.devices, chip=chip)
        server = Server(ServerConfig(chip, cut.devices, path, fabric, http_port=None))
        server.start()
        try:
            words = {
                "tensor": cut.tensor,
                "pipeline": cut.pipeline,
                "data": cut.data,
                "microBatchSize": cut.micro_batch_size,
                "globalBatchSize": cut.batch,
                "sequenceParallel": cut.sequence_parallel,
                "recompute": cut.recompute,
                "zeroStage": cut.zero_stage,
            }
            variables = {name: value for name, value in os.environ.items() if not name.startswith("SUPERNODE_")}
            variables |= {
                "SUPERNODE_EMULATOR_SOCKET": str(path),
                ENV_PARALLELISM: json.dumps(words),
                "OMP_NUM_THREADS": "1",
            }
            size = [f"--layers={model.layers}", f"--hidden={model.hidden_size}", f"--heads={model.attention_heads}"]
            size += [f"--sequence={model.sequence_length}", f"--dtype={model.dtype}", "--corpus-bytes=100000"]
            command = [sys.executable, "-m", "supernode.demo.train", f"--steps={STEPS}", *size]
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=150)
            if done.returncode:
                raise RuntimeError(done.stderr)
            seconds = float(server.progress.snapshot()["stepSeconds"])
            return _last_step(server.devices[-1].trace.entries(), cut, seconds)
        finally:
            server.stop()


def _last_step(entries: Sequence[Entry], cut: Parallelism, seconds: float) -> Measured:
    """Parts of the last step: between the ends of two updates."""
    cut_of_ranks = Cut(cut.tensor, cut.pipeline, cut.data)
    place = cut_of_ranks.place(cut.devices - 1)
    kinds = {str(list(cut_of_ranks.tensor_ranks(place))): "tensor", str(list(cut_of_ranks.data_ranks(place))): "data"}
    begin, end = [entry.end for entry in entries if entry.name == "adamw"][-2:]
    # With a shared optimizer the weights are gathered after the update: to the next step's first kernel.
    parts, launches = dict.fromkeys(PARTS, 0.0), 0
    for entry in entries:
        if not begin <= entry.start < entry.end <= end:
            continue
        if entry.kind == KERNEL:
            parts["optimizer" if entry.name == "adamw" else "compute"] += entry.end - entry.start
            launches += entry.name != "adamw"
        elif entry.kind == COLLECTIVE and len(entry.detail["group"]) > 3 and entry.detail["count"] > 1:
            name = kinds.get(entry.detail["group"])
            if name is not None:
                parts[name] += entry.end - entry.start
    parts["pipeline"] = seconds - sum(parts.values())
    return Measured(seconds, parts, launches)


def rows(jobs: Iterable[Job] = JOBS) -> list[tuple[Job, StepTime, Measured]]:
    """All jobs, predicted and measured."""
    return [(job, predicted(job), measured(job)) for job in jobs]


def table(found: Iterable[tuple[Job, StepTime, Measured]]) -> str:
    """Two lines a job, in microseconds."""
    lines = ["| cut | | step | kernels | tensor | pipeline, waits | data | update | launches |", "|---" * 9 + "|"]
    for job, step, run in found:
        cells = [f"{getattr(step.parts, name) * 1e6:.0f}" for name in PARTS]
        lines.append(f"| {job.name} | predicted | {step.seconds * 1e6:.0f} | {' | '.join(cells)} | {job.launches} |")
        cells = [f"{run.parts[name] * 1e6:.0f}" for name in PARTS]
        off = f"{run.seconds / step.seconds - 1:+.1%}".replace("%", " %")
        lines.append(f"| {off} | measured | {run.seconds * 1e6:.0f} | {' | '.join(cells)} | {run.launches} |")
    return "\n".join(lines)


def page(text: str, made: str) -> str:
    """The page with its table renewed."""
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Write the table."""
    made = table(rows())
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
