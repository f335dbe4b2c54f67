"""The catalogue of chips: reads `catalogue.toml` once and finds chips by name or alias.

In: the data file of this package. Out: `Chip` values by name. A file that breaks its own rules is an error at load.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from supernode.chips.chip import GIB, GIGA, Chip, Source
from supernode.errors import ChipError

# Figure in the file -> (attribute of `Chip`, factor to its unit).
_NUMBERS: Final[dict[str, tuple[str, float]]] = {
    "memory_gib": ("memory_bytes", GIB),
    "memory_gbps": ("memory_bandwidth", float(GIGA)),
    "link_gbps": ("link_bandwidth", float(GIGA)),
    "link_domain": ("link_domain", 1),
    "scale_out_gbit": ("scale_out_bandwidth", GIGA / 8),
    "compute_units": ("compute_units", 1),
    "wavefront": ("wavefront", 1),
    "tdp_watts": ("tdp_watts", 1.0),
}
_PEAKS: Final[dict[str, str]] = {
    **{f"{dtype}_tflops": dtype for dtype in ("f64", "f32", "tf32", "bf16", "f16", "fp8")},
    "int8_tops": "int8",
}
_TEXTS: Final = ("architecture", "link", "host_link")
_CONFIDENCES: Final = ("verified", "secondary")


@functools.cache
def load_catalogue() -> Mapping[str, Chip]:
    """Every chip of the catalogue by name, in the file's order.

    Raises:
        ChipError: the file breaks its own rules (which a test rules out for the one that is shipped).
    """
    text = resources.files("supernode.chips").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return MappingProxyType(parse_catalogue(text))


def parse_catalogue(text: str) -> dict[str, Chip]:
    """The chips of a catalogue file's text, by name.

    Raises:
        ChipError: not TOML, a name twice, an unknown figure, confidence or source.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ChipError(f"the chip catalogue is not TOML: {exc}") from exc
    citations: dict[str, str] = document.get("sources", {})
    chips: dict[str, Chip] = {}
    for entry in document.get("chip", []):
        chip = _chip(entry, citations)
        if chip.name in chips:
            raise ChipError(f"chip {chip.name} stands twice in the catalogue")
        chips[chip.name] = chip
    return chips


def find_chip(name: str) -> Chip:
    """The chip of that name or alias; letter case, spaces, `-` and `_` make no difference.

    Raises:
        ChipError: no such chip (lists near names), or an alias of several chips (lists them).
    """
    catalogue = load_catalogue()
    if name in catalogue:
        return catalogue[name]
    index = _aliases()
    found = index.get(_plain(name), ())
    if len(found) == 1:
        return catalogue[found[0]]
    if found:
        raise ChipError(f"{name!r} names several chips: {', '.join(found)}; write one of these")
    wanted = _plain(name)
    near = difflib.get_close_matches(wanted, index, n=5, cutoff=0.5)
    near += [alias for alias in index if wanted and wanted in alias]
    names = list(dict.fromkeys(chip for alias in near for chip in index[alias]))[:5]
    advice = f"did you mean {' or '.join(names)}?" if names else "`supernode chips` lists the known ones."
    raise ChipError(f"no chip {name!r} in the catalogue; {advice} A chip of your own is described by chipSpec")


@functools.cache
def _aliases() -> Mapping[str, tuple[str, ...]]:
    """Plain form of every name, model and alias -> names of the chips it may mean."""
    index: dict[str, list[str]] = {}
    for chip in load_catalogue().values():
        for alias in {_plain(text) for text in (chip.name, chip.model, *chip.aliases)}:
            index.setdefault(alias, []).append(chip.name)
    return {alias: tuple(names) for alias, names in index.items()}


def _plain(name: str) -> str:
    return re.sub(r"[\s_.()-]+", "-", name.casefold()).strip("-")


def _chip(entry: dict[str, Any], citations: Mapping[str, str]) -> Chip:
    name = entry.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ChipError(f"a chip's name must be lower-case words joined by '-', found {name!r}")
    tflops: dict[str, float] = {}
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for figure, row in entry.get("figures", {}).items():
        attribute, value = _figure(name, figure, row)
        if attribute.startswith("tflops."):
            tflops[_PEAKS[figure]] = value
        else:
            values[attribute] = value
        sources[attribute] = _source(name, figure, row, citations)
    return Chip(
        name=name,
        vendor=entry["vendor"],
        model=entry["model"],
        aliases=tuple(entry.get("aliases", ())),
        note=entry.get("note", ""),
        sixteen_bit_alike=entry.get("sixteen_bit_alike", False),
        tflops=tflops,
        sources=sources,
        **values,
    )


def _figure(chip: str, figure: str, row: Mapping[str, Any]) -> tuple[str, Any]:
    """Attribute of `Chip` (or `tflops.<dtype>`) and value in its unit."""
    value = row.get("value")
    if figure == "resource_names":
        return figure, tuple(value or ())
    if figure in _TEXTS:
        return figure, str(value)
    peak = figure in _PEAKS
    if not peak and figure not in _NUMBERS:
        raise ChipError(f"chip {chip} has an unknown figure {figure!r} in the catalogue")
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or (value == 0 and not peak):
        raise ChipError(f"figure {figure} of chip {chip} must be a positive number, found {value!r}")
    if peak:
        return f"tflops.{_PEAKS[figure]}", float(value)
    attribute, factor = _NUMBERS[figure]
    return attribute, value * factor


def _source(chip: str, figure: str, row: Mapping[str, Any], citations: Mapping[str, str]) -> Source:
    confidence, keys = row.get("confidence"), row.get("sources") or []
    unknown = [key for key in keys if key not in citations]
    if confidence not in _CONFIDENCES or not keys or unknown:
        raise ChipError(
            f"figure {figure} of chip {chip} needs a confidence of {' or '.join(_CONFIDENCES)} and known sources, "
            f"found {confidence!r} and {keys!r}"
        )
    return Source(str(confidence), "; ".join(citations[key] for key in keys))
