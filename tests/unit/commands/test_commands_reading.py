"""Reading for people: pages, rights that are missing, logs that are not there yet; against a client played here."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.builders.manifests import a_job

from supernode.cluster.kinds import JOBS, NODES, Json, Kind
from supernode.cluster.kubeconfig import current_namespace
from supernode.commands import logs, reading
from supernode.commands.documents import document
from supernode.errors import BadRequestError, ClusterError, ForbiddenError, InputError, NotFoundError, UnavailableError

SOURCE = logs.Source(0, "gpt-worker-0", "default", "trainer")


class Played:
    """Stands for `cluster.client.Client`: answers of lists by (plural, namespace), and of logs one after another."""

    host = "https://c"

    def __init__(self, lists: dict[tuple[str, str | None], list[Json] | ClusterError], *answers: Any) -> None:
        self.lists = lists
        self.answers = list(answers)
        self.pod: Json = {"metadata": {}, "status": {"phase": "Pending"}}

    async def list_page(
        self, kind: Kind, namespace: str | None = None, *, selector: str | None, limit: int, token: str | None
    ) -> Json:
        found = self.lists[kind.plural, namespace]
        if isinstance(found, ClusterError):
            raise found
        start = int(token or 0)
        more = {"continue": str(start + 1)} if start + 1 < len(found) else {}
        return {"items": found[start : start + 1], "metadata": more}

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        return self.pod

    @contextlib.asynccontextmanager
    async def stream(self, path: str, params: Any = None) -> AsyncIterator[AsyncIterator[bytes]]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer

        async def pieces() -> AsyncIterator[bytes]:
            for piece in answer:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        yield pieces()


def args(job: str = "gpt", **more: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"job": job, "namespace": None, "kubeconfig": None, "all_namespaces": False} | more))


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    path = tmp_path / "config"
    path.write_text("current-context: a\ncontexts: [{name: a, context: {namespace: team-a}}]\n")
    monkeypatch.setenv("KUBECONFIG", str(path))

    def write(text: str) -> None:
        path.write_text(text)

    return write


async def test_lists_come_in_pages() -> None:
    client: Any = Played({("trainingjobs", None): [a_job(f"j{index}") for index in range(3)]})
    assert len(await reading.list_all(client, JOBS)) == 3


async def test_a_cluster_that_does_not_know_our_kinds() -> None:
    client: Any = Played({("trainingjobs", None): NotFoundError("404", status=404)})
    with pytest.raises(NotFoundError, match="Supernode is not installed there"):
        await reading.list_all(client, JOBS)


async def test_what_may_not_be_listed_is_none() -> None:
    client: Any = Played({("nodes", None): ForbiddenError("403", status=403)})
    assert await reading.list_allowed(client, NODES) is None


async def test_without_rights_everywhere_it_is_the_own_namespace_unless_all_were_asked_for() -> None:
    client: Any = Played(
        {
            ("trainingjobs", None): ForbiddenError("403", status=403),
            ("trainingjobs", "team-a"): [a_job(namespace="team-a")],
        }
    )
    jobs, namespace = await reading.list_jobs(client, args(), everywhere=True)
    assert (len(jobs), namespace) == (1, "team-a")
    with pytest.raises(ForbiddenError):
        await reading.list_jobs(client, args(all_namespaces=True), everywhere=True)


@pytest.mark.parametrize(("name", "namespace"), [("gpt", None), ("team-a/gpt", None), ("gpt", "team-a")])
async def test_a_job_by_its_names(name: str, namespace: str | None) -> None:
    client: Any = Played({("trainingjobs", "team-a"): [a_job("x"), a_job("gpt")]})
    assert (await reading.find_job(client, args(name, namespace=namespace)))["metadata"]["name"] == "gpt"


@pytest.mark.parametrize(
    ("text", "namespace"),
    [
        ("current-context: a\ncontexts: [{name: a, context: {namespace: x}}]", "x"),
        ("current-context: b\ncontexts: [{name: a, context: {namespace: x}}]", "default"),
        ("{}", "default"),
    ],
)
def test_the_namespace_of_the_current_context(kubeconfig: Callable[[str], None], text: str, namespace: str) -> None:
    kubeconfig(text)
    assert current_namespace() == namespace


@pytest.mark.parametrize("text", ["a: [", "- a", "contexts: [1]"])
def test_a_kubeconfig_that_is_none_is_one_line(kubeconfig: Callable[[str], None], text: str) -> None:
    kubeconfig(text)
    with pytest.raises(ClusterError, match="can't be read") as found:
        current_namespace()
    assert "\n" not in str(found.value)


def test_of_several_kubeconfigs_the_first_that_says_something_wins(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("current-context: x\n")
    (tmp_path / "b").write_text("current-context: y\ncontexts: [{name: x, context: {namespace: one}}]\n")
    assert current_namespace(f"{tmp_path / 'a'}:{tmp_path / 'gone'}:{tmp_path / 'b'}") == "one"


async def read(client: Played, *, follow: bool) -> tuple[list[str], int]:
    queue: asyncio.Queue[logs.Line | None] = asyncio.Queue()
    failed = await logs._read_all(client, [SOURCE], {}, queue, follow=follow)  # type: ignore[arg-type]
    lines = [queue.get_nowait() for _ in range(queue.qsize())]
    assert lines.pop() is None
    return [("# " if line.remark else "") + line.text for line in lines if line is not None], failed


async def test_a_container_that_has_not_started_is_waited_for_only_when_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_PAUSE", 0)
    early = BadRequestError("is waiting to start", status=400)
    assert await read(Played({}, early, early, [b"a\n"]), follow=True) == (
        ["# waits for its container to start", "a"],
        0,
    )
    assert await read(Played({}, early), follow=False) == (["# no log: is waiting to start"], 1)
    over = Played({}, early)
    over.pod = {"metadata": {}, "status": {"phase": "Failed"}}
    assert await read(over, follow=True) == (["# no log: is waiting to start"], 1)


async def test_a_connection_that_breaks_is_told_after_what_came() -> None:
    lines, failed = await read(Played({}, [b"a\nb", UnavailableError("the connection broke")]), follow=True)
    assert (lines, failed) == (["a", "# no log: the connection broke"], 1)


async def test_an_error_of_ours_ends_the_queue() -> None:
    queue: asyncio.Queue[logs.Line | None] = asyncio.Queue()
    client: Any = Played({}, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await logs._read_all(client, [SOURCE], {}, queue, follow=True)
    assert queue.get_nowait() is None


def test_without_yaml_only_yaml_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the emulator's image."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert document({"a": 1}, "json") == '{\n  "a": 1\n}'
    with pytest.raises(InputError, match="yaml needs the package PyYAML"):
        document({"a": 1}, "yaml")
