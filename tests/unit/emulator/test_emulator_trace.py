"""Traces: what is kept, what the file says, and that wrong files are refused with the event that is wrong."""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from supernode.cli import main
from supernode.commands import emulator
from supernode.emulator.trace import COPY, EVENTS, KERNEL, Trace, chrome_trace
from supernode.emulator.trace_files import check, figures, merge, summary
from supernode.errors import InputError


def a_trace(rank: int = 0, events: int = 3) -> dict[str, Any]:
    trace = Trace(100)
    lane = trace.lane("stream 0")
    for number in range(events):
        trace.add(lane, KERNEL, "add", number * 2e-6, number * 2e-6 + 1e-6, {"inputs": "f32[4]"})
    return chrome_trace([(rank, "chip", trace)], worker=rank, attempt=0, now={rank: 1.0})


def test_the_last_entries_are_kept_and_the_rest_counted() -> None:
    trace = Trace(5)
    for number in range(12):
        trace.add(trace.lane("stream 0"), COPY, str(number), number, number + 0.5, 64)
    assert [entry.name for entry in trace.entries()] == ["7", "8", "9", "10", "11"]
    assert trace.dropped == 7
    shown = chrome_trace([(3, "chip", trace)], worker=1, attempt=2, now={3: 12.0})
    assert shown["otherData"]["droppedEvents"] == {"3": 7}
    assert {event["pid"] for event in shown["traceEvents"]} == {3}
    assert shown["traceEvents"][-1]["args"] == {"bytes": 64}
    assert shown["traceEvents"][-1]["ts"] == 11e6


def test_names_of_streams_are_bounded_and_an_old_one_is_said_to_be_old() -> None:
    trace = Trace(5)
    first = trace.lane("first")
    for number in range(2000):
        trace.lane(f"stream {number}")
    assert trace.name_of(first) == "an earlier stream"
    assert len(trace._lanes) <= 1024


def test_reading_while_streams_add_does_not_fail() -> None:
    trace = Trace(1000)
    stop = threading.Event()

    def add() -> None:
        lane = trace.lane("stream")
        while not stop.is_set():
            trace.add(lane, KERNEL, "add", 0.0, 1.0)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        assert len(trace.entries()) <= 1000
    stop.set()
    for thread in threads:
        thread.join()


def test_figures_of_a_trace_that_forgot_its_beginning() -> None:
    trace = Trace(4)
    lane = trace.lane("stream 0")
    for number in range(6):
        trace.add(lane, (KERNEL, COPY)[number % 2], "work", number, number + 0.5, 8)
    merged = merge([("a", chrome_trace([(7, "chip", trace)], worker=7, attempt=0, now={7: 6.0})), ("b", a_trace(1))])
    first, last = figures(merged)
    assert (first["rank"], first["events"], first["dropped"]) == (1, 3, 0)
    assert last == {
        "rank": 7,
        "seconds": pytest.approx(3.5),
        "kernel": 1.0,
        "copy": 1.0,
        "collective": 0.0,
        "events": 4,
        "dropped": 2,
    }
    assert summary(merged)[-1] == "rank 7: 2 earlier events were kept no longer"


def test_traces_of_several_sidecars_become_one() -> None:
    both = merge([("a", a_trace(0)), ("b", a_trace(1, events=5))])
    check(both, "both")
    assert json.loads(json.dumps(both)) == both
    assert [event["ph"] for event in both["traceEvents"]].index("X") == 6
    assert summary(both) == [
        "rank 0: 0.005 ms of device time: kernel 0.003 ms",
        "rank 1: 0.009 ms of device time: kernel 0.005 ms",
    ]
    with pytest.raises(InputError, match="b and a both have device 0"):
        merge([("a", a_trace(0)), ("b", a_trace(0))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ph": "Q"}, "of another phase"),
        ({"name": 3}, "has no name"),
        ({"pid": "0"}, "has no whole number pid"),
        ({"tid": True}, "has no whole number tid"),
        ({"ts": -1}, "has no ts of 0 or more"),
        ({"dur": float("nan")}, "has no dur of 0 or more"),
        ({"dur": None}, "has no dur of 0 or more"),
        ({"args": []}, "has args that are no object"),
        ({"cat": "bus"}, "is of none of the categories kernel, copy, collective"),
        ({"ph": "M", "name": "colour"}, "is metadata of an unknown name"),
        ({"ts": 0.5}, r"begins before the one before it on its stream ends \(3.000\)"),
    ],
)
def test_what_breaks_the_formats_rules_is_refused(change: dict[str, Any], words: str) -> None:
    trace = a_trace()
    trace["traceEvents"][-1] |= change
    with pytest.raises(InputError, match=f"file: event 5 .*{words}"):
        check(trace, "file")
    dropping = [{"otherData": {"droppedEvents": counts}, "traceEvents": []} for counts in (3, {"x": 1}, {"1": 1})]
    for nonsense in ([], {}, {"traceEvents": {}}, 3, {"traceEvents": [], "otherData": 1}, *dropping):
        with pytest.raises(InputError, match="is not a trace"):
            check(nonsense, "file")


def test_the_command_merges_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        (tmp_path / f"{rank}.json").write_text(json.dumps(a_trace(rank)))
    out = tmp_path / "job.json"
    files = [str(tmp_path / "0.json"), str(tmp_path / "1.json")]
    assert main(["emulator", "trace", *files, "--output", str(out)]) == 0
    check(json.loads(out.read_text()), "job")
    said = capsys.readouterr().out
    assert "rank 1: 0.005 ms of device time" in said
    assert "ui.perfetto.dev" in said
    assert main(["emulator", "trace", files[0], "-o", "-"]) == 0
    check(json.loads(capsys.readouterr().out), "terminal")
    (tmp_path / "bad.json").write_text("{")
    assert main(["emulator", "trace", str(tmp_path / "bad.json")]) == 1
    assert "is not JSON" in capsys.readouterr().err
    assert main(["emulator", "trace", "file:///etc/passwd"]) == 1
    assert "neither an http address nor a file" in capsys.readouterr().err


def test_the_commands_of_the_page_are_commands() -> None:
    page = (Path(__file__).parents[3] / "docs/time-and-traces.md").read_text()
    commands = [line.split() for line in page.splitlines() if line.startswith("supernode ")]
    assert [command[:3] for command in commands] == [["supernode", "emulator", what] for what in ("trace", "exec")]
    for command in commands:
        parser = argparse.ArgumentParser()
        emulator.configure(parser)
        args = parser.parse_args(command[2:])
        assert args.emulator_command in ("trace", "exec")
    assert f"--trace-events`; {0} turns" in page
    assert f"last {EVENTS:,} kernels" in page
