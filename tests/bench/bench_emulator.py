"""The emulated device beside what it is measured by, each pair in one run, alternating, best of several.

The parts are modules beside this file, each with `cases() -> Iterable[Case]`: `emulator_runtime` (launches, copies,
fused chains, the GPT), `emulator_kernels` (operators beside plain NumPy), `emulator_collectives` (collectives beside
another library's). Each part runs in a process of its own with one BLAS thread, as the sidecar has, and those that are
not there are left out. A part alone: `python -m tests.bench.bench_emulator emulator_runtime`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.bench.case import Case

PARTS = ("emulator_runtime", "emulator_kernels", "emulator_collectives")
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cases() -> Iterable[Case]:
    """The cases of all parts that are there, in the order of `PARTS`."""
    for part in PARTS:
        if (Path(__file__).parent / f"{part}.py").exists():
            yield from run_part(part)


def run_part(part: str) -> Iterator[Case]:
    """The cases of one part, as they come.

    Raises:
        RuntimeError: the part ended with an error.
    """
    command = [sys.executable, "-m", "tests.bench.bench_emulator", part]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}) as child:
        if child.stdout is None:
            raise RuntimeError("no pipe to the part")
        for line in child.stdout:
            yield Case(**json.loads(line))
    if child.returncode:
        raise RuntimeError(f"{part} ended with status {child.returncode}")


def main(part: str) -> None:
    """Run one part in this process; one JSON object a line."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.bench.bench_emulator", part], {**os.environ, **ONE_THREAD}
        )
    for case in importlib.import_module(f"tests.bench.{part}").cases():
        print(json.dumps(asdict(case)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
