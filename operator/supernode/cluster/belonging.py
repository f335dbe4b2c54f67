"""Which pods belong to which job: by the job's uid, and only in the job's own namespace.

Flows in: the stores' changes. Flows out: the pods of a job, present or past. A pod elsewhere that names the job as
its owner is none of its: an owner reference holds inside one namespace.
"""

from __future__ import annotations

from supernode.cluster import pods
from supernode.cluster.cache import Key, Store
from supernode.cluster.kinds import Json


class Belonging:
    """An index of pods by job.

    Args:
        jobs: listened to.
        store: of pods, listened to.
    """

    def __init__(self, jobs: Store, store: Store) -> None:
        self._store = store
        self._pods: dict[str, set[Key]] = {}
        # uid of a job that is there -> its namespace
        self._namespaces: dict[str, str] = {}
        jobs.listen(self._on_job)
        store.listen(self._on_pod)

    def pods_of(self, uid: str) -> list[Json]:
        """All pods of a job, by name; of a job that is not there (any more), all that name it as their owner."""
        namespace = self._namespaces.get(uid)
        keys = sorted(key for key in self._pods.get(uid, ()) if namespace in (None, key[0]))
        return [pod for pod in map(self._store.get, keys) if pod is not None]

    def uids(self) -> list[str]:
        """Uids of all jobs, past and present, of which a pod is there."""
        return list(self._pods)

    def _on_job(self, old: Json | None, new: Json | None) -> None:
        if old is not None:
            self._namespaces.pop(old["metadata"]["uid"], None)
        if new is not None:
            self._namespaces[new["metadata"]["uid"]] = new["metadata"].get("namespace", "")

    def _on_pod(self, old: Json | None, new: Json | None) -> None:
        for pod, present in ((old, False), (new, True)):
            uid = pods.job_uid(pod) if pod is not None else ""
            if pod is not None and uid:
                index(self._pods, uid, (pod["metadata"].get("namespace", ""), pod["metadata"]["name"]), present=present)


def index(found: dict[str, set[Key]], name: str, key: Key, *, present: bool) -> None:
    """Put a key into an index by name, or take it out; names without keys go."""
    members = found.setdefault(name, set())
    (members.add if present else members.discard)(key)
    if not members:
        del found[name]
