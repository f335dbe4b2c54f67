"""Rows of `supernode predict --csv` as jobs: every column checked, defaults filled in, assumptions noted.

In: the text of a CSV file. Out: a `Job` or a `RowError` per row. Lines that begin with # and empty lines are skipped.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from supernode.chips import Chip, find_chip
from supernode.errors import ChipError, InputError, ModelError
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NODE_BANDWIDTH, family_of
from supernode.steptime.collectives import LinkLevel, levels_for
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.wiring import Wiring, wiring_of

T = TypeVar("T")

#: Columns in their usual order -> field of `ModelShape` or `Parallelism` whose errors they answer for ("" = neither).
COLUMNS: Final[Mapping[str, str]] = {
    "model": "",
    "layers": "model.layers",
    "hidden": "model.hiddenSize",
    "heads": "model.attentionHeads",
    "kv_heads": "model.kvHeads",
    "ffn": "model.feedForwardSize",
    "head_dim": "model.headSize",
    "experts": "model.experts",
    "experts_per_token": "model.expertsPerToken",
    "gated": "",
    "vocab": "model.vocabularySize",
    "seq_len": "model.sequenceLength",
    "tp": "parallelism.tensor",
    "pp": "parallelism.pipeline",
    "dp": "parallelism.data",
    "cp": "parallelism.context",
    "ep": "parallelism.expert",
    "interleave": "parallelism.interleave",
    "sequence_parallel": "",
    "recompute": "parallelism.recompute",
    "zero_stage": "parallelism.zeroStage",
    "micro_batch": "parallelism.microBatchSize",
    "global_batch": "parallelism.globalBatchSize",
    "dtype": "",
    "chip": "",
    "devices": "",
    "devices_per_node": "",
    "scaleout_GBps": "",
    "measured_s": "",
}
_COLUMN_OF: Final = {field: column for column, field in COLUMNS.items() if field}
_NEEDED: Final = ("layers", "hidden", "heads", "chip")
_VOCABULARY: Final = 51200
_SEQUENCE: Final = 2048
_DEVICES_PER_NODE: Final = 8
_MOST_DEVICES: Final = 10**6
_DTYPES: Final = {"fp16": "f16", "float16": "f16", "half": "f16", "bfloat16": "bf16", "fp32": "f32", "float32": "f32"}
_RECOMPUTE: Final = {"none": "None", "selective": "Selective", "full": "Full"}
_YES: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class RowError(Exception):
    """A row that can't be predicted: its line, the column to blame, and why."""

    def __init__(self, line: int, column: str, message: str) -> None:
        self.line = line
        self.column = column
        super().__init__(f"line {line}, column {column}: {message}")


class Unknown(str):
    """A column that is not known: what to tell."""


