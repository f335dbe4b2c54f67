"""Creates the pods of a gang with as little work for the API server as possible.

Flows in: pods as JSON. Flows out: pods as the server has them, for the store. Where the server speaks protobuf the pods
go in that form, and only their metadata come back; else all goes as JSON.
"""

from __future__ import annotations

from supernode.cluster.client import Client
from supernode.cluster.kinds import PODS, Json
from supernode.cluster.protobuf import MAGIC, PROTOBUF, PodEncoder
from supernode.errors import ClusterError
from supernode.names import FIELD_MANAGER

_METADATA = "PartialObjectMetadata"


async def speaks_protobuf(client: Client) -> bool:
    """Whether the server reads and writes that form: an embedded one does not."""
    try:
        return (await client.text("/api/v1", accept=PROTOBUF)).startswith(MAGIC.decode())
    except ClusterError:
        return False


async def create_pod(client: Client, pod: Json, encoder: PodEncoder | None) -> Json:
    """Create one pod; gives it as far as it is known now.

    Args:
        client: the connection.
        pod: with its namespace.
        encoder: of the pods that are like it; None where the server does not speak protobuf.

    Raises:
        ClusterError: as `Client.create`.
    """
    metadata = pod["metadata"]
    data = encoder.encode(pod) if encoder is not None else None
    if data is None:
        return await client.create(PODS, pod, metadata["namespace"])
    params = {"fieldManager": FIELD_MANAGER}
    answer = await client.request(
        "POST", PODS.path(metadata["namespace"]), body=data, params=params, content_type=PROTOBUF
    )
    if answer.get("kind") != _METADATA:
        return answer
    made = {**metadata, **answer["metadata"]}
    version = made["resourceVersion"]
    # What admission has changed is not known yet: it counts as older, so that the watch's own copy replaces it.
    made["resourceVersion"] = str(int(version) - 1) if version.isdecimal() else version
    return {**pod, "metadata": made, "status": {"phase": "Pending"}}
