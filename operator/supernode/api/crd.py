"""The custom resource definitions, generated from the models.

In: the pydantic models. Out: CRD dicts whose schemas are structural (no references, one type per value), with defaults,
bounds, descriptions for `kubectl explain`, CEL rules, printer columns and subresources. Writing files is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from supernode.api.group import SuperNodeGroup
from supernode.api.job import TrainingJob
from supernode.api.pool import AcceleratorPool
from supernode.names import GROUP, VERSION


@dataclass(frozen=True)
class Kind:
    """How one kind is served.

    Attributes:
        columns: printer columns as (name, type, JSON path, priority); priority 1 shows in `-o wide` only.
        scale: paths of (spec replicas, status replicas, selector); empty for none.
    """

    model: type[BaseModel]
    plural: str
    singular: str
    short: str
    namespaced: bool
    columns: tuple[tuple[str, str, str, int], ...]
    scale: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The kind's name, such as `TrainingJob`."""
        return self.model.__name__


_AGE: Final = ("Age", "date", ".metadata.creationTimestamp", 0)
_READY: Final = ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0)

KINDS: Final = (
    Kind(
        AcceleratorPool,
        plural="acceleratorpools",
        singular="acceleratorpool",
        short="apool",
        namespaced=False,
        columns=(
            ("Chip", "string", ".spec.chip", 0),
            ("Mode", "string", ".spec.mode", 0),
            ("Nodes", "integer", ".status.nodes", 0),
            ("Capacity", "integer", ".status.capacity", 0),
            ("Allocated", "integer", ".status.allocated", 0),
            ("Free", "integer", ".status.free", 0),
            ("Unhealthy", "integer", ".status.unhealthy", 1),
            ("TFLOPS", "number", ".status.effective.observedTFLOPS", 1),
            _READY,
            _AGE,
        ),
    ),
    Kind(
        SuperNodeGroup,
        plural="supernodegroups",
        singular="supernodegroup",
        short="sng",
        namespaced=False,
        columns=(
            ("Nodes", "integer", ".status.nodes", 0),
            ("Unlabelled", "integer", ".status.unlabelledNodes", 0),
            ("Outermost", "string", ".spec.levels[0].name", 0),
            _READY,
            _AGE,
        ),
    ),
    Kind(
        TrainingJob,
        plural="trainingjobs",
        singular="trainingjob",
        short="tjob",
        namespaced=True,
        columns=(
            ("State", "string", ".status.state", 0),
            ("Ready", "string", ".status.ready", 0),
            ("Pool", "string", ".status.placement.pool", 0),
            ("Domain", "string", ".status.placement.domain", 0),
            ("MFU", "number", ".status.mfu", 0),
            ("Step", "integer", ".status.progress.step", 1),
            ("Loss", "number", ".status.progress.loss", 1),
            ("Restarts", "integer", ".status.restarts", 1),
            ("Message", "string", ".status.message", 1),
            _AGE,
        ),
        scale=(".spec.workers", ".status.replicas", ".status.selector"),
    ),
)


def crds() -> list[dict[str, Any]]:
    """The three CRDs, ready to be applied."""
    return [crd(kind) for kind in KINDS]


def crd(kind: Kind) -> dict[str, Any]:
    """The CRD of one kind."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": object_schema(kind.model)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path, **({"priority": priority} if priority else {})}
            for name, type_, path, priority in kind.columns
        ],
    }
    if kind.scale:
        paths = zip(("specReplicasPath", "statusReplicasPath", "labelSelectorPath"), kind.scale, strict=True)
        version["subresources"]["scale"] = dict(paths)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short],
                "categories": ["supernode"],
            },
            "versions": [version],
        },
    }


def object_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of a whole object."""
    raw = model.model_json_schema(by_alias=True)
    schema = _structural(raw, raw.get("$defs", {}))
    properties = schema["properties"]
    # Kubernetes' own fields: it checks metadata itself, and allows no rules or bounds on it here.
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}}
    schema["required"] = ["spec"]
    # The server must not fill in what the operator has not said: the two would correct each other for ever.
    _without_defaults(properties["status"])
    return schema


def _without_defaults(schema: dict[str, Any]) -> None:
    schema.pop("default", None)
    for node in (*schema.get("properties", {}).values(), *(schema[key] for key in ("items",) if key in schema)):
        _without_defaults(node)


# JSON schema keywords that mean the same in a structural schema.
_KEPT: Final = (
    "type", "description", "enum", "format", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems",
    "maxItems", "minProperties", "maxProperties", "required", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema node as a structural schema: references put in place, `null` and empty defaults left out."""
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        # What the field says about itself goes before what its type says.
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        return _structural(node, definitions)
    if "anyOf" in node:
        (only,) = (choice for choice in node["anyOf"] if choice.get("type") != "null")
        return _structural({**only, **{key: value for key, value in node.items() if key != "anyOf"}}, definitions)
    result: dict[str, Any] = {key: node[key] for key in _KEPT if key in node}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "const" in node:
        result["enum"] = [node["const"]]
    for keyword, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if keyword in node:
            result[bound] = node[keyword]
            result[keyword] = True
    if isinstance(node.get("default"), dict):
        result["default"] = {}
    elif node.get("default") not in (None, [], ""):
        result["default"] = node["default"]
    if result.get("type") == "integer":
        result["format"] = "int64"
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    if "properties" in node:
        result["properties"] = {key: _structural(value, definitions) for key, value in node["properties"].items()}
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        result["additionalProperties"] = _structural(extra, definitions)
    return result
