"""Whose an object is: by its owner reference, not by labels that anybody may set. Pure.

Flows in: objects as JSON. Flows out: the training job that controls one. The reference holds inside one namespace
only, as Kubernetes' own garbage collector has it: whoever asks must compare the namespaces.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernode.cluster.kinds import Json
from supernode.names import GROUP

_KIND = "TrainingJob"


@dataclass(frozen=True, slots=True)
class Owner:
    """Name and uid of a training job."""

    name: str
    uid: str


def controller_of(obj: Json) -> Owner | None:
    """The training job that controls an object; None if none does."""
    reference = controlling(obj)
    return Owner(str(reference.get("name") or ""), str(reference.get("uid") or "")) if reference else None


def controlling(obj: Json) -> Json | None:
    """The reference to that training job, as it stands in the object."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        ours = str(reference.get("apiVersion") or "").partition("/")[0] == GROUP and reference.get("kind") == _KIND
        if ours and reference.get("controller") is True:
            found: Json = reference
            return found
    return None
