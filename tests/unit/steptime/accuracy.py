"""The figures of docs/step-time.md, its picture and the page of constants, made from the model and the published rows.

`python -m tests.unit.steptime.accuracy` from the repository's root writes them; test_steptime_page compares.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import fields
from io import StringIO
from math import log10
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.unit.steptime import published

from supernode.cli import main as main_of_supernode
from supernode.steptime import calibration
from supernode.steptime.family import Family

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "step-time.md"
PICTURE = ROOT / "docs" / "images" / "step-time.svg"
CONSTANTS = ROOT / "docs" / "step-time-constants.md"
BEGIN, END = "<!-- accuracy: python -m tests.unit.steptime.accuracy -->", "<!-- end of accuracy -->"
BEGIN_EXAMPLE, END_EXAMPLE = "<!-- example: python -m tests.unit.steptime.accuracy -->", "<!-- end of example -->"
EXAMPLE = """\
model,layers,hidden,heads,kv_heads,ffn,gated,vocab,seq_len,tp,pp,interleave,sequence_parallel,zero_stage,global_batch,chip,devices
70B,80,8192,64,8,28672,1,128256,8192,8,4,5,1,1,128,nvidia-h100-80g-sxm,64
"""

#: Source -> what it is, in the order of the table.
RUNS = {
    "narayanan2021": "Narayanan et al. 2021, A100, 32 to 3,072 devices",
    "megascale": "MegaScale's Megatron-LM runs, A100, 256 to 12,288",
    "mpt-a100": "MPT, fully sharded, A100, 8 to 64",
    "mpt-h100": "MPT, fully sharded, H100, 8 to 512",
    "megatron-h100": "Megatron-LM's README, H100, 48 to 6,144",
    "llama3": "Llama 3 405B, H100, 8,192 and 16,384",
    "bridge-fp8": "Llama 3 in fp8 (Megatron-Bridge), H100, 8 to 1,024",
    "moe-folding": "mixtures of experts (Megatron-Core), H100, 128 to 1,024",
    "mindspeed": "Llama 2 and 175B (MindSpeed-LLM), Ascend 910B, 8 to 4,096",
    "pangu-ultra": "Pangu Ultra 135B, Ascend 910B, 8,192",
}
COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#66a61e", "#d55e00", "#a6761d", "#e6ab02", "#cc79a7", "#7570b3", "#444444")


def accuracy_table() -> str:
    """Rows and errors of everything that is compared."""
    lines = ["| measured | rows | of them fitted | mean error | largest |", "|---|---|---|---|---|"]

    def line(name: str, pairs: Iterable[tuple[float, float]], fitted: int | str) -> None:
        errors = [abs(predicted / measured - 1) * 100 for predicted, measured in pairs]
        mean = sum(errors) / len(errors)
        lines.append(f"| {name} | {len(errors)} | {fitted} | {mean:.1f} % | {max(errors):.0f} % |")

    steps = [(predicted, measured) for _, predicted, measured in published.korthikanti_steps()]
    line("Korthikanti et al. 2022, A100, 8 to 2,240 devices", steps, len(steps))
    layers = [(predicted, measured) for _, predicted, measured in published.korthikanti_layers()]
    line("the same, table 4: one layer, forward and backward", layers, len(layers))
    line("Megatron-LM 2020, V100", [(p, m) for _, _, p, m in published.megatron("V100")], 3)
    line("Megatron-LM 2020, A100, 1 to 1,024", [(p, m) for _, _, p, m in published.megatron("A100")], 0)
    runs = published.large_runs()
    for source, name in RUNS.items():
        rows = [(row, predicted.seconds, measured) for row, measured, predicted in runs if row["source"] == source]
        line(name, [(p, m) for _, p, m in rows], sum(row["use"] == "fitted" for row, _, _ in rows))
    reduces = [(row, predicted, measured) for row, predicted, measured in published.all_reduces()]
    for least, most, name in ((2**26, 2**40, "all-reduce from 64 MiB"), (2**20, 2**20, "all-reduce of 1 MiB")):
        sized = [one for one in reduces if least <= int(one[0]["size_bytes"]) <= most]
        plain = [one for one in sized if not published.odd(one[0])]
        chips = "H100, H200, B200, MI300X"
        line(f"{name}, {chips}: every row", [(p, m) for _, p, m in sized], "links")
        line(f"the same without the {len(sized) - len(plain)} named below", [(p, m) for _, p, m in plain], "links")
    line("all-to-all of 8 to 64 H100", [(p, m) for _, p, m in published.expert_exchanges()], "links")
    for nbytes, name in ((2**30, "1 GiB"), (2**20, "1 MiB")):
        bus = [(p, m) for kind, _, p, m in published.bw1000_bus(nbytes) if kind == "all_reduce"]
        line(f"all-reduce of {name}, BW1000", bus, "links")
    return "\n".join(lines)


def odd_table() -> str:
    """All-reduces that contradict other rows of their own system."""
    lines = ["| all-reduce | measured | predicted | why it is odd |", "|---|---|---|---|"]
    for row, predicted, measured in published.all_reduces():
        size, why = int(row["size_bytes"]), published.odd(row)
        if why and (size >= 2**26 or size == 2**20):
            where = f"{row['nodes']} x {int(row['gpus']) // int(row['nodes'])} {row['chip']}, {row['system']}"
            lines.append(f"| {where}, {size >> 20} MiB | {measured:.0f} GB/s | {predicted:.0f} GB/s | {why} |")
    return "\n".join(lines)


def picture() -> str:
    """Predicted over measured seconds of every run, as SVG."""
    points = [
        ("Korthikanti et al. 2022", predicted, measured) for _, predicted, measured in published.korthikanti_steps()
    ]
    points += [("Megatron-LM 2020, V100", p / 1e3, m / 1e3) for _, _, p, m in published.megatron("V100")]
    points += [(RUNS[row["source"]], found.seconds, measured) for row, measured, found in published.large_runs()]
    names = list(dict.fromkeys(name for name, _, _ in points))
    colours = dict(zip(names, (*COLOURS, "#e41a1c", "#999999"), strict=False))
    low, high, left, top, side = -0.5, 2.7, 60, 20, 480

    def at(seconds: float) -> float:
        return (log10(seconds) - low) / (high - low) * side

    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1020 560" font-family="sans-serif" font-size="13">',
        "<title>Predicted and measured seconds of a training step</title>",
        '<rect width="1020" height="560" fill="#ffffff"/>',
        f'<clipPath id="area"><rect x="{left}" y="{top}" width="{side}" height="{side}"/></clipPath>',
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#888888"/>',
    ]
    for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 400):
        x, y = left + at(tick), top + side - at(tick)
        out.append(f'<path d="M{x:.1f} {top}V{top + side}M{left} {y:.1f}H{left + side}" stroke="#eeeeee"/>')
        out.append(f'<text x="{x:.1f}" y="{top + side + 18}" text-anchor="middle" fill="#333333">{tick}</text>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#333333">{tick}</text>')
    for share, style in ((1.0, ""), (1.1, ' stroke-dasharray="4 4"'), (1 / 1.1, ' stroke-dasharray="4 4"')):
        ends = (10**low, 10**high)
        path = "L".join(f"{left + at(x):.1f} {top + side - at(x * share):.1f}" for x in ends)
        out.append(f'<path d="M{path}" stroke="#888888" fill="none" clip-path="url(#area)"{style}/>')
    for name, predicted, measured in points:
        x, y = left + at(measured), top + side - at(predicted)
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colours[name]}" fill-opacity="0.8"/>')
    middle = left + side / 2
    out.append(f'<text x="{middle}" y="{top + side + 40}" text-anchor="middle" fill="#333333">measured, seconds</text>')
    turn = f"rotate(-90 18 {top + side / 2})"
    out.append(
        f'<text x="18" y="{top + side / 2}" text-anchor="middle" fill="#333333" transform="{turn}">predicted</text>'
    )
    for place, name in enumerate(names):
        y = top + 20 + 24 * place
        out.append(f'<circle cx="560" cy="{y - 4}" r="5" fill="{colours[name]}"/>')
        out.append(f'<text x="574" y="{y}" fill="#333333">{name}</text>')
    out.append(f'<text x="560" y="{top + 40 + 24 * len(names)}" fill="#666666">dashed: 10 % off</text>')
    return "\n".join([*out, "</svg>", ""])


def constants() -> str:
    """The page of constants: one table, and the sources by family."""
    families = calibration.FAMILIES
    skipped = {"name", "chips", "sources"}
    lines = [
        "# Calibration constants of the step-time model",
        "",
        "Made from `steptime/calibration.py` by `python -m tests.unit.steptime.accuracy`; what each constant means",
        "stands in `steptime/family.py`, and how they are used in [step-time.md](step-time.md). Latencies and launches",
        "are in microseconds.",
        "",
        "| constant | " + " | ".join(one.name for one in families) + " |",
        "|---" * (len(families) + 1) + "|",
    ]
    for field in fields(Family):
        if field.name not in skipped:
            cells = (_cell(field.name, getattr(one, field.name)) for one in families)
            lines.append(f"| `{field.name}` | " + " | ".join(cells) + " |")
    lines += ["", "## Common to all families", "", "| constant | value |", "|---|---|"]
    for name in sorted(vars(calibration)):
        value = getattr(calibration, name)
        if name.isupper() and isinstance(value, int | float) and not name.startswith("ASSUMED"):
            lines.append(f"| `{name}` | {value:g} |")
    for one in families:
        lines += ["", f"## {one.name}", "", f"Chips: {', '.join(one.chips) or 'all others'}.", ""]
        lines += [f"- `{name}`: {source}." for name, source in one.sources.items()]
    return "\n".join([*lines, ""])


def _cell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{part:g}" for part in value)
    if name == "reserved":
        return f"{value / 2**30:g} GiB"  # type: ignore[operator]
    if name.endswith(("latency", "launch")):
        return f"{value * 1e6:g}"  # type: ignore[operator]
    return "-" if value is None else f"{value:g}"


def example() -> str:
    """A file of one job, and what the command says of it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.csv"
        path.write_text(EXAMPLE, encoding="utf-8")
        out = StringIO()
        with redirect_stdout(out):
            status = main_of_supernode(["predict", "--csv", str(path), "--json"])
    said = json.dumps(_rounded(json.loads(out.getvalue())), indent=1)
    # One line for each of the two lists of parts.
    said = re.sub(r"\{\s+([^{}]+?)\s+\}", lambda found: "{" + re.sub(r"\s*\n\s*", " ", found[1]) + "}", said[1:-1])
    shown = f"$ cat jobs.csv\n{EXAMPLE}$ supernode predict --csv jobs.csv --json\n{{{said}}}\n"
    return f"```console\n{shown}```" if status == 0 else f"exit status {status}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def page(text: str) -> str:
    """The page with its generated parts renewed."""
    text = _between(text, BEGIN, END, f"{accuracy_table()}\n\n{odd_table()}")
    return _between(text, BEGIN_EXAMPLE, END_EXAMPLE, example())


def _between(text: str, begin: str, end: str, made: str) -> str:
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{made}\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    """Write all three."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
    CONSTANTS.write_text(constants(), encoding="utf-8")


if __name__ == "__main__":
    main()
