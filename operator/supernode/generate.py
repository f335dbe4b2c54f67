"""Writes every generated file of the repository, or checks that they are up to date: `python -m supernode.generate`.

Generated are the CRDs in `crds/`, the chart's copy of them, the field reference `docs/reference/api.md`, the kernel
table `docs/reference/kernels.md`, the lists of names `docs/names.md` and metrics `docs/metrics.md`, and the commands'
options `docs/reference/cli.md`. With `--check` nothing is written: a file that differs, is missing or is left over is
named.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supernode import names
from supernode.api.crd import KINDS, Kind, crd
from supernode.cli import COMMANDS
from supernode.commands.crds import to_yaml
from supernode.emulator.kernels import TABLE
from supernode.emulator.kernels.reference import markdown
from supernode.emulator.metrics import METRICS
from supernode.names import GROUP, VERSION
from supernode.telemetry.metrics import OPERATOR_METRICS

_HEADER = "# Generated from operator/supernode/api by `make generate`; change it there.\n"
_ROOT = Path(__file__).resolve().parents[2]
_CRD_FOLDERS = ("crds", "charts/supernode/crds")
_LINE = 120


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or with `--check` compare them; 1 if any differs."""
    parser = argparse.ArgumentParser(prog="python -m supernode.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    parser.add_argument("--root", type=Path, default=_ROOT, help="the repository (default: the one this file is in)")
    args = parser.parse_args(argv)
    wanted = generated()
    stale = [name for name, text in wanted.items() if _read(args.root / name) != text]
    surplus = [name for name in _present(args.root) if name not in wanted]
    if args.check:
        for name in (*stale, *surplus):
            sys.stderr.write(f"{name} is not up to date: run `make generate`\n")
        return 1 if stale or surplus else 0
    for name in surplus:
        (args.root / name).unlink()
    for name in stale:
        path = args.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], encoding="utf-8")
    for name in (*stale, *surplus):
        sys.stdout.write(f"{name}\n")
    return 0


def generated() -> dict[str, str]:
    """Every generated file: path below the repository -> text."""
    files = {}
    for kind in KINDS:
        text = _HEADER + to_yaml(crd(kind))
        for folder in _CRD_FOLDERS:
            files[f"{folder}/{GROUP}_{kind.plural}.yaml"] = text
    files["docs/reference/api.md"] = api_reference()
    files["docs/reference/kernels.md"] = kernel_reference()
    files["docs/reference/cli.md"] = cli_reference()
    files["docs/metrics.md"] = metrics_reference()
    files["docs/names.md"] = names_reference(inspect.getsource(names))
    return files


