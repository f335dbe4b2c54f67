"""Creates the pods of a gang with as little work for the API server as possible.

Flows in: pods as JSON. Flows out: pods as the server has them, for the store. Where the server speaks protobuf the pods
go and come in that form, and what the watch says of them afterwards is known already; else all goes as JSON.
"""

from __future__ import annotations

from supernode.cluster.client import Client
from supernode.cluster.kinds import PODS, Json
from supernode.cluster.protobuf import MAGIC, PROTOBUF, PodEncoder
from supernode.cluster.protobuf_reading import read_pod
from supernode.errors import ClusterError, UnavailableError
from supernode.names import FIELD_MANAGER


async def speaks_protobuf(client: Client) -> bool:
    """Whether the server reads and writes that form: an embedded one does not."""
    try:
        return (await client.raw("GET", "/api/v1", accept=PROTOBUF)).startswith(MAGIC)
    except ClusterError:
        return False


async def create_pod(client: Client, pod: Json, encoder: PodEncoder | None) -> Json:
    """Create one pod; gives it as the server has it.

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
    path = PODS.path(metadata["namespace"])
    answer = await client.raw(
        "POST", path, params={"fieldManager": FIELD_MANAGER}, body=data, content_type=PROTOBUF, accept=PROTOBUF
    )
    try:
        return read_pod(answer)
    except ValueError as exc:
        raise UnavailableError(f"POST {path}: {client.host} did not answer as asked: {exc}") from exc
