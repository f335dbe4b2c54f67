"""Pods as real processes over real sockets: results, deaths, silence, strangers. Nobody may ever hang."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest
from tests.wire.fabric.jobs import SECRET, Pod, a_job, end

from supernode.emulator.fabric import Fabric, FabricConfig
from supernode.emulator.fabric.reception import MAX_UNPROVEN
from supernode.errors import CollectiveTimeoutError

EVERYONE = list(range(8))
WIRING = json.dumps({"levels": [{"name": "node", "bandwidthGBps": 1, "latencyMicroseconds": 1}], "domains": [[0, 1]]})


def started(pod: Pod, number: int) -> None:
    """Wait until a device of the pod has begun its call."""
    while pod.until("started")["number"] != number:
        pass


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_eight_ranks_of_four_pods_agree_on_every_bit(transport):
    do: list[Any] = [
        ["all_reduce", EVERYONE, 1],
        ["all_reduce", EVERYONE, 300_000],
        ["all_reduce", [1, 3, 6], 50_000, {"reduce": "max"}],
        ["broadcast", EVERYONE, 100_000, {"root_or_peer": 5}],
        ["all_reduce", EVERYONE, 16, {"repeat": 50}],
    ]
    with a_job(4, 2, do, transport=transport) as pods:
        lines = [line for pod in pods for line in pod.results()]
    by_call: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        by_call.setdefault(line["number"], []).append(line)
    assert {number: len(found) for number, found in by_call.items()} == {0: 8, 1: 8, 2: 3, 3: 8, 4: 8}
    for number, first in ((0, 36), (1, 36), (2, 7), (3, 6), (4, 36)):
        assert {line.get("first") for line in by_call[number]} == {first}
        assert len({line["sha"] for line in by_call[number]}) == 1
        assert len({line["end"] for line in by_call[number]}) == 1


@pytest.mark.parametrize(
    ("victim", "count", "transport"), [(0, 100, "tcp"), (2, 4_000_000, "tcp"), (2, 100, "auto"), (0, 4_000_000, "auto")]
)
def test_kill_9_in_the_middle_is_named_on_every_other_rank(victim, count, transport):
    do = [["all_reduce", EVERYONE, count, {"repeat": 1_000_000}], ["all_reduce", EVERYONE, 10]]
    with a_job(4, 2, do, transport=transport) as pods:
        for pod in pods:
            started(pod, 0)
        time.sleep(0.3)
        os.kill(pods[victim].process.pid, signal.SIGKILL)
        for pod in pods:
            if pod.rank == victim:
                continue
            results = pod.results()
            assert len(results) == 4
            for line in results:
                # The call that was under way, and every later one of the group.
                assert line["error"] == "PeerLostError", line
                assert f"ranks {2 * victim}-{2 * victim + 1} lost (worker {victim} at 127.0.0" in line["text"]
            # Survivors that have ended since are in the list too.
            assert victim in pod.seen[-1]["lost"]


def test_other_groups_go_on_when_a_pod_dies():
    """Ranks 0-3 (pods 0, 1) do not need pod 2."""
    do = [["all_reduce", [0, 4], 10, {"repeat": 1_000_000}], ["all_reduce", [0, 1, 2, 3], 1000, {"repeat": 50}]]
    with a_job(3, 2, do) as pods:
        started(pods[2], 0)
        started(pods[0], 0)
        time.sleep(0.2)
        os.kill(pods[2].process.pid, signal.SIGKILL)
        lines = [line for pod in pods[:2] for line in pod.results()]
    assert [line["error"] for line in lines if line["number"] == 0] == ["PeerLostError"]
    assert [line["first"] for line in lines if line["number"] == 1] == [10.0] * 4


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_pod_that_is_stopped_is_named_after_the_timeout(transport):
    do = [["all_reduce", EVERYONE, 200_000, {"repeat": 1_000_000}]]
    with a_job(4, 2, do, timeout=4, transport=transport) as pods:
        for pod in pods:
            started(pod, 0)
        time.sleep(0.3)
        os.kill(pods[1].process.pid, signal.SIGSTOP)
        for pod in (pods[0], pods[2], pods[3]):
            for line in pod.results():
                assert line["error"] == "CollectiveTimeoutError", line
                assert "ranks 2-3" in line["text"]
                assert "worker 1 at 127.0.0" in line["text"]
                assert "does not answer" in line["text"]
        os.kill(pods[1].process.pid, signal.SIGCONT)


def test_ranks_that_do_not_come_are_named():
    do = [["all_reduce", EVERYONE, 10, {"except": {"3": {"kind": "nothing"}, "6": {"kind": "nothing"}}}]]
    with a_job(4, 2, do, timeout=3, leave=False) as pods:
        lines = [line for pod in pods for line in pod.results()]
    first = [line for line in lines if line["number"] == 0]
    assert {line["rank"] for line in first} == {0, 1, 2, 4, 5, 7}
    for line in first:
        assert line["error"] == "CollectiveTimeoutError"
        assert "in the group of ranks 0-7: waited 3 s for ranks 3, 6" in line["text"]


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"count": 11}, "rank 5 called all_reduce(sequence=0, dtype=f32, count=11, reduce=sum)"),
        ({"reduce": "max"}, "rank 5 called all_reduce(sequence=0, dtype=f32, count=10, reduce=max)"),
        ({"kind": "broadcast", "root_or_peer": 0}, "rank 5 called broadcast(sequence=0, dtype=f32, count=10, root=0)"),
    ],
)
def test_a_mismatch_reaches_every_rank_with_both_sides_call_and_the_group_goes_on(different, words):
    do = [["all_reduce", EVERYONE, 10, {"except": {"5": different}}], ["all_reduce", EVERYONE, 10]]
    with a_job(4, 2, do) as pods:
        lines = [line for pod in pods for line in pod.results()]
    first = [line for line in lines if line["number"] == 0]
    assert len(first) == 8
    assert {line["error"] for line in first} == {"CollectiveMismatchError"}
    assert len({line["text"] for line in first}) == 1
    assert words in first[0]["text"]
    assert "ranks 0-4, 6-7 called all_reduce(sequence=0, dtype=f32, count=10, reduce=sum)" in first[0]["text"]
    assert [line["first"] for line in lines if line["number"] == 1] == [36.0] * 8


def test_a_pod_that_leaves_is_named_by_those_who_stay():
    absent = {"2": {"kind": "nothing"}, "3": {"kind": "nothing"}}
    do = [["all_reduce", EVERYONE[:4], 1000], ["all_reduce", EVERYONE[:4], 10, {"except": absent}]]
    with a_job(2, 2, do) as pods:
        lines = [line for pod in pods for line in pod.results()]
    assert [line["first"] for line in lines if line["number"] == 0] == [10.0] * 4
    for line in lines:
        if line["number"] == 1:
            assert line["error"] == "PeerLostError"
            assert "ranks 2-3 lost" in line["text"]


def test_another_attempt_is_refused_until_the_deadline():
    with a_job(2, 1, [], ranks={1: {"attempt": 4, "start_timeout": 1}}) as pods:
        failed = pods[1].until("failed")
        assert failed["failed"] == "CollectiveTimeoutError"
        assert "last: attempt 4 met attempt 0" in failed["text"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"devices_per_worker": 2}, "started with devices=2, rank 0 with 1"),
        ({"workers": 3}, "started with workers=3, rank 0 with 2"),
        ({"topology": WIRING}, "started with wiring="),
    ],
)
def test_a_pod_of_another_job_shape_is_refused_at_once(other, words):
    with a_job(2, 1, [], start_timeout=20, ranks={1: other}) as pods:
        failed = pods[1].until("failed")
        assert failed["failed"] == "FabricError"
        assert words in failed["text"]


def test_garbage_and_silent_strangers_do_not_stop_the_job():
    """400 strangers, half silent and half talkative, before the second pod comes; then garbage while it runs."""
    said = {"devices_per_worker": 1, "listen_port": 0, "secret": SECRET, "timeout": 20.0, "start_timeout": 30.0}
    first = Fabric(FabricConfig(0, 2, listen_host="127.0.0.2", **said))
    strangers: list[socket.socket] = []
    fabrics = [first]
    try:
        host, port = first.address or ("", 0)
        garbage = [b"GET / HTTP/1.1\r\n\r\n" * 10, b"\0" * 4096, b"SUPERNODEFABRIC\0" + b"\xff" * 500, os.urandom(300)]
        for number in range(400):
            stranger = socket.create_connection((host, port), timeout=10)
            if number % 2:
                stranger.sendall(garbage[number // 2 % len(garbage)])
            strangers.append(stranger)
        second = Fabric(FabricConfig(1, 2, listen_host="127.0.0.3", rendezvous=f"{host}:{port}", **said))
        fabrics.append(second)
        threads = [threading.Thread(target=fabric.start) for fabric in fabrics]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=40)
            assert not thread.is_alive()
        assert first.lost == second.lost == {}
        for fabric in fabrics:
            late = socket.create_connection(fabric.address, timeout=10)
            late.sendall(os.urandom(200))
            strangers.append(late)
        assert sum(first.turned_away.values()) >= 200
        # Each silent stranger costs a thread, but only so many at once.
        deadline = time.monotonic() + 30
        while sum(thread.name == "fabric-handshake" for thread in threading.enumerate()) > MAX_UNPROVEN + 8:
            assert time.monotonic() < deadline  # those that were dropped need a moment on a busy host
            time.sleep(0.05)
        assert first.turned_away["protocol"] >= 50
    finally:
        for stranger in strangers:
            stranger.close()
        for fabric in fabrics:
            fabric.close()


def test_nobody_at_the_rendezvous_is_said_after_the_deadline():
    with socket.socket() as unused:
        unused.bind(("127.0.0.2", 0))
        rendezvous = f"127.0.0.2:{unused.getsockname()[1]}"
    config = FabricConfig(1, 2, 1, listen_port=0, rendezvous=rendezvous, secret=SECRET, start_timeout=0.5)
    fabric = Fabric(config)
    with pytest.raises(CollectiveTimeoutError, match=rf"worker 0 at {rendezvous} within 0.5 s; last: .*refused"):
        fabric.start()
    fabric.close()


def test_a_sidecar_that_starts_again_before_all_are_there_takes_its_place():
    said = {
        "workers": 3,
        "devices_per_worker": 1,
        "listen_port": 0,
        "secret": SECRET,
        "start_timeout": 30,
        "timeout": 20,
    }
    said |= {"do": [["all_reduce", [0, 1, 2], 10]], "rendezvous": ""}
    pods = [Pod({**said, "rank": 0, "listen_host": "127.0.0.2"})]
    try:
        host, port = pods[0].until("address")["address"]
        said["rendezvous"] = f"{host}:{port}"
        first = Pod({**said, "rank": 1, "listen_host": "127.0.0.3"})
        pods.append(first)
        first.until("address")
        time.sleep(0.3)
        first.process.kill()
        first.process.wait()
        pods += [Pod({**said, "rank": rank, "listen_host": f"127.0.0.{2 + rank}"}) for rank in (1, 2)]
        for pod in (pods[0], pods[2], pods[3]):
            assert [line["first"] for line in pod.results()] == [6.0]
    finally:
        end(pods)