def api_reference() -> str:
    """Every field of every kind, one a line, as Markdown."""
    lines = [
        "# The API, field by field",
        "",
        "<!-- Generated from operator/supernode/api by `make generate`. -->",
        f"Group `{GROUP}`, version `{VERSION}`; `kubectl explain tjob.spec.scheduling` says the same. "
        "`?` marks a field that may be left out.",
    ]
    for kind in KINDS:
        version = crd(kind)["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]
        lines += ["", f"## {kind.name}", "", schema["description"], "", _served(kind), ""]
        for section in ("spec", "status"):
            lines += [f"### {section}", ""]
            lines += [_field(path, node, required) for path, node, required in _fields(schema["properties"][section])]
            lines.append("")
        lines += ["### rules", ""]
        lines += [f"- `{path or kind.name}`: {message}" for path, message in _rules(schema, "")]
    return "\n".join(lines).rstrip() + "\n"


def kernel_reference() -> str:
    """The emulator's kernel table as Markdown."""
    lines = [
        "# Kernels of the emulated device",
        "",
        "<!-- Generated from operator/supernode/emulator/kernels by `make generate`. -->",
        "`supernode emulator kernels` prints the same; [emulator.md](../emulator.md) says how they are launched, and "
        "[kernels.md](../kernels.md) how they round. `[x]` may be left out; `x=` must be given. Time: what the clock "
        "goes by. Error: steps x size, against f64 on the same inputs (f64 against 80 bits), a step being 2^-23 (2^-52 "
        "in f64) and results narrower than f32 half a unit in their last place besides; `*`: held over numbers of "
        "ordinary size, everything else over infinities, NaN, denormals and the whole range too.",
        "",
        markdown(TABLE),
    ]
    return "\n".join(lines)


def metrics_reference() -> str:
    """Every metric of operator and emulator, from their tables."""
    operator = [(_exported(row.name, row.kind), row.kind, row.unit, row.labels, row.help) for row in OPERATOR_METRICS]
    emulator = [(_exported(name, row.kind), row.kind, row.unit, row.labels, row.help) for name, row in METRICS.items()]
    lines = [
        "# Metrics",
        "",
        "<!-- Generated from the metric tables of operator and emulator by `make generate`. -->",
        "In Prometheus' text format on `/metrics`. A histogram has the series `_bucket`, `_sum` and `_count`.",
    ]
    for title, rows in (
        (f"Operator (port {names.PORT_OPERATOR_METRICS})", operator),
        (f"Emulator sidecar (port {names.PORT_EMULATOR_HTTP})", emulator),
    ):
        lines += ["", f"## {title}", "", "| name | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{name}` | {kind} | {unit} | {', '.join(f'`{label}`' for label in labels)} | {text} |"
            for name, kind, unit, labels, text in rows
        ]
    return "\n".join(lines) + "\n"


def _exported(name: str, kind: str) -> str:
    """A metric's name as Prometheus sees it."""
    return f"{name}_total" if kind == "counter" else name


def cli_reference() -> str:
    """Every subcommand with its options."""
    lines = [
        "# The command",
        "",
        "<!-- Generated from operator/supernode/commands by `make generate`. -->",
        "`supernode COMMAND`, or `kubectl supernode COMMAND` where `kubectl-supernode` is on the PATH.",
    ]
    for name, (module, text) in COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(module).configure(parser)
        lines += ["", f"## supernode {name}", "", text[0].upper() + text[1:] + "."]
        options = list(_options(parser, f"supernode {name}"))
        lines += ["", *options] if options[0] else options
    return "\n".join(lines).rstrip() + "\n"


def _options(parser: argparse.ArgumentParser, program: str) -> Iterator[str]:
    """The options of a parser as list items, then those of its own subcommands."""
    nested: list[argparse._SubParsersAction[argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            nested.append(action)
            continue
        title = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.choices and action.option_strings:
            title += f" {{{','.join(map(str, action.choices))}}}"
        elif action.option_strings and action.nargs != 0:
            title += f" {action.metavar or action.dest.upper()}"
        yield f"- `{title}`: {(action.help or '') % {**vars(action), 'prog': program}}"
    for group in nested:
        for name, sub in group.choices.items():
            yield from ("", f"### {program} {name}")
            options = list(_options(sub, f"{program} {name}"))
            yield from ["", *options] if options else []


def names_reference(source: str) -> str:
    """Names that a user can meet, from the comments above the constants of `names.py`.

    A constant without a comment of its own stands under the comment above it; a line `# --- title ---` is a heading.
    """
    lines = [
        "# Names",
        "",
        "<!-- Generated from operator/supernode/names.py by `make generate`. -->",
        "Every label, annotation, variable, port and path that crosses a border of Supernode.",
    ]
    comment: list[str] = []
    table = fresh = False
    for line in source.splitlines():
        heading = re.fullmatch(r"# -+ (.+?) -+", line)
        constant = re.match(r"([A-Z_]+): Final = ", line)
        if heading:
            lines += ["", f"## {heading[1][0].upper()}{heading[1][1:]}", "", "| name | meaning |", "|---|---|"]
            table = True
        elif line.startswith("# "):
            comment = [line[2:]] if fresh else [*comment, line[2:]]
        elif constant and table:
            lines.append(f"| `{getattr(names, constant[1])}` | {' '.join(comment)} |")
        fresh = bool(constant or heading or not line)
    return "\n".join(lines) + "\n"


def _served(kind: Kind) -> str:
    scope = "namespaced" if kind.namespaced else "cluster-wide"
    return f"`{kind.plural}` (`{kind.short}`), {scope}; columns {', '.join(column[0] for column in kind.columns)}."


def _fields(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Path, schema and whether it is required, of every field below `schema`, in order."""
    for name, node in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        if node.get("type") == "array":
            where += "[]"
        yield where, node, name in schema.get("required", ())
        yield from _fields(node.get("items", node), where)


def _field(path: str, node: Mapping[str, Any], required: bool) -> str:
    kind = node.get("items", node) if node.get("type") == "array" else node
    facts = ["map" if "additionalProperties" in kind else str(kind.get("type", "any"))]
    if "enum" in kind:
        facts = [" \\| ".join(str(value) for value in kind["enum"])]
    for keyword, text in (("minimum", "from"), ("maximum", "to")):
        if keyword in kind:
            limit = int(kind[keyword]) if kind[keyword] == int(kind[keyword]) else kind[keyword]
            facts.append(f"{'above' if kind.get('exclusiveMinimum') and keyword == 'minimum' else text} {limit}")
    if "default" in node and node["default"] != {}:
        facts.append(f"default {node['default']}")
    return f"- `{path}`{'' if required else '?'} ({', '.join(facts)}): {node.get('description', '')}"


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield (path + rule.get("fieldPath", "")).removeprefix("."), rule["message"]
    for name, node in schema.get("properties", {}).items():
        yield from _rules(node.get("items", node), f"{path}.{name}{'[]' if node.get('type') == 'array' else ''}")


def _present(root: Path) -> list[str]:
    """Files that stand where only generated files belong."""
    return [
        str(path.relative_to(root))
        for folder in _CRD_FOLDERS
        for path in sorted((root / folder).glob("*"))
        if path.is_file()
    ]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
