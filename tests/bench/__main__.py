"""`make bench`: runs the benchmarks beside this file, or those named (`make bench ONLY=placement`).

A benchmark is a module `bench_NAME.py` with `cases() -> Iterable[Case]`. Each case is one JSON object a line, printed
and written to build/bench/NAME.jsonl. Figures are for people to compare, never for tests to assert.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = Path("build/bench")


def load(path: Path):
    """The benchmark module at `path`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; 2 for an unknown name."""
    known = {path.stem.removeprefix("bench_").replace("_", "-"): path for path in sorted(HERE.glob("bench_*.py"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in names or known:
        with (OUTPUT / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for case in load(known[name]).cases():
                line = json.dumps(asdict(case))
                print(line, flush=True)
                file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
