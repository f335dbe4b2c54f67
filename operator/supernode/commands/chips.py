"""`supernode chips`: the chip catalogue as a table that fits a terminal, or as JSON with every source."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from supernode.chips import DTYPES, Chip, chip_to_mapping, find_chip, load_catalogue
from supernode.commands.documents import FORMATS, document

# Most telling first: what does not fit the terminal's width is left out from the right.
_COLUMNS = ("NAME", "BF16", "F32", "MEM", "BW", "LINK", "JOINED", "OUT", "F16", "FP8", "RESOURCE")
_LEGEND = """
BF16, F32, F16, FP8: peak TFLOPS. MEM: GiB. GB/s: BW memory, LINK scale-up,
OUT scale-out (both one way). JOINED: devices that the scale-up links join.
*: seen only in a third party's text. -: not known; a chipSpec gives it.
`supernode chips NAME` tells everything and every source."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("name", nargs="*", help="name or alias of a chip: tell all about it (default: a table of all)")
    parser.add_argument("-o", "--output", choices=FORMATS, default="table", help="form of the answer (default: table)")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; an unknown name is an InputError."""
    chips = [find_chip(name) for name in args.name] or list(load_catalogue().values())
    if args.output != "table":
        print(document([as_dict(chip) for chip in chips], args.output))
    elif args.name:
        print("\n\n".join(describe(chip) for chip in chips))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table([_COLUMNS, *(_row(chip) for chip in chips)], width))
        print(_LEGEND)
    return 0


def as_dict(chip: Chip) -> dict[str, object]:
    """Everything that is known of a chip, in the words of `chipSpec`, with a source for each figure."""
    return {
        **chip_to_mapping(chip),
        "vendor": chip.vendor,
        "model": chip.model,
        "aliases": list(chip.aliases),
        "computeUnits": chip.compute_units,
        "wavefront": chip.wavefront,
        "tdpWatts": chip.tdp_watts,
        "architecture": chip.architecture,
        "link": chip.link,
        "hostLink": chip.host_link,
        "note": chip.note,
        "sources": {name: source._asdict() for name, source in chip.sources.items()},
    }


def describe(chip: Chip) -> str:
    """One chip, a figure a line, each with confidence and source."""
    lines = [f"{chip.name}: {chip.vendor} {chip.model}", f"  aliases: {', '.join(chip.aliases)}"]
    for name, source in chip.sources.items():
        if name.startswith("tflops."):
            value = f"{chip.tflops[name.removeprefix('tflops.')]:g} TFLOPS"
        else:
            value = _value(name, getattr(chip, name))
        lines.append(f"  {name.replace('_', ' ')}: {value}  [{source.confidence}: {source.text}]")
    missing = [dtype for dtype in DTYPES if dtype not in chip.tflops]
    if missing:
        lines.append(f"  not known: peak in {', '.join(missing)}")
    if chip.note:
        lines.append(f"  note: {chip.note}")
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows as left-aligned columns, two spaces apart; columns beyond `width` characters are left out."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = len(widths)
    while width is not None and shown > 1 and sum(widths[:shown]) + 2 * (shown - 1) > width:
        shown -= 1
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row[:shown], widths, strict=False)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(chip: Chip) -> tuple[str, ...]:
    def cell(value: float | None, source: str) -> str:
        if value is None:
            return "-"
        mark = "" if chip.sources[source].confidence == "verified" else "*"
        return f"{value:g}{mark}"

    def peak(dtype: str) -> str:
        return cell(chip.tflops.get(dtype), f"tflops.{dtype}")

    def scaled(value: float | None, unit: float) -> float | None:
        return None if value is None else value / unit

    return (
        chip.name,
        peak("bf16"),
        peak("f32"),
        cell(scaled(chip.memory_bytes, 2**30), "memory_bytes"),
        cell(scaled(chip.memory_bandwidth, 1e9), "memory_bandwidth"),
        cell(scaled(chip.link_bandwidth, 1e9), "link_bandwidth"),
        cell(chip.link_domain, "link_domain"),
        cell(scaled(chip.scale_out_bandwidth, 1e9), "scale_out_bandwidth"),
        peak("f16"),
        peak("fp8"),
        chip.resource_names[0] if chip.resource_names else "-",
    )


def _value(name: str, value: object) -> str:
    if name == "memory_bytes" and isinstance(value, int):
        return f"{value / 2**30:g} GiB"
    if name.endswith("bandwidth") and isinstance(value, float):
        return f"{value / 1e9:g} GB/s"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)
