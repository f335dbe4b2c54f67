"""`supernode logs JOB`: the logs of all ranks, each line with its rank before it.

Without `-f` rank after rank; with `-f` line by line as they come, until all workers have ended. Lines are cleaned as
everything else is: a worker's colours and cursor movements don't reach the terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import yaml

from supernode.cluster import pods
from supernode.cluster.client import Client
from supernode.cluster.kinds import PODS, Json
from supernode.commands.reading import add_options, condition_of, find_job, key_of, list_all, run_with, unknown
from supernode.commands.terminal import ROTATION, Colour, clean, emit, wants_colour
from supernode.errors import BadRequestError, ClusterError, NotFoundError
from supernode.names import LABEL_JOB_UID

# Colours of text: dropped, not written out, because so many programs set them.
_SGR = re.compile(r"\x1b\[[0-9;:]*m")
# Longest piece of a log that is shown as one line, bytes.
_LONGEST_LINE = 64 * 1024
# Between two looks whether a container has started, seconds.
_PAUSE = 0.5
# Lines that wait to be written before reading stops.
_QUEUE = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """One log: of a container of a rank's pod."""

    rank: int
    pod: str
    namespace: str
    container: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log; or, where `remark` is set, a word of ours about it."""

    source: Source
    text: str
    remark: bool = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("job", metavar="JOB", help="name of the job, or NAMESPACE/NAME")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until all workers have ended")
    parser.add_argument(
        "--rank", type=parse_ranks, metavar="RANKS", help="only these ranks, such as 0 or 0,4-7 (default: all)"
    )
    parser.add_argument("-c", "--container", metavar="NAME", help="container (default: the worker's first)")
    parser.add_argument("--tail", type=_lines, metavar="N", help="only the last N lines of each rank")
    add_options(parser)


def parse_ranks(text: str) -> frozenset[int]:
    """Ranks as a person writes them, such as `0,4-7`."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 15:
            raise argparse.ArgumentTypeError(f"must be ranks such as 0 or 0,4-7, found {part!r}")
        low, high = int(first), int(last or first)
        if high < low or high - low > 1_000_000:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of ranks")
        found |= set(range(low, high + 1))
    return frozenset(found)


def _lines(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def run(args: argparse.Namespace) -> int:
    """Read and show; 1 if no log could be read."""

    async def body(client: Client) -> int:
        job = await find_job(client, args)
        sources = choose(job, await pods_of(client, job), args.rank, args.container)
        printer = Printer(args.output, max(source.rank for source in sources))
        parameters = {} if args.tail is None else {"tailLines": str(args.tail)}
        queue: asyncio.Queue[Line | None] = asyncio.Queue(_QUEUE)
        reader = asyncio.create_task(_read_all(client, sources, parameters, queue, follow=args.follow))
        shown = 0
        try:
            while (line := await queue.get()) is not None:
                shown += not line.remark
                printer.show(line)
            failed = await reader
        finally:
            # Whoever reads our output may have gone, or someone pressed Ctrl-C.
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        return 0 if shown or not failed else 1

    return run_with(args, body)


async def pods_of(client: Client, job: Json) -> list[Json]:
    """The pods of a job, of all attempts."""
    metadata = job["metadata"]
    return await list_all(client, PODS, metadata["namespace"], f"{LABEL_JOB_UID}={metadata['uid']}")


def newest(job: Json, found: list[Json], ranks: frozenset[int] | None) -> dict[int, Json]:
    """The newest pod of each rank that is meant (None: of all), from a job's pods of all attempts.

    Raises:
        NotFoundError: there are none; says what there is.
    """
    by_rank = {pods.rank_of(pod): pod for pod in sorted(found, key=pods.attempt_of) if pods.rank_of(pod) >= 0}
    if not by_rank:
        status = job.get("status") or {}
        message = status.get("message") or condition_of(job, "Scheduled").get("message") or ""
        said = f"job {key_of(job)} is {status.get('state') or 'Pending'} and has no pods"
        raise NotFoundError(f"{said}: {message}" if message else said, status=404)
    wanted = {rank: pod for rank, pod in sorted(by_rank.items()) if ranks is None or rank in ranks}
    if not wanted:
        raise NotFoundError(f"job {key_of(job)} has no such rank; its ranks are 0 to {max(by_rank)}", status=404)
    return wanted


def choose(job: Json, found: list[Json], ranks: frozenset[int] | None, container: str | None) -> list[Source]:
    """Which logs are meant, by rank; of pods of several attempts the newest counts.

    Raises:
        NotFoundError: there are none; says what there is.
    """
    wanted = newest(job, found, ranks)
    sources = []
    for rank, pod in wanted.items():
        spec = pod.get("spec") or {}
        names = [str(c.get("name")) for c in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]]
        if container is not None and container not in names:
            raise NotFoundError(unknown("container", container, names), status=404)
        metadata = pod["metadata"]
        sources.append(Source(rank, metadata["name"], metadata["namespace"], container or names[0]))
    return sources


