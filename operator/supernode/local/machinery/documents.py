"""Bodies of requests as values: JSON (and YAML) in, values and the paths of repeated fields out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from supernode.local.machinery.refusals import BadRequestError


@dataclass(frozen=True)
class Document:
    """A decoded body and the paths of fields that were written more than once (`spec.replicas`)."""

    value: Any
    duplicates: tuple[str, ...] = ()


class _Repeated(dict[str, Any]):
    """An object in which some field was written more than once."""

    names: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    marked = _Repeated(plain)
    seen: set[str] = set()
    marked.names = tuple(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return marked


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _find(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, dict):
        if isinstance(value, _Repeated):
            found.extend(f"{path}.{name}" if path else name for name in dict.fromkeys(value.names))
        for name, child in value.items():
            if isinstance(child, (dict, list)):
                _find(child, f"{path}.{name}" if path else name, found)
    else:
        for index, child in enumerate(value):
            if isinstance(child, (dict, list)):
                _find(child, f"{path}[{index}]", found)


def load(body: bytes, *, yaml: bool = False) -> Document:
    """Decode a body.

    Raises:
        BadRequestError: not JSON (or YAML), not UTF-8, nested too deeply, or with numbers that JSON lacks.
    """
    repeated = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        value = _pairs(items)
        repeated = repeated or isinstance(value, _Repeated)
        return value

    try:
        value = json.loads(body, object_pairs_hook=pairs, parse_constant=_reject_constant)
    except RecursionError as exc:
        raise BadRequestError("the body is nested too deeply") from exc
    except (ValueError, UnicodeDecodeError) as exc:
        if not yaml:
            raise BadRequestError(f"error decoding the body as JSON: {exc}") from exc
        return _load_yaml(body)
    duplicates: list[str] = []
    if repeated:
        _find(value, "", duplicates)
    return Document(value, tuple(duplicates))


def _load_yaml(body: bytes) -> Document:
    import yaml as pyyaml

    class Loader(pyyaml.SafeLoader):
        """Keeps dates as text, as JSON would, and notes repeated keys."""

    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in pyyaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def mapping(loader: Any, node: Any) -> dict[str, Any]:
        loader.flatten_mapping(node)
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        if not all(isinstance(key, (str, int, float, bool)) for key in keys):
            raise pyyaml.YAMLError("keys must be texts")
        texts = [key if isinstance(key, str) else json.dumps(key) for key in keys]
        values = [loader.construct_object(value, deep=True) for _, value in node.value]
        return _pairs(list(zip(texts, values, strict=True)))

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        value = pyyaml.load(body, Loader)  # noqa: S506 - a SafeLoader
        json.dumps(value, allow_nan=False)
    except RecursionError as exc:
        raise BadRequestError("the body is nested too deeply") from exc
    except (pyyaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as exc:
        raise BadRequestError(f"error decoding the body as YAML: {exc}") from exc
    duplicates: list[str] = []
    if isinstance(value, (dict, list)):
        _find(value, "", duplicates)
    return Document(value, tuple(duplicates))


def dump(value: Any) -> bytes:
    """Compact JSON, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
