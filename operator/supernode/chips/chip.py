"""One accelerator's figures as a frozen value, and the same from and to the fields of `chipSpec`.

All rates are per device and peak; what a program reaches is `steptime`'s business. A missing figure is None or an
absent key, and asking for it by `peak_flops` or `figure` is an error that says what to write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from supernode.errors import ChipError

# Number formats a peak may be given for; int8 counts operations, the others floating-point operations.
DTYPES: Final = ("f64", "f32", "tf32", "bf16", "f16", "fp8", "int8")
GIB: Final = 2**30
GIGA: Final = 10**9
TERA: Final = 10**12

# Field of `chipSpec` -> (attribute of `Chip`, factor to its unit). Resource names and peaks are handled apart.
_SPEC_NUMBERS: Final[dict[str, tuple[str, int]]] = {
    "memoryGiB": ("memory_bytes", GIB),
    "memoryGBps": ("memory_bandwidth", GIGA),
    "linkGBps": ("link_bandwidth", GIGA),
    "linkDomain": ("link_domain", 1),
    "scaleOutGBps": ("scale_out_bandwidth", GIGA),
}
_WHOLE: Final = frozenset({"memory_bytes", "link_domain"})
_SPEC_FIELDS: Final = frozenset({"name", "tflops", "resourceNames", *_SPEC_NUMBERS})
_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class Source(NamedTuple):
    """Where a figure was seen: `verified` (a vendor's own text), `secondary` (another's) or `user` (a chipSpec)."""

    confidence: str
    text: str


_NO_SOURCES: Final[Mapping[str, Source]] = MappingProxyType({})


@dataclass(frozen=True)
class Chip:
    """Figures of one accelerator.

    Equal when every figure is equal; hashed by name, so that it can be a key.

    Attributes:
        name: catalogue name such as `hygon-bw1000`, or the user's own.
        resource_names: names under which Kubernetes counts the device, the one that pods request first.
        tflops: peak per format of `DTYPES`, in 10^12 operations a second; 0 means that the chip lacks the format.
        memory_bytes: device memory.
        memory_bandwidth: bytes/s.
        link_bandwidth: bytes/s in one direction over all scale-up links of the device.
        link_domain: devices that the scale-up links join.
        scale_out_bandwidth: bytes/s in one direction to the network between nodes.
        wavefront: threads that execute together.
        architecture: the compiler's name of the chip, such as `gfx936`.
        sixteen_bit_alike: bf16 and f16 run at one rate, so that either stands in for the other.
        sources: figure (attribute name, or `tflops.bf16`) -> where it was seen.
    """

    name: str
    vendor: str = ""
    model: str = ""
    aliases: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    tflops: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    memory_bytes: int | None = None
    memory_bandwidth: float | None = None
    link_bandwidth: float | None = None
    link_domain: int | None = None
    scale_out_bandwidth: float | None = None
    compute_units: int | None = None
    wavefront: int | None = None
    tdp_watts: float | None = None
    architecture: str = ""
    link: str = ""
    host_link: str = ""
    note: str = ""
    sixteen_bit_alike: bool = False
    sources: Mapping[str, Source] = field(default_factory=lambda: _NO_SOURCES, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tflops", MappingProxyType(dict(self.tflops)))
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    def __hash__(self) -> int:
        return hash(self.name)

    def peak_flops(self, dtype: str) -> float:
        """Peak operations a second in `dtype`, one of `DTYPES`.

        bf16 and f16 stand in for each other only where the catalogue says that they run at one rate.

        Raises:
            ChipError: no such format, the chip lacks it, or its peak is not known.
        """
        if dtype not in DTYPES:
            raise ChipError(f"no peak is kept for dtype {dtype!r}; the formats are {', '.join(DTYPES)}")
        value = self.tflops.get(dtype)
        if value is None and self.sixteen_bit_alike and dtype in ("bf16", "f16"):
            value = self.tflops.get("f16" if dtype == "bf16" else "bf16")
        if value is None:
            known = ", ".join(d for d in DTYPES if self.tflops.get(d)) or "none"
            raise ChipError(
                f"the {dtype} peak of chip {self.name} is not known (known: {known}); "
                f"give it in chipSpec: {{name: {self.name}, tflops: {{{dtype}: <TFLOPS>}}, ...}}"
            )
        if value == 0:
            raise ChipError(f"chip {self.name} does not compute in {dtype}; choose another dtype")
        return value * TERA

    def figure(self, attribute: str) -> float:
        """A figure that must be known: `memory_bytes`, `memory_bandwidth`, `link_bandwidth` and so on.

        Raises:
            ChipError: the figure is not known; says which field of `chipSpec` gives it.
        """
        value = getattr(self, attribute)
        if value is None:
            spec = next((name for name, (target, _) in _SPEC_NUMBERS.items() if target == attribute), "")
            advice = f"; give it in chipSpec: {{name: {self.name}, {spec}: <number>, ...}}" if spec else ""
            raise ChipError(f"{attribute.replace('_', ' ')} of chip {self.name} is not known{advice}")
        return cast("float", value)


def chip_from_mapping(spec: Mapping[str, object], *, field: str = "chipSpec") -> Chip:
    """A chip from the fields of `chipSpec` (camelCase, as in the custom resource).

    Args:
        spec: name, memoryGiB, memoryGBps, tflops {bf16: ...}, linkGBps, linkDomain, scaleOutGBps, resourceNames.
        field: path of `spec` in the object, for messages.

    Raises:
        ChipError: an unknown field, or a value that is not a positive number.
    """
    unknown = sorted(set(spec) - _SPEC_FIELDS)
    if unknown:
        raise ChipError(f"unknown; the fields are {', '.join(sorted(_SPEC_FIELDS))}", field=f"{field}.{unknown[0]}")
    name = spec.get("name")
    if not isinstance(name, str) or not name:
        raise ChipError(f"a chip needs a name, found {name!r}", field=f"{field}.name")
    numbers: dict[str, float | int] = {}
    for key, (attribute, factor) in _SPEC_NUMBERS.items():
        if spec.get(key) is not None:
            value = _positive(spec[key], f"{field}.{key}") * factor
            numbers[attribute] = round(value) if attribute in _WHOLE else float(value)
    given = spec.get("tflops") or {}
    if not isinstance(given, Mapping):
        raise ChipError(f"must map formats to TFLOPS, found {given!r}", field=f"{field}.tflops")
    tflops: dict[str, float] = {}
    for dtype, value in given.items():
        if dtype not in DTYPES:
            raise ChipError(f"unknown; the formats are {', '.join(DTYPES)}", field=f"{field}.tflops.{dtype}")
        if value is not None:
            tflops[dtype] = float(_positive(value, f"{field}.tflops.{dtype}"))
    resources = spec.get("resourceNames") or ()
    if isinstance(resources, str) or not all(isinstance(item, str) for item in cast("list[object]", resources)):
        raise ChipError(f"must be a list of names, found {resources!r}", field=f"{field}.resourceNames")
    user = Source("user", "given in chipSpec")
    return Chip(
        name=name,
        resource_names=tuple(cast("list[str]", resources)),
        tflops=tflops,
        sources={**{f"tflops.{dtype}": user for dtype in tflops}, **dict.fromkeys(numbers, user)},
        **numbers,  # type: ignore[arg-type]  # the keys are the numeric attributes of the table above
    )


def chip_to_mapping(chip: Chip) -> dict[str, object]:
    """The fields of `chipSpec` for a chip: what `chip_from_mapping` reads; what is not known is left out."""
    spec: dict[str, object] = {"name": chip.name}
    for key, (attribute, factor) in _SPEC_NUMBERS.items():
        value = getattr(chip, attribute)
        if value is not None:
            spec[key] = value if factor == 1 else _plain(value / factor)
    peaks = {dtype: _plain(value) for dtype, value in chip.tflops.items() if value}
    if peaks:
        spec["tflops"] = peaks
    if chip.resource_names:
        spec["resourceNames"] = list(chip.resource_names)
    return spec


def _plain(value: float) -> float | int:
    """Without a needless `.0`."""
    return int(value) if value == int(value) else value


def _positive(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ChipError(f"must be a positive number, found {value!r}", field=field)
    return value
