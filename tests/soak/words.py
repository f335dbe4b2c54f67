"""Objects in few words, for traces and sentences; and the names by which the checks find things."""

from __future__ import annotations

from tests.builders.placements import workers_in

from supernode.cluster.kinds import Json
from supernode.local.server.store import ResourceKey

PODS: ResourceKey = ("", "pods")
JOBS: ResourceKey = ("supernode.dev", "trainingjobs")
LEASES: ResourceKey = ("coordination.k8s.io", "leases")
SHARED: tuple[ResourceKey, ...] = (("", "services"), ("", "secrets"), ("", "configmaps"))
FINISHED = ("Succeeded", "Failed")


def label(obj: Json, name: str) -> str:
    """One of our labels; empty where there is none."""
    return str((obj["metadata"].get("labels") or {}).get(f"supernode.dev/{name}", ""))


def devices_of(pod: Json) -> list[str]:
    """Devices that a pod has by its annotation."""
    text = (pod["metadata"].get("annotations") or {}).get("supernode.dev/devices", "")
    return [each for each in text.split(",") if each]


def lives(pod: Json) -> bool:
    """Whether its containers may still run."""
    return pod["status"].get("phase") not in FINISHED


def workers_of(job: Json) -> list[Json]:
    """What a job claims."""
    return workers_in((job.get("status") or {}).get("placement"))


def pod_words(pod: Json) -> str:
    metadata = pod["metadata"]
    end = " ending" if "deletionTimestamp" in metadata else ""
    return (
        f"{metadata['namespace']}/{metadata['name']}#{label(pod, 'attempt')} on {pod['spec'].get('nodeName')} "
        f"[{','.join(devices_of(pod))}] {pod['status'].get('phase')}{end}"
    )


def job_words(job: Json) -> str:
    metadata, status = job["metadata"], job.get("status") or {}
    places = [f"{w['node']}{w['devices']}" for w in workers_of(job)]
    end = " deleting" if "deletionTimestamp" in metadata else ""
    plan = status.get("disruption") or {}
    doing = f" {plan['kind']}" if plan.get("kind") else ""
    return (
        f"{metadata['namespace']}/{metadata['name']} {status.get('state')} attempt {status.get('attempt')}"
        f" restarts {status.get('restarts')} at {places}{doing}{end}"
    )


def other_words(obj: Json) -> str:
    """A lease or a node."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = [c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"]
    return f"{spec.get('holderIdentity', '')} {ready} {spec.get('taints', '')} {spec.get('unschedulable', '')}"


def why(jobs: list[Json]) -> list[str]:
    """What jobs say themselves."""
    found = []
    for job in jobs:
        status = job.get("status") or {}
        conditions = [c for c in status.get("conditions") or [] if c["type"] in ("Scheduled", "Accepted")]
        messages = [c.get("message", "") for c in conditions]
        found.append(f"{job['metadata']['name']} is {status.get('state')}: {messages}")
    return found
