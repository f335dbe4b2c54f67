"""`supernode emulator run`: an ONNX model on an emulated device, and the time it would take there.

Flows in: a model, arrays (or a seed for random ones), a chip. Flows out: device time per operator and per node, memory,
and the outputs if they are wanted. Not here: how models run (`supernode.emulator.onnx_backend`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supernode import names
from supernode.commands.documents import FORMATS, document
from supernode.commands.terminal import Colour, Mark, Sheet, emit, sheet_for
from supernode.errors import InputError, ModelError

if TYPE_CHECKING:
    from supernode.emulator.onnx_backend import Profile, Row

_DEFAULT_SEED: Final = 0
_FLAG: Final = "MODEL"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add = parser.add_argument
    add("model", metavar=_FLAG, help="a file such as model.onnx")
    add("--input", action="append", default=[], metavar="NAME=FILE", help="an input from a .npy file; may be repeated")
    add("--dim", action="append", default=[], metavar="NAME=SIZE", help="a size that the model leaves open")
    add("--seed", type=int, default=_DEFAULT_SEED, help="of random inputs (default: %(default)s)")
    add("--chip", default=argparse.SUPPRESS, help=f"chip to emulate (default: ${names.ENV_CHIP}, else hygon-bw1000)")
    add("--memory-gib", type=float, default=argparse.SUPPRESS, help="memory of the device (default: the chip's)")
    add("--nodes", type=int, default=10, metavar="COUNT", help="slowest nodes to show (default: %(default)s)")
    add("--save", type=Path, metavar="DIRECTORY", help="write each output there as NAME.npy")
    add("-o", "--output", choices=FORMATS, default="table", help="for people, or for programs")


def run(args: argparse.Namespace) -> int:
    """Run the model once and say what it took."""
    try:
        import onnx  # noqa: F401 - to say what is missing

        from supernode.emulator import onnx_backend
        from supernode.emulator.onnx_backend import Profile
    except ImportError as exc:
        raise InputError(f"models need the package onnx: pip install onnx ({exc})") from exc
    path = Path(args.model)
    model = load(path)
    chip = _chip(args.chip)
    memory = None if args.memory_gib is None else int(args.memory_gib * (1 << 30))
    prepared = onnx_backend.prepare(model, chip=chip, memory_bytes=memory, directory=str(path.parent))
    feeds = inputs_of(model, prepared.input_names, args)
    before = prepared.device.memory()
    profile = Profile(prepared.device)
    outputs = dict(zip(prepared.output_names, prepared.run(feeds, profile=profile), strict=True))
    facts = facts_of(path, prepared.device, profile, outputs)
    facts["memory"] = {
        "limitBytes": before.limit,
        "constantsBytes": before.in_use,
        "peakBytes": prepared.device.memory().peak,
    }
    if args.save is not None:
        save(args.save, outputs)
    if args.output != "table":
        emit(document(facts, args.output))
    else:
        sheet = sheet_for(sys.stdout)
        render(facts, sheet, max(args.nodes, 0))
        emit(sheet.text())
    return 0


def _chip(text: str) -> Any:
    """The chip that is asked for; None: what the surroundings say."""
    from supernode.commands.emulator import read_chip

    chosen = text if text and text != os.environ.get(names.ENV_CHIP) else ""
    if not chosen and os.environ.get(names.ENV_SOCKET):
        return None
    return read_chip(text) if text else None


def load(path: Path) -> Any:
    """A model from a file.

    Raises:
        InputError: there is no such file.
        ModelError: it is not a model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror or exc}", field=_FLAG) from exc
    except (DecodeError, onnx.checker.ValidationError, ValueError) as exc:
        raise ModelError(f"{path} is not an ONNX model: {_first_line(exc)}", field=_FLAG) from exc
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path} is not an ONNX model: it has no node and no output", field=_FLAG)
    return model


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    out = {}
    for text in texts:
        name, found, value = text.rpartition("=")
        if not found or not name:
            raise InputError(f"must be NAME=VALUE, not {text!r}", field=flag)
        out[name] = value
    return out


