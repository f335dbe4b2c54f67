"""What happens to the ranks of this process when something goes wrong: errors by name, nobody left behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from tests.unit.fabric.pods import SECRET, a_job, at_once, listening, outcomes, run

from supernode.emulator.fabric import CollectiveCall, Fabric, FabricConfig
from supernode.errors import (
    AuthenticationError,
    CollectiveMismatchError,
    CollectiveTimeoutError,
    FabricError,
    PeerLostError,
)


def summing(group: tuple[int, ...], count: int = 8, **more: object) -> CollectiveCall:
    return CollectiveCall("all_reduce", group, dtype="f32", count=count, **more)


def part(fabrics, rank: int, call: CollectiveCall):
    return lambda: run(fabrics, rank, call, np.ones(call.count, np.float32), np.empty(call.count, np.float32))


def test_a_late_rank_is_named_with_what_it_does_instead():
    with a_job(2, 2, timeouts=[1.0, 60.0]) as fabrics:
        elsewhere = threading.Thread(target=part(fabrics, 2, summing((2, 3))), daemon=True)
        elsewhere.start()
        with pytest.raises(CollectiveTimeoutError) as caught:
            part(fabrics, 0, summing((0, 2)))()
        assert "in the group of ranks 0, 2: waited 1 s for rank 2" in str(caught.value)
        assert "(rank 2 is in all_reduce(sequence=0, dtype=f32, count=8, reduce=sum))" in str(caught.value)
        part(fabrics, 3, summing((2, 3)))()
        elsewhere.join(timeout=20)
        assert not elsewhere.is_alive()


def test_a_group_that_failed_stays_failed_on_every_pod_and_others_work():
    with a_job(2, 1, timeouts=[0.5, 30.0]) as fabrics:
        with pytest.raises(CollectiveTimeoutError):
            part(fabrics, 0, summing((0, 1)))()
        # Rank 1 comes too late: it gets the same error at once, although its own timeout is far away.
        with pytest.raises(CollectiveTimeoutError, match=r"waited 0\.5 s for rank 1"):
            part(fabrics, 1, summing((0, 1)))()
        at_once([part(fabrics, rank, summing((0, 1), channel=1)) for rank in (0, 1)])


def test_an_abort_wakes_a_pod_that_would_wait_much_longer():
    with a_job(3, 1, timeouts=[0.5, 3000.0, 3000.0]) as fabrics:
        results = outcomes([part(fabrics, rank, summing((0, 1, 2))) for rank in (0, 1)])
        assert [type(result) for result in results] == [CollectiveTimeoutError] * 2
        assert str(results[0]) == str(results[1])
        assert "waited 0.5 s for rank 2" in str(results[0])


def test_a_loss_wakes_those_who_wait_for_somebody_else():
    """Rank 1 waits for rank 0, which has not come; rank 2 goes. Rank 1 need not wait for rank 0's verdict."""
    fabrics = listening(3, 1, timeouts=[3000.0] * 3)
    at_once([fabric.start for fabric in fabrics])

    def close_soon() -> None:
        time.sleep(0.3)
        fabrics[2].close()

    results = outcomes([part(fabrics, 1, summing((0, 1, 2))), close_soon])
    assert isinstance(results[0], PeerLostError)
    assert "rank 2 lost (worker 2 at" in str(results[0])
    for fabric in fabrics:
        fabric.close()


def test_a_late_device_of_the_same_pod_is_named():
    with a_job(1, 3, timeouts=[0.3]) as fabrics:
        results = outcomes([part(fabrics, rank, summing((0, 1, 2))) for rank in (0, 2)])
        assert [type(result) for result in results] == [CollectiveTimeoutError] * 2
        assert all("waited 0.3 s for rank 1" in str(result) for result in results)


def test_a_late_sender_is_named_by_the_receiver():
    with a_job(2, 1, timeouts=[0.5, 0.5]) as fabrics:
        call = CollectiveCall("recv", (0, 1), dtype="f32", count=4, root_or_peer=0)
        with pytest.raises(CollectiveTimeoutError, match=r"waited 0\.5 s for rank 0"):
            run(fabrics, 1, call, None, np.empty(4, np.float32))