@dataclass(frozen=True)
class Job:
    """One row.

    Attributes:
        line: in the file, from 1.
        name: the model's.
        chip: of every device.
        model: what is trained.
        parallelism: fields of `Parallelism` as given or by default.
        devices, per_node: of the job, and in a node.
        levels: the network, then the node.
        measured: seconds, if known.
        notes: what was assumed because neither row nor catalogue says it.
    """

    line: int
    name: str
    chip: Chip
    model: ModelShape
    parallelism: Mapping[str, int | bool | str | None]
    devices: int
    per_node: int
    levels: tuple[LinkLevel, ...]
    measured: float | None
    notes: tuple[str, ...]

    def cut(self) -> Parallelism:
        """The row's parallelism.

        Raises:
            ModelError: it can't be.
        """
        return Parallelism(**self.parallelism)  # type: ignore[arg-type]  # the keys are its fields

    def wiring(self) -> Wiring:
        """Whole nodes behind one flat network; the last may be filled in part."""
        nodes = np.arange(self.devices) // self.per_node
        return wiring_of(self.levels, np.stack((np.zeros_like(nodes), nodes)), self.cut())

    @property
    def batch(self) -> int:
        """Samples per step; without a global batch, one micro batch a device."""
        given, micro = self.parallelism["global_batch_size"], self.parallelism["micro_batch_size"]
        return int(given if given is not None else self.devices * int(micro or 1))

    def question(self) -> tuple[Chip, ModelShape, int, int, tuple[tuple[LinkLevel, ...], tuple[int, ...]]]:
        """What `steptime.search` asks for."""
        inside = min(self.devices, self.per_node)
        tree = (self.levels, (-(-self.devices // inside), inside))
        return self.chip, self.model, self.devices, self.batch, tree

    def guard(self, call: Callable[[Job], T]) -> T:
        """Ask it, and name line and column if it can't be done.

        Raises:
            RowError: the model or the chip does not allow it.
        """
        try:
            return call(self)
        except ChipError as exc:
            raise RowError(self.line, "chip", str(exc)) from exc
        except ModelError as exc:
            raise RowError(self.line, _COLUMN_OF.get(exc.field, "model"), exc.message) from exc


def jobs(text: str, path: str) -> Iterator[Job | RowError | Unknown]:
    """The rows of a file, and before them the columns that mean nothing.

    Raises:
        InputError: no header, or a header that names a column twice.
    """
    lines = enumerate(csv_lines(text), 1)
    kept = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not kept:
        raise InputError(f"{path} is empty; its first line must name the columns: {','.join(COLUMNS)}")
    header = [name.strip() for name in next(csv.reader([kept[0][1]]))]
    for position, name in enumerate(header):
        if name not in COLUMNS:
            yield Unknown(f"{path}, line {kept[0][0]}: column {name!r} is ignored; known are {','.join(COLUMNS)}")
        elif name in header[:position]:
            raise InputError(f"{path}, line {kept[0][0]}: column {name} stands there twice")
    for number, line in kept[1:]:
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], strict=True))]
            if len(cells) > len(header):
                raise RowError(number, header[-1], f"{len(cells)} cells, but the header has {len(header)} columns")
            yield _job(number, dict(zip(header, cells, strict=False)))
        except csv.Error as exc:
            yield RowError(number, header[0], f"not a row of CSV: {exc}")
        except RowError as exc:
            yield exc


