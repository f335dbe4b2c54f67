"""Logs: what goes in comes out, whole or in part, followed or not, rotated or not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernode.local.agent import logs
from supernode.local.agent.logs import LogQuery, LogWriter, read_log


async def text_of(path: Path, query: LogQuery, writer: LogWriter | None = None) -> bytes:
    return b"".join([piece async for piece in read_log(path, query, writer)])


@given(st.lists(st.binary(max_size=30), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
async def test_every_byte_comes_back_in_order(tmp_path: Path, chunks: list[bytes]) -> None:
    path = tmp_path / "x" / "0.log"
    path.unlink(missing_ok=True)
    writer = LogWriter(path)
    for chunk in chunks:
        writer.write(chunk)
    writer.close()
    assert await text_of(path, LogQuery()) == b"".join(chunks)


async def test_tail_since_limit_and_timestamps(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    writer = LogWriter(path)
    writer.write(b"one\ntwo\nthree\n")
    writer.close()
    assert await text_of(path, LogQuery(tail_lines=2)) == b"two\nthree\n"
    assert await text_of(path, LogQuery(tail_lines=0)) == b""
    assert await text_of(path, LogQuery(limit_bytes=5)) == b"one\nt"
    hour = timedelta(hours=1)
    assert await text_of(path, LogQuery(since=datetime.now(UTC) + hour)) == b""
    assert await text_of(path, LogQuery(since=datetime.now(UTC) - hour)) == b"one\ntwo\nthree\n"
    stamped = (await text_of(path, LogQuery(timestamps=True, tail_lines=1))).decode()
    stamp, word = stamped.split()
    assert word == "three"
    assert datetime.fromisoformat(stamp[:26] + "+00:00") <= datetime.now(UTC)


async def test_follow_ends_with_the_run(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log")
    writer.write(b"a\n")
    reader = asyncio.create_task(text_of(writer.path, LogQuery(follow=True), writer))
    await asyncio.sleep(0)
    writer.write(b"b\nc")
    await asyncio.sleep(0.05)
    assert not reader.done()
    writer.close()
    assert await reader == b"a\nb\nc"


async def test_a_large_log_is_rotated_and_a_follower_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_ROTATE_BYTES", 2000)
    writer = LogWriter(tmp_path / "0.log")
    reader = asyncio.create_task(text_of(writer.path, LogQuery(follow=True), writer))
    written = b""
    for number in range(200):
        line = b"line %d\n" % number
        writer.write(line)
        written += line
        await asyncio.sleep(0.002)
    writer.close()
    assert await reader == written
    assert writer.path.stat().st_size <= 2100
    # Half of it is gone by now, but the end is there.
    assert written.endswith(await text_of(writer.path, LogQuery()))


async def test_the_tail_serves_as_termination_message(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log")
    writer.write(b"x" * 5000 + b"\nlast words")
    writer.close()
    assert writer.tail(20).endswith("last words")
    assert len(writer.tail(20)) == 20