def test_a_transfer_whose_sizes_differ_is_a_mismatch_on_both_sides():
    with a_job(2, 1) as fabrics:
        send = CollectiveCall("send", (0, 1), dtype="f32", count=4, root_or_peer=1)
        recv = CollectiveCall("recv", (0, 1), dtype="f32", count=5, root_or_peer=0)
        results = outcomes(
            [
                lambda: run(fabrics, 0, send, np.ones(4, np.float32), None),
                lambda: run(fabrics, 1, recv, None, np.ones(5, np.float32)),
            ]
        )
        for result in results:
            assert isinstance(result, CollectiveMismatchError)
            assert "rank 0 called send/recv(dtype=f32, count=4)" in str(result)
            assert "rank 1 called send/recv(dtype=f32, count=5)" in str(result)


def test_a_mismatch_inside_one_pod_is_found_too():
    with a_job(1, 2) as fabrics:
        results = outcomes([part(fabrics, 0, summing((0, 1), 8)), part(fabrics, 1, summing((0, 1), 9))])
        assert all(isinstance(result, CollectiveMismatchError) for result in results)
        at_once([part(fabrics, rank, summing((0, 1))) for rank in (0, 1)])


def test_closing_wakes_those_who_wait_and_tells_the_other_pods():
    fabrics = listening(2, 1, timeouts=[60.0, 60.0])
    at_once([fabric.start for fabric in fabrics])
    waiting = [part(fabrics, 0, summing((0, 1))), part(fabrics, 0, summing((0, 1), channel=5))]

    def close_soon() -> None:
        time.sleep(0.3)
        fabrics[0].close()

    results = outcomes([*waiting, close_soon])
    assert all(isinstance(result, FabricError) and "closed" in str(result) for result in results[:2])
    with pytest.raises(PeerLostError, match=r"worker 0 at 127\.0\.0\.1"):
        part(fabrics, 1, summing((0, 1), channel=7))()
    fabrics[1].close()
    with pytest.raises(FabricError, match="closed"):
        part(fabrics, 1, summing((1,)))()
    for fabric in fabrics:
        fabric.close()


def test_a_device_that_cannot_take_part_fails_all_at_once():
    """An earlier error on one device must not cost the others the whole timeout."""
    with a_job(2, 2, timeouts=[60.0, 60.0]) as fabrics:
        call = summing((0, 1, 2, 3))
        results = outcomes(
            [
                *(part(fabrics, rank, call) for rank in (0, 1, 2)),
                lambda: fabrics[1].withdraw(call, 1, "OutOfDeviceMemoryError: 3 GiB asked, 1 GiB left"),
            ]
        )
        for result in results[:3]:
            assert isinstance(result, FabricError)
            assert "rank 3 cannot take part in all_reduce" in str(result)
            assert "OutOfDeviceMemoryError: 3 GiB asked" in str(result)


def test_no_thread_and_no_socket_is_left_behind():
    before = threading.active_count()
    for _ in range(3):
        with a_job(3, 2) as fabrics:
            at_once([part(fabrics, rank, summing(tuple(range(6)), 50_000)) for rank in range(6)])
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before


def test_another_secret_is_refused_and_the_rendezvous_says_who_is_missing():
    first = Fabric(FabricConfig(0, 2, 1, listen_port=0, secret=SECRET, start_timeout=2.0))
    host, port = first.address
    other = {"listen_port": 0, "secret": b"another secret, as long as it needs be", "start_timeout": 60.0}
    stranger = Fabric(FabricConfig(1, 2, 1, rendezvous=f"{host}:{port}", **other))
    results = outcomes([first.start, stranger.start])
    first.close()
    stranger.close()
    assert isinstance(results[1], AuthenticationError)
    assert isinstance(results[0], CollectiveTimeoutError)
    assert f"1 of 2 workers came to {host}:{port} within 2 s; missing: workers [1]" in str(results[0])
    assert "connections turned away: {'secret': 1}" in str(results[0])