def csv_lines(text: str) -> list[str]:
    """Lines by line feed or carriage return only, as an editor counts them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


class _Cells:
    """Typed access to the cells of one row; a blank cell is None."""

    def __init__(self, line: int, cells: Mapping[str, str]) -> None:
        self.line = line
        self._cells = cells

    def text(self, column: str) -> str | None:
        return self._cells.get(column) or None

    def whole(self, column: str, least: int = 1) -> int | None:
        text = self.text(column)
        if text is None:
            return None
        number = self.number(column, zero=least == 0)
        if number is None or number != int(number) or number < least or number > 10**12:
            raise RowError(self.line, column, f"must be a whole number from {least} to 10^12, found {text!r}")
        return int(number)

    def number(self, column: str, *, zero: bool = False) -> float | None:
        text = self.text(column)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise RowError(self.line, column, f"must be a number above 0, found {text!r}")
        return value

    def one_of(self, column: str, words: Mapping[str, T], default: T) -> T:
        text = self.text(column)
        if text is None:
            return default
        if text.lower() not in words:
            raise RowError(self.line, column, f"must be one of {', '.join(words)}, found {text!r}")
        return words[text.lower()]


def _job(line: int, row: Mapping[str, str]) -> Job:
    cells = _Cells(line, row)
    for column in _NEEDED:
        if cells.text(column) is None:
            raise RowError(line, column, "is needed")
    try:
        chip = find_chip(cells.text("chip") or "")
    except ChipError as exc:
        raise RowError(line, "chip", str(exc)) from exc
    model = _model(cells, chip)
    zero_stage = cells.whole("zero_stage", 0)
    cut: dict[str, int | bool | str | None] = {
        "tensor": cells.whole("tp") or 1,
        "pipeline": cells.whole("pp") or 1,
        "context": cells.whole("cp") or 1,
        "expert": cells.whole("ep") or 1,
        "interleave": cells.whole("interleave") or 1,
        "micro_batch_size": cells.whole("micro_batch") or 1,
        "global_batch_size": cells.whole("global_batch"),
        "sequence_parallel": cells.one_of("sequence_parallel", _YES, False),
        "recompute": cells.one_of("recompute", _RECOMPUTE, "None"),
        "zero_stage": zero_stage or 0,
    }
    cut["data"], devices = _data(cells, cut)
    per_node = cells.whole("devices_per_node") or min(chip.link_domain or _DEVICES_PER_NODE, devices)
    levels, notes = _levels(cells, chip, devices, per_node)
    return Job(
        line, cells.text("model") or "-", chip, model, cut, devices, per_node, levels, cells.number("measured_s"), notes
    )


def _model(cells: _Cells, chip: Chip) -> ModelShape:
    dtype = (cells.text("dtype") or ("f16" if chip.tflops.get("bf16") == 0 else "bf16")).lower()
    dtype = _DTYPES.get(dtype, dtype)
    try:
        chip.peak_flops(dtype)
    except ChipError as exc:
        raise RowError(cells.line, "dtype" if cells.text("dtype") and chip.tflops else "chip", str(exc)) from exc
    gated = cells.one_of("gated", _YES, False)
    hidden = cells.whole("hidden") or 0
    ffn = cells.whole("ffn")
    if ffn is None and gated:
        ffn = -(-8 * hidden // 3 // 256) * 256  # as many weights as two matrices 4 x hidden wide
    try:
        return ModelShape(
            layers=cells.whole("layers") or 0,
            hidden_size=hidden,
            attention_heads=cells.whole("heads") or 0,
            vocabulary_size=cells.whole("vocab") or _VOCABULARY,
            sequence_length=cells.whole("seq_len") or _SEQUENCE,
            dtype=dtype,
            feed_forward_size=ffn,
            kv_heads=cells.whole("kv_heads"),
            head_size=cells.whole("head_dim"),
            gated=gated,
            experts=cells.whole("experts") or 1,
            experts_per_token=cells.whole("experts_per_token") or 1,
        )
    except ModelError as exc:
        raise RowError(cells.line, _COLUMN_OF.get(exc.field, "model"), exc.message) from exc


def _data(cells: _Cells, cut: Mapping[str, int | bool | str | None]) -> tuple[int, int]:
    """Data ranks and devices: either follows from the other."""
    inside = int(cut["tensor"] or 1) * int(cut["pipeline"] or 1) * int(cut["context"] or 1)
    data, devices = cells.whole("dp"), cells.whole("devices")
    if devices is None:
        devices = inside * (data or 1)
    if devices > _MOST_DEVICES:
        raise RowError(cells.line, "devices", f"at most {_MOST_DEVICES} devices can be predicted, found {devices}")
    if data is None:
        if devices % inside:
            raise RowError(cells.line, "devices", f"{devices} is not a multiple of tp x pp x cp = {inside}")
        data = devices // inside
    if inside * data != devices:
        raise RowError(cells.line, "devices", f"tp x pp x dp x cp = {inside * data}, but devices says {devices}")
    return data, devices


def _levels(cells: _Cells, chip: Chip, devices: int, per_node: int) -> tuple[tuple[LinkLevel, ...], tuple[str, ...]]:
    """The network and the node, from the row, the catalogue or, noted, an assumption."""
    notes = []
    given = cells.number("scaleout_GBps")
    network = given * 1e9 if given is not None else chip.scale_out_bandwidth
    if network is None:
        network = ASSUMED_NETWORK_BANDWIDTH
        if devices > per_node:
            notes.append(f"scale-out bandwidth not known: {network / 1e9:g} GB/s a device assumed")
    node = chip.link_bandwidth
    if node is None:
        node = ASSUMED_NODE_BANDWIDTH
        if min(devices, per_node) > 1:
            notes.append(f"bandwidth of the links in a node not known: {node / 1e9:g} GB/s a device assumed")
    family = family_of(chip.name)
    figures = [("network", network, family.network_latency), ("node", node, family.node_latency)]
    return levels_for(chip, figures), tuple(notes)
