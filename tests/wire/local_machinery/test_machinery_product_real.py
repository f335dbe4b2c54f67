"""The product's own CRDs: spoiled objects are refused by the machinery as by a real API server, cause by cause."""

from __future__ import annotations

import copy
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.builders.machinery import Json
from tests.builders.manifests import a_group, a_job, a_pool
from tests.wire.controlplane import ControlPlane
from tests.wire.local_machinery.record import RealServer

from supernode.local.machinery import crd, metadata
from supernode.local.machinery.refusals import RefusedError

pytestmark = pytest.mark.envtest
CRDS = Path(__file__).parents[3] / "crds"
SPOILS: list[Any] = [0, -1, 1, 3, 1.5, "x", "", None, [], {}, True, ["a", "a"], {"a": "b"}, 10**12, "A b/c"]
OBJECTS = {"AcceleratorPool": a_pool, "SuperNodeGroup": a_group, "TrainingJob": a_job}


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [place for step, child in below for place in places(child, (*path, step))]


def spoiled(obj: Json, rng: random.Random) -> Json:
    result = copy.deepcopy(obj)
    path = rng.choice(places(obj["spec"]))
    node: Any = result["spec"]
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = rng.choice(SPOILS)
    return result


@pytest.mark.parametrize("file", sorted(CRDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_spoiled_objects(real_cluster: ControlPlane, file: Path) -> None:
    real = RealServer(real_cluster.admin)
    definition = yaml.safe_load(file.read_text())
    code, answer = real.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    assert code in (201, 409), answer
    names, namespaced = definition["spec"]["names"], definition["spec"]["scope"] == "Namespaced"
    kind = crd.compile(crd.with_defaults(definition))["v1alpha1"]
    path = "/apis/supernode.dev/v1alpha1/" + ("namespaces/default/" if namespaced else "") + names["plural"]
    deadline = time.monotonic() + 60
    while real.call("GET", path)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    obj = OBJECTS[names["kind"]]()
    obj["metadata"].pop("namespace", None)
    rng = random.Random(5)
    for _ in range(60):
        bad = spoiled(obj, rng)
        code, answer = real.call("POST", f"{path}?dryRun=All&fieldValidation=Strict", bad)
        theirs = sorted(
            (cause["field"], cause["message"]) for cause in (answer.get("details") or {}).get("causes") or ()
        )
        try:
            decoded, _ = kind.decode(bad, field_validation="Strict")
            if namespaced:
                decoded["metadata"]["namespace"] = "default"
            earlier = metadata.validate(decoded, namespaced=namespaced)
            ours = sorted((cause.field, cause.message) for cause in kind.causes(decoded, earlier=earlier))
        except RefusedError as exc:
            assert (code, answer["message"]) == (exc.code, exc.message)
            continue
        # What `scale` reads besides the schema is left out here.
        theirs = [cause for cause in theirs if not cause[0].startswith(".spec")]
        assert ours == theirs
        if code < 300:
            assert decoded["spec"] == answer["spec"]
