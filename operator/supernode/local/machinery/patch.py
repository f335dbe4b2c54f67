"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386); strategic merge patch stands in `strategic`.

The object is never changed in place.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import jsonpatch
import jsonpointer

from supernode.local.machinery.refusals import BadRequestError, UnprocessableError
from supernode.local.machinery.strategic import strategic_merge

__all__ = ["json_patch", "merge_patch", "strategic_merge"]

# As the real server: a longer patch is refused before it is looked at.
MAX_OPERATIONS: Final = 10_000


def json_patch(obj: Any, operations: Any) -> Any:
    """Apply RFC 6902 operations.

    Raises:
        BadRequestError: not a list of well-formed operations.
        UnprocessableError: an operation does not apply to this object (a missing path, a failed test).
    """
    if not isinstance(operations, list) or not all(isinstance(step, dict) for step in operations):
        raise BadRequestError("error decoding patch: a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise BadRequestError(f"a JSON patch may have {MAX_OPERATIONS} operations, found {len(operations)}")
    result = copy.deepcopy(obj)
    try:
        for step in operations:
            result = jsonpatch.JsonPatch([_forgiving(result, step)]).apply(result, in_place=True)
        return result
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as exc:
        raise UnprocessableError("the server rejected our request due to an error in our request") from exc
    except (TypeError, KeyError, IndexError) as exc:
        raise UnprocessableError("the server rejected our request due to an error in our request") from exc


def _forgiving(obj: Any, step: dict[str, Any]) -> dict[str, Any]:
    """As the real server: `replace` sets a field that is not there, and `copy` takes it as null; RFC 6902 refuses."""
    place = {"replace": "path", "copy": "from"}.get(step.get("op", ""), "")
    if not isinstance(step.get(place), str):
        return step
    pointer = jsonpointer.JsonPointer(step[place])
    if not pointer.parts:
        return step
    parent, name = pointer.to_last(obj)
    if not isinstance(parent, dict) or name in parent:
        return step
    value = step.get("value") if place == "path" else None
    return {"op": "add", "path": step.get("path"), "value": value}


def merge_patch(obj: Any, patch: Any) -> Any:
    """Apply an RFC 7386 merge patch.

    Raises:
        BadRequestError: the patch is not an object.
    """
    if not isinstance(patch, dict):
        raise BadRequestError("a merge patch is an object")
    return _merge(obj, patch)


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result
