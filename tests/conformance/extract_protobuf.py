"""Makes `supernode/local/server/protobuf.json` from the `generated.proto` files of Kubernetes' Go modules.

    python tests/conformance/extract_protobuf.py FOLDER_OF_MODULES (with k8s.io/api@vX and k8s.io/apimachinery@vX)

Only facts are taken: message names, field numbers, names and types. Run again for another Kubernetes version.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

API = [
    "core/v1",
    "apps/v1",
    "batch/v1",
    "rbac/v1",
    "policy/v1",
    "scheduling/v1",
    "networking/v1",
    "coordination/v1",
    "events/v1",
    "authentication/v1",
    "authorization/v1",
    "autoscaling/v1",
    "discovery/v1",
]
MACHINERY = ("pkg/apis/meta/v1", "pkg/runtime", "pkg/util/intstr", "pkg/api/resource")
OUT = Path("operator/supernode/local/server/protobuf.json")
_MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.S | re.M)
_FIELD = re.compile(r"^\s*(optional|repeated|required|map<(\w+), ([\w.]+)>)\s*([\w.]+)?\s+(\w+) = (\d+)", re.M)


def _short(name: str, package: str) -> str:
    name = name.lstrip(".")
    if "." not in name:
        return (
            name
            if name in ("string", "bytes", "bool", "double") or re.match(r"u?int|sint", name)
            else f"{package}.{name}"
        )
    return name.removeprefix("k8s.io.").removeprefix("apimachinery.pkg.").removeprefix("apis.")


def main(folder: Path) -> None:
    """Write the file."""
    roots = [next(folder.glob("k8s.io/api@*")) / each for each in API]
    roots += [next(folder.glob("k8s.io/apimachinery@*")) / each for each in MACHINERY]
    messages: dict[str, dict[str, list[str]]] = {}
    for root in roots:
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", (root / "generated.proto").read_text(), flags=re.S)
        package = _short(re.search(r"^package ([\w.]+);", text, re.M)[1] + ".X", "").removesuffix(".X")  # type: ignore[index]
        for name, body in _MESSAGE.findall(text):
            fields = {}
            for label, _, value, kind, field, number in _FIELD.findall(body):
                if label.startswith("map"):
                    fields[number] = [field, "map", _short(value, package)]
                else:
                    fields[number] = [field, {"repeated": "list"}.get(label, "one"), _short(kind, package)]
            messages[f"{package}.{name}"] = fields
    lines = [f'"{name}":{json.dumps(fields, separators=(",", ":"))}' for name, fields in sorted(messages.items())]
    OUT.write_text(
        '{\n"origin":"facts from generated.proto of k8s.io/api and k8s.io/apimachinery v0.37.2, Apache-2.0",\n'
    )
    with OUT.open("a") as out:
        out.write('"messages":{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
