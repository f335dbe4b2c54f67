"""What the commands for people have in common: their options, the connection, and lists of objects.

Flows in: parsed arguments. Flows out: raw objects, with errors that say what would help; and the answer, as a table
or as JSON or YAML. Each command gathers plain values first and renders them second, so that `-o json` holds all that
the table shows.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from supernode.cluster.client import Client
from supernode.cluster.kinds import JOBS, Json, Kind
from supernode.cluster.kubeconfig import current_namespace
from supernode.commands.documents import FORMATS, document
from supernode.commands.terminal import Sheet, emit, sheet_for
from supernode.errors import ClusterError, ForbiddenError, NotFoundError, UnavailableError
from supernode.names import GROUP

# Objects of one page of a list.
_PAGE: Final = 500


def add_options(parser: argparse.ArgumentParser, *, namespaced: bool = True) -> None:
    """Options that all commands for people have; without `-n` where nothing that is shown has a namespace."""
    if namespaced:
        parser.add_argument("-n", "--namespace", metavar="NAME", help="namespace (default: the current context's)")
    parser.add_argument(
        "--kubeconfig", metavar="PATH", help="kubeconfig of the cluster (default: $KUBECONFIG, then ~/.kube/config)"
    )
    parser.add_argument(
        "-o", "--output", choices=FORMATS, default="table", help="form of the answer (default: %(default)s)"
    )


def add_all_namespaces(parser: argparse.ArgumentParser) -> None:
    """`-A`."""
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="jobs of all namespaces")


def run_with(args: argparse.Namespace, body: Callable[[Client], Awaitable[int]]) -> int:
    """Connect, run, close. Raises ClusterError."""

    async def main() -> int:
        client = await Client.connect(args.kubeconfig)
        try:
            return await body(client)
        except UnavailableError as exc:
            if exc.status:
                raise
            raise UnavailableError(f"no answer from the cluster at {client.host}: {_short(exc)}") from exc
        finally:
            await client.close()

    return asyncio.run(main())


def answer(
    args: argparse.Namespace,
    gather: Callable[[Client], Awaitable[Json]],
    render: Callable[[Json, Sheet, float], None],
) -> int:
    """Gather values from the cluster and show them as the arguments ask."""

    async def body(client: Client) -> int:
        facts = await gather(client)
        if args.output == "table":
            sheet = sheet_for()
            render(facts, sheet, time.time())
            emit(sheet.text())
        else:
            emit(document(facts, args.output))
        return 0

    return run_with(args, body)


def namespace_of(args: argparse.Namespace) -> str:
    """The namespace that is meant."""
    return str(args.namespace or current_namespace(args.kubeconfig))


async def list_all(client: Client, kind: Kind, namespace: str | None = None, selector: str | None = None) -> list[Json]:
    """Every object of a kind, read in pages.

    Raises:
        ClusterError: among others when the cluster doesn't know our kinds.
    """
    found: list[Json] = []
    token: str | None = None
    while True:
        try:
            page = await client.list_page(kind, namespace, selector=selector, limit=_PAGE, token=token)
        except NotFoundError as exc:
            if kind.group != GROUP:
                raise
            raise NotFoundError(
                f"the cluster at {client.host} has no {kind.plural}.{GROUP}: Supernode is not installed there "
                "(helm install supernode charts/supernode)",
                status=exc.status,
                reason=exc.reason,
            ) from exc
        found += page.get("items") or []
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return found


async def list_allowed(client: Client, kind: Kind, selector: str | None = None) -> list[Json] | None:
    """Every object of a kind in the whole cluster; None for a user who may not see them."""
    try:
        return await list_all(client, kind, selector=selector)
    except ForbiddenError:
        return None


async def list_jobs(client: Client, args: argparse.Namespace, *, everywhere: bool) -> tuple[list[Json], str]:
    """Jobs, and the one namespace that they are from; empty for all namespaces.

    A user who may not look everywhere gets his own namespace, unless he asked for all with `-A`.
    """
    if everywhere and not args.namespace:
        try:
            return await list_all(client, JOBS), ""
        except ForbiddenError:
            if getattr(args, "all_namespaces", False):
                raise
    namespace = namespace_of(args)
    return await list_all(client, JOBS, namespace), namespace


async def find_job(client: Client, args: argparse.Namespace) -> Json:
    """The job that `args.job` names, `NAME` or `NAMESPACE/NAME`.

    Raises:
        NotFoundError: there is none; names those that are spelled alike, and namesakes elsewhere.
    """
    before, slash, after = str(args.job).partition("/")
    name = after if slash else before
    namespace = before if slash else namespace_of(args)
    jobs = await list_all(client, JOBS, namespace)
    names = [job["metadata"]["name"] for job in jobs]
    if name in names:
        return jobs[names.index(name)]
    everywhere = await list_allowed(client, JOBS) or []
    raise NotFoundError(unknown("job", name, names, namespace, [key_of(job) for job in everywhere]), status=404)


def unknown(what: str, name: str, names: list[str], namespace: str = "", elsewhere: list[str] | None = None) -> str:
    """One line for a name that nobody has: which are near, which there are, and where else it stands."""
    text = f'no {what} "{name}"' + (f" in namespace {namespace}" if namespace else "")
    away = [key for key in elsewhere or [] if key.endswith(f"/{name}") and not key.startswith(f"{namespace}/")]
    near = difflib.get_close_matches(name, names, n=3)
    if away:
        return f"{text}, but there is {', '.join(sorted(away)[:3])}"
    if near:
        return f"{text}; did you mean {' or '.join(near)}?"
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"{text}; there are {', '.join(sorted(names)[:5])}{more}"
    return f"{text}; there are none"


def key_of(obj: Json) -> str:
    """`namespace/name`."""
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def condition_of(obj: Json, kind: str) -> Json:
    """The condition of that type; empty if there is none."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def stderr_sheet() -> Sheet:
    """For remarks that are not part of the answer."""
    return sheet_for(sys.stderr)


def _short(exc: ClusterError) -> str:
    """Without the request, which no user asked for."""
    return str(exc).rpartition(": ")[2] or str(exc)
