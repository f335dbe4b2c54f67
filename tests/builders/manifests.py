"""Objects of the three kinds as dicts, as a user would write them; a test names only what it is about.

`changes` replaces fields of `spec`; a nested dict is merged, a value of `...` (Ellipsis) takes the field out.
"""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]


def merged(base: Json, changes: Json) -> Json:
    """`base` with `changes` put in; neither is altered."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is ...:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def a_job(name: str = "gpt", namespace: str = "default", **changes: Any) -> Json:
    """A TrainingJob of 2 workers x 2 accelerators, data-parallel."""
    spec = {
        "pools": ["dcu-bw1000"],
        "workers": 2,
        "acceleratorsPerWorker": 2,
        "template": {"spec": {"containers": [{"name": "worker", "image": "supernode:0.1.0"}]}},
    }
    return _object("TrainingJob", {"name": name, "namespace": namespace}, spec, changes)


def a_pool(name: str = "dcu-bw1000", **changes: Any) -> Json:
    """An emulated AcceleratorPool with 2 devices a node."""
    spec = {
        "chip": "hygon-bw1000",
        "mode": "Emulated",
        "devicesPerNode": 2,
        "nodeSelector": {"matchLabels": {"supernode.dev/chip": "hygon-bw1000"}},
    }
    return _object("AcceleratorPool", {"name": name}, spec, changes)


def a_group(name: str = "scalex", **changes: Any) -> Json:
    """A SuperNodeGroup with the levels spine and supernode."""
    spec = {
        "nodeSelector": {"matchLabels": {"supernode.dev/group": name}},
        "levels": [
            {"name": "spine", "nodeLabel": "supernode.dev/spine", "bandwidthGBps": 50, "latencyMicroseconds": 10},
            {
                "name": "supernode",
                "nodeLabel": "supernode.dev/supernode",
                "bandwidthGBps": 224,
                "latencyMicroseconds": 2,
            },
        ],
    }
    return _object("SuperNodeGroup", {"name": name}, spec, changes)


MODEL: Json = {"layers": 8, "hiddenSize": 64, "attentionHeads": 8, "vocabularySize": 256, "sequenceLength": 64}


def _object(kind: str, metadata: Json, spec: Json, changes: Json) -> Json:
    return {
        "apiVersion": "supernode.dev/v1alpha1",
        "kind": kind,
        "metadata": metadata,
        "spec": merged(spec, changes),
    }
