"""Writes builtin.json, the facts about Kubernetes' own kinds, from a running kube-apiserver. Run by hand only.

python -m supernode.local.machinery.extract https://127.0.0.1:6443 TOKEN > builtin.json

Flows in: /version, /openapi/v3 and /apis of a real server. Flows out: per definition its fields with type, format,
list type, merge key and so on, and the resources of each group. No descriptions are taken over, only facts.
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from typing import Any, Final

GROUPS: Final = (
    "api/v1",
    "apis/apiextensions.k8s.io/v1",
    "apis/apps/v1",
    "apis/authentication.k8s.io/v1",
    "apis/authorization.k8s.io/v1",
    "apis/autoscaling/v1",
    "apis/batch/v1",
    "apis/coordination.k8s.io/v1",
    "apis/discovery.k8s.io/v1",
    "apis/events.k8s.io/v1",
    "apis/networking.k8s.io/v1",
    "apis/policy/v1",
    "apis/rbac.authorization.k8s.io/v1",
    "apis/scheduling.k8s.io/v1",
)
REFERENCE: Final = "#/components/schemas/io.k8s."
DISCOVERY: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# OpenAPI key -> our key; everything else is spelled out in `_node`.
KEYS: Final = {
    "enum": "e",
    "x-kubernetes-list-type": "l",
    "x-kubernetes-list-map-keys": "k",
    "x-kubernetes-patch-merge-key": "m",
    "x-kubernetes-patch-strategy": "s",
    "x-kubernetes-map-type": "a",
    "default": "d",
}


def _node(schema: dict[str, Any]) -> Any:
    """One field: a short text when it is only a type, else an object with one-letter keys."""
    target = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf", ()) if "$ref" in part), None)
    if target is not None:
        kind: Any = "@" + target.removeprefix(REFERENCE)
    elif "items" in schema:
        kind = [_node(schema["items"])]
    elif "additionalProperties" in schema:
        kind = {"*": _node(schema["additionalProperties"])}
    elif "oneOf" in schema:
        kind = schema.get("format", "quantity")
    else:
        kind = schema.get("format") or schema.get("type", "any")
    extra = {short: schema[key] for key, short in KEYS.items() if key in schema}
    if schema.get("x-kubernetes-list-type") == "atomic":
        del extra["l"]
    return {"t": kind, **extra} if extra else kind


def _definition(schema: dict[str, Any]) -> Any:
    if "properties" not in schema:
        return _node(schema)
    result: dict[str, Any] = {"p": {name: _node(field) for name, field in schema["properties"].items()}}
    if "required" in schema:
        result["r"] = schema["required"]
    if schema.get("x-kubernetes-map-type") == "atomic":
        result["a"] = 1
    return result


def _references(node: Any) -> set[str]:
    if isinstance(node, str):
        return {node[1:]} if node.startswith("@") else set()
    if isinstance(node, dict):
        return set().union(*(_references(child) for child in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(child) for child in node))
    return set()


def extract(get: Any) -> dict[str, Any]:
    """All facts; `get(path, accept)` answers with the decoded JSON of one path."""
    definitions: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    roots: set[str] = set()
    for group in GROUPS:
        version = group.removeprefix("apis/").removeprefix("api/")
        for name, schema in get(f"/openapi/v3/{group}", "application/json")["components"]["schemas"].items():
            short = name.removeprefix("io.k8s.")
            definitions[short] = _definition(schema)
            for gvk in schema.get("x-kubernetes-group-version-kind", ()):
                full = "/".join(part for part in (gvk["group"], gvk["version"]) if part)
                if full == version and "meta.v1" not in short:
                    kinds[f"{full}/{gvk['kind']}"] = short
                    roots.add(short)
    roots |= {name for name in definitions if name.startswith("apimachinery.pkg.apis.meta.v1.")}
    wanted: set[str] = set()
    while roots:
        name = roots.pop()
        wanted.add(name)
        roots |= _references(definitions[name]) - wanted
    served = {group.removeprefix("apis/").removeprefix("api/") for group in GROUPS}
    resources = []
    for path in ("/api", "/apis"):
        for item in get(path, DISCOVERY)["items"]:
            for version in item["versions"]:
                full = "/".join(part for part in (item["metadata"].get("name", ""), version["version"]) if part)
                if full in served:
                    resources.append({"groupVersion": full, "resources": version["resources"]})
    return {
        "version": get("/version", "application/json")["gitVersion"],
        "origin": "facts from the OpenAPI v3 and discovery documents of Kubernetes, Apache-2.0, no descriptions",
        "kinds": dict(sorted(kinds.items())),
        "resources": resources,
        "definitions": {name: definitions[name] for name in sorted(wanted)},
    }


def main(argv: list[str]) -> None:
    """Print builtin.json, one definition a line."""
    server, token = argv

    def get(path: str, accept: str) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Accept": accept}
        request = urllib.request.Request(server + path, headers=headers)  # noqa: S310
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310
            return json.load(answer)

    facts = extract(get)
    lines = []
    for key, value in facts.items():
        if isinstance(value, str):
            lines.append(f"{json.dumps(key)}:{json.dumps(value)}")
        elif isinstance(value, list):
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
            lines.append(f"{json.dumps(key)}:[\n{rows}]")
        else:
            items = value.items()
            rows = ",\n".join(f"{json.dumps(name)}:{json.dumps(row, separators=(',', ':'))}" for name, row in items)
            lines.append(f"{json.dumps(key)}:{{\n{rows}}}")
    sys.stdout.write("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
