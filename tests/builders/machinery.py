"""Scenarios that a real API server and the machinery are both put through, and a store that holds one object.

A step is a request on one object; an answer is what came back, without what no two servers share (uid, times ...).
The recorded answers of a real server lie in `tests/unit/local_machinery/recorded.json`.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supernode.local.machinery import crd, documents, fields, kinds, metadata, patch
from supernode.local.machinery.kinds import Kind
from supernode.local.machinery.refusals import InvalidError, RefusedError

Json = dict[str, Any]
HERE = Path(__file__).parent.parent / "unit" / "local_machinery"
RECORDED = HERE / "recorded.json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
_VOLATILE = ("uid", "resourceVersion", "creationTimestamp", "selfLink", "generation")


@dataclass(frozen=True)
class Step:
    """One request. `body` as JSON value, or as text for what JSON values cannot say (repeated fields)."""

    method: str  # POST, PUT, PATCH
    body: Any
    manager: str = "one"
    content: str = "application/json"
    validation: str = "Strict"
    force: bool = False
    subresource: str = ""


@dataclass(frozen=True)
class Scenario:
    """Requests in order on one object of a kind."""

    name: str
    kind: str  # key of KINDS
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Served:
    """Where a kind is served."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}"


KINDS = {
    "Widget": Served("machinery.example.com", "v1", "Widget", "widgets"),
    "ConfigMap": Served("", "v1", "ConfigMap", "configmaps"),
    "Deployment": Served("apps", "v1", "Deployment", "deployments"),
    "Pod": Served("", "v1", "Pod", "pods"),
    "Service": Served("", "v1", "Service", "services"),
    "Lease": Served("coordination.k8s.io", "v1", "Lease", "leases"),
    "Role": Served("rbac.authorization.k8s.io", "v1", "Role", "roles"),
}


def widget_crd() -> Json:
    """A CRD that uses about everything a CRD can say."""
    text = (HERE / "widget-crd.json").read_text()
    parsed: Json = json.loads(text)
    return parsed


def path_of(step: Step, served: Served, namespace: str, name: str) -> str:
    """The request's path with its parameters."""
    base = served.path(namespace)
    if step.method != "POST":
        base += f"/{name}" + (f"/{step.subresource}" if step.subresource else "")
    query = f"?fieldManager={step.manager}&fieldValidation={step.validation}"
    return base + query + ("&force=true" if step.force else "")


def normal(code: int, answer: Any) -> Json:
    """What two servers have to agree on; managers keep their order, times only by which are equal."""
    if code >= 400:
        details = answer.get("details") or {}
        found = [
            _comparable(cause)
            for cause in details.get("causes") or ()
            if not cause["field"].startswith(".spec.replicas")
        ]
        causes = sorted(json.dumps(cause, sort_keys=True) for cause in found)
        return {"code": code, "reason": answer.get("reason"), "causes": [json.loads(cause) for cause in causes]}
    obj = copy.deepcopy(answer)
    meta = obj.get("metadata", {})
    for name in _VOLATILE:
        meta.pop(name, None)
    for entry in meta.get("managedFields", ()):
        entry.pop("time", None)
    meta.get("managedFields", []).sort(key=lambda e: (e["operation"], e["manager"], e.get("subresource", "")))
    return {"code": code, "object": obj}


def _comparable(cause: Json) -> Json:
    """A refused patch repeats the whole object in its cause: which two servers cannot share."""
    return {**cause, "message": ""} if cause["field"] == "patch" else cause


@dataclass
class OneObject:
    """Puts requests on one object through the machinery, as a server does."""

    kind: Kind
    namespace: str
    name: str
    live: Json | None = None
    clock: int = 0
    warnings: list[str] = field(default_factory=list)

    def put(self, step: Step) -> Json:
        """The answer to a step, normalised."""
        try:
            code, obj = self._do(step)
            return normal(code, obj)
        except RefusedError as exc:
            return normal(exc.code, exc.status(self.kind.group, self.kind.kind, self.name))

    def _now(self) -> str:
        self.clock += 1
        return f"2026-01-01T00:{self.clock // 60:02d}:{self.clock % 60:02d}Z"

    def _do(self, step: Step) -> tuple[int, Json]:
        raw = step.body if isinstance(step.body, str) else json.dumps(step.body)
        document = documents.load(raw.encode())
        now = self._now()
        old = self.live
        if step.method == "PATCH" and step.content == APPLY:
            merged = fields.apply(
                self.kind,
                old,
                document.value,
                manager=step.manager,
                force=step.force,
                subresource=step.subresource,
                now=now,
            )
            new, _ = self.kind.decode(merged, field_validation="Ignore")
        elif step.method == "PATCH":
            if step.content == JSON_PATCH:
                patched = patch.json_patch(old, document.value)
            elif step.content == MERGE:
                patched = patch.merge_patch(old, document.value)
            else:
                patched = patch.strategic_merge(self.kind.schema, old, document.value)
            new, self.warnings = self.kind.decode(
                patched, field_validation=step.validation, duplicates=document.duplicates, patched=True
            )
            new = fields.track(
                self.kind, old, new, manager=step.manager, operation="Update", subresource=step.subresource, now=now
            )
        else:
            new, self.warnings = self.kind.decode(
                document.value, field_validation=step.validation, duplicates=document.duplicates
            )
            new = fields.track(self.kind, old, new, manager=step.manager, subresource=step.subresource, now=now)
        if old is not None:
            new = (
                self.kind.only_status(new, old) if step.subresource == "status" else self.kind.without_status(new, old)
            )
        else:
            new = self.kind.without_status(new, None)
        new = new | {"metadata": new["metadata"] | {"namespace": self.namespace, "name": self.name}}
        earlier = metadata.validate(new, old, namespaced=True)
        causes = self.kind.causes(new, old, subresource=step.subresource, earlier=earlier)
        if causes:
            raise InvalidError(causes)
        self.live = new
        return (201 if old is None else 200), new


def compiled(name: str) -> Kind:
    """The kind that a scenario is about."""
    served = KINDS[name]
    if name == "Widget":
        return crd.compile(crd.with_defaults(widget_crd()))["v1"]
    found = kinds.builtin(served.group, served.version, served.kind)
    assert found is not None
    return found


def replay(scenario: Scenario, namespace: str = "default", name: str = "it") -> list[Json]:
    """The machinery's answers to a scenario."""
    store = OneObject(compiled(scenario.kind), namespace, name)
    return [store.put(step) for step in scenario.steps]
