"""Objects as dicts, from the API server or a file, into models; everything wrong becomes an InputError.

The API server has defaulted and checked what it stored; a file has not been through it. Both go the same way here:
structure, bounds and the rules that cross fields. What depends on other objects is `validate`'s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from supernode.api.document import Spec
from supernode.api.group import SuperNodeGroup
from supernode.api.job import TrainingJob
from supernode.api.pool import AcceleratorPool
from supernode.api.rules import Problem
from supernode.errors import InputError
from supernode.names import API_VERSION

M = TypeVar("M", AcceleratorPool, SuperNodeGroup, TrainingJob)
_SHOWN = 60  # characters of a wrong value that a message repeats


def job_from(obj: Mapping[str, Any]) -> TrainingJob:
    """A TrainingJob from its dict.

    Raises:
        InputError: names the object, the field and what is wrong.
    """
    return _read(TrainingJob, obj)


def pool_from(obj: Mapping[str, Any]) -> AcceleratorPool:
    """An AcceleratorPool from its dict; raises InputError as `job_from` does."""
    return _read(AcceleratorPool, obj)


def group_from(obj: Mapping[str, Any]) -> SuperNodeGroup:
    """A SuperNodeGroup from its dict; raises InputError as `job_from` does."""
    return _read(SuperNodeGroup, obj)


def model_from(obj: Mapping[str, Any]) -> AcceleratorPool | SuperNodeGroup | TrainingJob:
    """An object of any of the three kinds, by its `kind`; raises InputError as `job_from` does."""
    match obj.get("kind"):
        case "AcceleratorPool":
            return pool_from(obj)
        case "SuperNodeGroup":
            return group_from(obj)
        case "TrainingJob":
            return job_from(obj)
        case other:
            raise InputError(
                f"must be AcceleratorPool, SuperNodeGroup or TrainingJob, found {_shown(other)}",
                field="kind",
                obj=_title("object", obj),
            )


def broken_rules(value: BaseModel, path: str = "") -> Iterator[Problem]:
    """What the rules that cross fields find wrong in a model and all models inside it."""
    if isinstance(value, Spec):
        for rule in type(value).rules:
            problem = rule.problem(value, path)
            if problem is not None:
                yield Problem(problem.field.removeprefix("."), problem.message)
    for name, field in type(value).model_fields.items():
        inner = getattr(value, name)
        where = f"{path}.{field.alias or name}"
        if isinstance(inner, BaseModel):
            yield from broken_rules(inner, where)
        elif isinstance(inner, list):
            for index, item in enumerate(inner):
                if isinstance(item, BaseModel):
                    yield from broken_rules(item, f"{where}[{index}]")


def _read(model: type[M], obj: Mapping[str, Any]) -> M:
    title = _title(model.__name__, obj)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", model.__name__)):
        if obj.get(field, wanted) != wanted:
            raise InputError(f"must be {wanted}, found {_shown(obj.get(field))}", field=field, obj=title)
    try:
        value = model.model_validate(obj)
    except ValidationError as exc:
        raise _input_error(model, exc, title) from exc
    problem = next(broken_rules(value), None)
    if problem is not None:
        raise InputError(problem.message, field=problem.field, obj=title)
    return value


def _title(kind: str, obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping):
        return kind
    names = [str(metadata[key])[:253] for key in ("namespace", "name") if metadata.get(key)]
    return f"{kind} {'/'.join(names)}".strip()


def _input_error(model: type[BaseModel], exc: ValidationError, title: str) -> InputError:
    errors = exc.errors(include_url=False, include_context=True)
    first = errors[0]
    loc = first["loc"]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    message = _message(model, str(first["type"]), first.get("ctx") or {}, first["input"], loc) or first["msg"].lower()
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more)"
    return InputError(message, field=field, obj=title)


def _message(
    model: type[BaseModel], kind: str, context: Mapping[str, Any], found: object, loc: tuple[int | str, ...]
) -> str:
    """Our words for what pydantic found; empty where its own will do."""
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            known = _known_fields(model, loc[:-1])
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"the fields here are {', '.join(known)}"
            return f"unknown field; {advice}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, found {_shown(found)}"
        case "greater_than":
            return f"must be more than {context['gt']}, found {_shown(found)}"
        case "less_than_equal":
            return f"must be at most {context['le']}, found {_shown(found)}"
        case "literal_error":
            return f"must be one of {context['expected']}, found {_shown(found)}"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}, found {_shown(found)}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            return ""
        case _:
            wanted = _WANTED.get(kind)
            return f"must be {wanted}, found {_shown(found)}" if wanted else ""


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _known_fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model at `loc` below `model`."""
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int) or current is None:
            continue
        found = next((field for name, field in current.model_fields.items() if part in (field.alias, name)), None)
        current = _model_in(found.annotation) if found is not None else None
    return [field.alias or name for name, field in current.model_fields.items()] if current is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model is not None), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
