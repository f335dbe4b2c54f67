"""Which form the client wants an answer in, and which form its body is in.

JSON, Tables and PartialObjectMetadata are made; YAML is read and written; Kubernetes' protobuf is read (`protobuf`) but
never written, CBOR neither: a client that also accepts JSON gets JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from supernode.local.server import statuses

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
PRODUCED: Final = (JSON, YAML)


@dataclass(frozen=True)
class Wanted:
    """The form of an answer: `shape` is `object`, `table` or `partial`; `version` that of meta.k8s.io."""

    media: str = JSON
    shape: str = "object"
    version: str = "v1"


def _clauses(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    for clause in header.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        pairs = (each.partition("=") for each in parameters)
        if media:
            yield media.lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def negotiate(header: str) -> Wanted:
    """The first form in `Accept` that can be produced.

    Raises:
        StatusError: 406, there is none.
    """
    if not header.strip():
        return Wanted()
    for media, parameters in _clauses(header):
        if media in ("*/*", "application/*"):
            return Wanted()
        if media not in PRODUCED:
            continue
        kind = parameters.get("as", "")
        if not kind:
            return Wanted(media)
        known = parameters.get("g") == "meta.k8s.io" and parameters.get("v") in ("v1", "v1beta1")
        if known and kind == "Table":
            return Wanted(media, "table", parameters["v"])
        if known and kind in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return Wanted(media, "partial", parameters["v"])
    raise statuses.not_acceptable(PRODUCED)


def aggregated_version(header: str) -> str | None:
    """The version of aggregated discovery that the client takes before plain JSON, if any."""
    for media, parameters in _clauses(header):
        if (
            media == JSON
            and parameters.get("g") == "apidiscovery.k8s.io"
            and parameters.get("as") == "APIGroupDiscoveryList"
        ):
            if parameters.get("v") in ("v2", "v2beta1"):
                return parameters["v"]
        elif media in (JSON, "*/*", "application/*"):
            return None
    return None