async def _read_all(
    client: Client,
    sources: list[Source],
    parameters: dict[str, str],
    queue: asyncio.Queue[Line | None],
    *,
    follow: bool,
) -> int:
    """Put all lines into the queue, None last; the number of logs that could not be read."""
    try:
        if follow:
            done = await asyncio.gather(*(_read(client, source, parameters, queue, follow=True) for source in sources))
        else:
            done = [await _read(client, source, parameters, queue, follow=False) for source in sources]
    except asyncio.CancelledError:
        raise  # nobody reads the queue any more
    except BaseException:
        await queue.put(None)
        raise
    await queue.put(None)
    return done.count(False)


async def _read(
    client: Client, source: Source, parameters: dict[str, str], queue: asyncio.Queue[Line | None], *, follow: bool
) -> bool:
    """One log into the queue; False if it could not be read, which a remark says."""
    path = PODS.path(source.namespace, source.pod, "log")
    params = {"container": source.container, **parameters, **({"follow": "true"} if follow else {})}
    waited = False
    while True:
        try:
            async with client.stream(path, params) as pieces:
                async for text in split(pieces):
                    await queue.put(Line(source, text))
            return True
        except BadRequestError as exc:
            # The container has not started yet.
            if not follow or not await _may_start(client, source):
                await queue.put(Line(source, f"no log: {exc}", remark=True))
                return False
            if not waited:
                await queue.put(Line(source, "waits for its container to start", remark=True))
            waited = True
            await asyncio.sleep(_PAUSE)
        except ClusterError as exc:
            await queue.put(Line(source, f"no log: {exc}", remark=True))
            return False


async def _may_start(client: Client, source: Source) -> bool:
    with contextlib.suppress(NotFoundError):
        return not pods.is_over(await client.get(PODS, source.pod, source.namespace))
    return False


async def split(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines of a byte stream, however it is cut; a line that is redrawn (carriage return) is one line each time.

    A line that never ends is cut after 64 KiB.
    """
    rest = b""
    async for piece in pieces:
        *done, rest = re.split(rb"\r\n|\n|\r(?!\Z)", rest + piece)
        for line in done:
            yield line.decode(errors="replace")
        while len(rest) > _LONGEST_LINE:
            yield rest[:_LONGEST_LINE].decode(errors="replace")
            rest = rest[_LONGEST_LINE:]
    if rest:
        yield rest.rstrip(b"\r").decode(errors="replace")


class Printer:
    """Writes lines as asked.

    Args:
        form: table, json (an object a line) or yaml (a list).
        last_rank: the highest, for the width of the prefix.
    """

    def __init__(self, form: str, last_rank: int) -> None:
        self._form = form
        self._width = len(str(last_rank))
        self._colour = wants_colour(sys.stdout)

    def show(self, line: Line) -> None:
        """One line to standard output; a remark to standard error."""
        if line.remark:
            emit(f"rank {line.source.rank}: {clean(line.text)}", sys.stderr)
        else:
            emit(self.rendered(line))

    def rendered(self, line: Line) -> str:
        """What is written for a line."""
        source = line.source
        if self._form == "table":
            prefix = f"[{source.rank:>{self._width}}]"
            if self._colour:
                colour: Colour = ROTATION[source.rank % len(ROTATION)]
                prefix = f"\x1b[{colour.value}m{prefix}\x1b[0m"
            return f"{prefix} {clean(_SGR.sub('', line.text), keep_tabs=True)}"
        entry = {"rank": source.rank, "pod": source.pod, "container": source.container, "line": line.text}
        if self._form == "json":
            return json.dumps(entry).replace("\x7f", "\\u007f")
        return str(yaml.safe_dump([entry], sort_keys=False, allow_unicode=False)).rstrip("\n")