@pytest.mark.parametrize("rank", [0, 1])
def test_closing_ends_a_start_that_still_waits_for_others(rank):
    fabrics = listening(3, 1, start_timeout=600.0)

    def close_soon() -> None:
        time.sleep(0.3)
        fabrics[rank].close()
        fabrics[0].close()

    results = outcomes([fabrics[rank].start, close_soon])
    assert isinstance(results[0], FabricError)
    assert "closed before all workers had come" in str(results[0])
    for fabric in fabrics:
        fabric.close()


@pytest.mark.parametrize(
    "words",
    [
        {"do": "ask", "id": 1, "channel": "c", "position": "x"},
        {"do": "ask", "id": 1, "channel": "c", "position": {}},
        {"do": "answer", "id": []},
    ],
)
def test_a_pod_that_holds_the_secret_but_talks_nonsense_is_given_up_and_the_rest_goes_on(words):
    with a_job(3, 1) as fabrics:
        fabrics[2]._mesh._control.send([0], words)
        deadline = time.monotonic() + 20
        while 2 not in fabrics[0].lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(PeerLostError, match="makes no sense"):
            part(fabrics, 0, summing((0, 2)))()
        at_once([part(fabrics, rank, summing((0, 1))) for rank in (0, 1)])


def test_unknown_control_messages_and_aborts_of_unknown_groups_do_no_harm():
    with a_job(2, 1) as fabrics:
        for words in ({"do": "dance"}, {}, {"do": "answer", "id": 99}, {"do": "abort", "channel": "none"}):
            fabrics[1]._mesh._control.send([0], words)
        at_once([part(fabrics, rank, summing((0, 1))) for rank in (0, 1)])
        assert fabrics[0].lost == {}


def test_pods_with_ipv6_addresses_find_each_other():
    try:
        fabrics = listening(2, 1, listen_host="::1")
    except FabricError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        at_once([fabric.start for fabric in fabrics])
        at_once([part(fabrics, rank, summing((0, 1))) for rank in (0, 1)])
    finally:
        for fabric in fabrics:
            fabric.close()


def test_who_leaves_passes_on_why_to_those_who_have_not_heard_it():
    """Rank 2 was told of an error by a pod that was held up before it could tell rank 1, and ends."""
    fabrics = listening(3, 1, timeouts=[3000.0] * 3)
    at_once([fabric.start for fabric in fabrics])

    def end_rank_2() -> None:
        while not all(fabric._channels for fabric in fabrics[1:]):
            time.sleep(0.01)
        key = next(iter(fabrics[2]._channels))
        fabrics[2]._on_abort(key, {"error": "CollectiveTimeoutError", "text": "waited 1 s for rank 0"})
        fabrics[2].close()

    results = outcomes([*(part(fabrics, rank, summing((0, 1, 2))) for rank in (1, 2)), end_rank_2])
    assert [type(result) for result in results[:2]] == [CollectiveTimeoutError] * 2
    assert [str(result) for result in results[:2]] == ["waited 1 s for rank 0"] * 2
    for fabric in fabrics:
        fabric.close()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_pod_that_is_frozen_before_it_answers_a_data_connection_is_late_not_lost(transport, monkeypatch):
    with a_job(2, 1, timeouts=[3000.0, 1.0], transport=transport) as fabrics:
        mesh = fabrics[0]._mesh
        assert mesh is not None
        melted = threading.Event()
        for reception in mesh._receptions:
            monkeypatch.setattr(reception, "_answer", lambda sock: melted.wait(60) and sock.close())
        with pytest.raises(CollectiveTimeoutError, match=r"waited 1 s for rank 0"):
            part(fabrics, 1, summing((0, 1)))()
        melted.set()


def test_who_leaves_passes_on_no_loss_of_a_pod_that_it_needed_no_more(monkeypatch):
    """The others may still be in the call that both have ended: an abort would break it."""
    with a_job(3, 1) as fabrics:
        barrier = CollectiveCall("barrier", (0, 1, 2))
        at_once([lambda rank=rank: run(fabrics, rank, barrier, None, None) for rank in range(3)])
        channel = next(iter(fabrics[1]._channels.values()))
        told = []
        monkeypatch.setattr(fabrics[1]._mesh, "abort", lambda *words: told.append(words))
        fabrics[0].close()
        deadline = time.monotonic() + 30
        while channel.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(channel.failure, PeerLostError)
        fabrics[1].close()
        assert told == []
