"""Whether a pod template has the shape that we read it by. Pure.

Flows in: a template as the user wrote it; the CRD lets most of it pass, as it must for fields of later versions.
Flows out: nothing, or an InputError that names the field: nobody after this needs to doubt a dict to be one.
Not here: what the API server checks itself when the pods are made.
"""

from __future__ import annotations

from typing import Any, Final

from supernode.cluster.kinds import Json
from supernode.errors import InputError


class _MapOf:
    """An object with any names, all of whose values have one shape."""

    def __init__(self, shape: object) -> None:
        self.shape = shape


class _OneOf:
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words


_QUANTITY: Final = (str, int, float)
_RESOURCES: Final = {"requests": _MapOf(_QUANTITY), "limits": _MapOf(_QUANTITY)}
_CONTAINER: Final = {
    "resources": _RESOURCES,
    "env": [{"name": str}],
    "volumeMounts": [{"mountPath": str}],
    "restartPolicy": str,
}
_REQUIREMENT: Final = {
    "key": str,
    "operator": _OneOf("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    "values": [str],
}
_TERM: Final = {"matchExpressions": [_REQUIREMENT], "matchFields": [_REQUIREMENT]}
# What we read of a template. A type (or several), a list of one shape, or an object with these fields among others.
_TEMPLATE: Final = {
    "metadata": {"labels": _MapOf(str), "annotations": _MapOf(str)},
    "spec": {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "volumes": [{"name": str}],
        "resources": _RESOURCES,
        "overhead": _MapOf(_QUANTITY),
        "nodeSelector": _MapOf(str),
        "tolerations": [{"key": str, "operator": str, "value": str, "effect": str}],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM]}}
        },
    },
}
_WORDS: Final = {
    str: "a text",
    int: "a number",
    float: "a number",
    dict: "an object",
    list: "a list",
    bool: "a boolean",
}


def check_template(template: Json) -> None:
    """Check the parts of a template that we read; what is absent or null is nobody's fault.

    Raises:
        InputError: a value of the wrong kind; names the field, what was found and what belongs there.
    """
    _check(template, _TEMPLATE, "spec.template")


def _check(value: Any, shape: Any, path: str) -> None:
    if value is None:
        return
    if isinstance(shape, _OneOf):
        if value not in shape.words:
            raise InputError(f"must be one of {', '.join(shape.words)}, found {value!r}", field=path)
    elif isinstance(shape, list):
        _expect(value, (list,), path)
        for index, item in enumerate(value):
            if item is None:
                raise InputError("must not be null", field=f"{path}[{index}]")
            _check(item, shape[0], f"{path}[{index}]")
    elif isinstance(shape, _MapOf):
        _expect(value, (dict,), path)
        for name, item in value.items():
            _check(item, shape.shape, f"{path}.{name}")
    elif isinstance(shape, dict):
        _expect(value, (dict,), path)
        for name, inner in shape.items():
            _check(value.get(name), inner, f"{path}.{name}")
    else:
        _expect(value, shape if isinstance(shape, tuple) else (shape,), path)


def _expect(value: Any, kinds: tuple[type, ...], path: str) -> None:
    # A boolean is a number for Python alone.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        found = _WORDS.get(type(value), type(value).__name__)
        raise InputError(f"must be {_WORDS[kinds[0]]}, found {found}: {str(value)[:60]!r}", field=path)