def inputs_of(model: Any, wanted: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """The inputs: from files where they are given, random otherwise.

    Raises:
        InputError: a file that cannot be read, a name that is no input, a size that nobody gives.
    """
    import numpy as np

    files, sizes = _pairs(args.input, "--input"), _pairs(args.dim, "--dim")
    for name in files:
        if name not in wanted:
            raise InputError(f"the model has no input {name!r}; it has {', '.join(wanted) or 'none'}", field="--input")
    open_sizes = {
        dim.dim_param or f"{info.name}.{axis}"
        for info in model.graph.input
        if info.name in wanted
        for axis, dim in enumerate(info.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    }
    for name in sizes:
        if name not in open_sizes:
            there = f"open are {', '.join(sorted(open_sizes))}" if open_sizes else "none is open"
            raise InputError(f"no size {name!r} is to be given; {there}", field="--dim")
    rng = np.random.default_rng(args.seed)
    feeds = {}
    for info in model.graph.input:
        if info.name not in wanted:
            continue
        if info.name in files:
            feeds[info.name] = _read(Path(files[info.name]), info)
        else:
            feeds[info.name] = _random(info, sizes, rng)
    return feeds


def _read(path: Path, info: Any) -> Any:
    import numpy as np
    from onnx import helper

    try:
        array = np.load(path, allow_pickle=False)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror or exc}", field="--input") from exc
    except ValueError as exc:
        raise InputError(f"{path} holds no array of NumPy: {_first_line(exc)}", field="--input") from exc
    kind = info.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else array.dtype
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    fits = len(shape) == array.ndim and all(size in (-1, own) for size, own in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or (kind.HasField("shape") and not fits):
        words = ",".join("?" if size < 0 else str(size) for size in shape)
        raise InputError(
            f"{path} holds {array.dtype}{list(array.shape)}, but input {info.name} is {dtype}[{words}]", field="--input"
        )
    return array


def _random(info: Any, sizes: Mapping[str, str], rng: Any) -> Any:
    """Random numbers of an input's type: normal ones; whole numbers are 0 or 1, which are places in most tables."""
    import numpy as np
    from onnx import helper

    from supernode.emulator.runtime.host import available_bytes
    from supernode.emulator.runtime.memory import human_bytes

    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        raise InputError(f"input {info.name} is no tensor of a known number of axes; give it with --input")
    shape = []
    for axis, dim in enumerate(info.type.tensor_type.shape.dim):
        name = dim.dim_param or f"{info.name}.{axis}"
        text = str(dim.dim_value) if dim.HasField("dim_value") else sizes.get(name, "")
        if not text.isdecimal():
            found = f"must be a whole number, not {text!r}" if text else f"is open (axis {axis} of input {info.name})"
            raise InputError(f"{name} {found}; give --dim {name}=SIZE", field="--dim")
        shape.append(int(text))
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
    if dtype == np.dtype(object):
        raise InputError(f"input {info.name} is made of strings; give it with --input")
    needed, room = 8 * math.prod(shape), available_bytes()  # drawn in 64 bits
    if room is not None and needed > room:
        asked = f"input {info.name} of {'x'.join(map(str, shape))} numbers needs {human_bytes(needed)} of the host"
        raise InputError(f"{asked}, which has {human_bytes(room)}; choose smaller sizes", field="--dim")
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def facts_of(path: Path, device: Any, profile: Profile, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a run took, as plain values: seconds, FLOPs and bytes."""
    from supernode.emulator.onnx_backend import by_operator

    rows = list(profile.rows.values())
    total = profile.seconds
    return {
        "model": str(path),
        "chip": device.chip,
        "deviceSeconds": total,
        "flops": sum(row.flops for row in rows),
        "operators": [_row(row, total) for row in by_operator(rows)],
        "nodes": [{"name": row.name, **_row(row, total)} for row in rows],
        "outputs": [_output(name, value) for name, value in outputs.items()],
    }


def _row(row: Row, total: float) -> dict[str, Any]:
    return {
        "operator": row.operator,
        "where": row.where,
        "runs": row.runs,
        "launches": row.launches,
        "seconds": row.seconds,
        "share": row.seconds / total if total else 0.0,
        "flops": row.flops,
        "bytes": row.bytes_moved,
    }


def _output(name: str, value: Any) -> dict[str, Any]:
    if hasattr(value, "dtype"):
        return {"name": name, "dtype": str(value.dtype), "shape": list(value.shape)}
    return {"name": name, "dtype": f"sequence of {len(value)}" if isinstance(value, list) else "none", "shape": []}


def save(directory: Path, outputs: Mapping[str, Any]) -> None:
    """Write each output as `NAME.npy` (slashes in names become dots), sequences as `NAME.0.npy` and so on.

    Raises:
        InputError: the directory cannot be written.
    """
    import numpy as np

    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in outputs.items():
            plain = name.replace("/", ".").lstrip(".") or "output"
            parts = (
                {f"{plain}.{i}": item for i, item in enumerate(value)} if isinstance(value, list) else {plain: value}
            )
            for stem, part in parts.items():
                if part is not None:
                    np.save(directory / f"{stem}.npy", part, allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot write the outputs: {exc}", field="--save") from exc


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.4g} s"
    return f"{seconds * 1e3:.4g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.4g} us"


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}P"


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["runs"]),
        _time(row["seconds"]),
        f"{row['share']:.1%}",
        _count(row["flops"]) if row["flops"] else "-",
        f"{_count(row['bytes'])}B" if row["bytes"] else "-",
        row["where"],
    ]


_HEADER: Final = ("COUNT", "TIME", "SHARE", "FLOP", "BYTES", "WHERE")


def render(facts: Mapping[str, Any], sheet: Sheet, nodes: int) -> None:
    """The same for people."""
    from supernode.emulator.runtime.memory import human_bytes  # not for those that only ask for --help

    memory = facts["memory"]
    sheet.line(Mark(f"{facts['model']} on {facts['chip']}", Colour.BOLD))
    rate = facts["flops"] / facts["deviceSeconds"] / 1e12 if facts["deviceSeconds"] else 0.0
    sheet.line(
        f"device time {_time(facts['deviceSeconds'])}, {_count(facts['flops'])}FLOP ({rate:.3g} TFLOPS), memory "
        f"{human_bytes(memory['peakBytes'])} at most (constants {human_bytes(memory['constantsBytes'])}) "
        f"of {human_bytes(memory['limitBytes'])}"
    )
    sheet.blank()
    sheet.table(("OPERATOR", *_HEADER), [[row["operator"], *_cells(row)] for row in facts["operators"]])
    slowest = sorted(facts["nodes"], key=lambda row: -row["seconds"])[:nodes]
    if slowest:
        sheet.blank()
        rows = [[row["operator"], *_cells(row), row["name"]] for row in slowest]
        sheet.table(("SLOWEST NODES", *_HEADER, "NAME"), rows)
    sheet.blank()
    for output in facts["outputs"]:
        sheet.line(f"output {output['name']}: {output['dtype']}{output['shape'] or ''}")
