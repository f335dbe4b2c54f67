"""Where a job's time goes: every second is counted once, whoever counts and however often; slow ranks stand out."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.placements import placed_on

from supernode.api.conditions import timestamp
from supernode.handlers.goodput import Inside, accounted, counted_until, losses_of, share_of
from supernode.handlers.stragglers import Pace, likes_of, pace_of, sentence_of, stragglers_json

CREATED = 1_800_000_000
NOTHING = Inside()
STATES = ("Pending", "Waiting", "Starting", "Running", "Restarting", "Suspended")


def a_status(state: str, step: int | None = None, **more: Any) -> dict[str, Any]:
    return {"state": state, **({} if step is None else {"progress": {"step": step}}), **more}


def told(*moments: tuple[float, dict[str, Any]], inside: Inside = NOTHING) -> dict[str, Any]:
    """The count after a job had these statuses, each from that second after its creation on."""
    before: dict[str, Any] = {}
    for seconds, status in moments:
        counted = accounted(before, status, timestamp(CREATED), inside, CREATED + seconds)
        before = {**status, **({"goodput": counted} if counted else {})}
    found: dict[str, Any] = before["goodput"]
    return found


def test_waiting_starting_and_loading_are_lost_and_steps_are_not() -> None:
    counted = told(
        (0, a_status("Pending")),
        (40, a_status("Starting")),  # 40 s in the queue
        (50, a_status("Running")),  # 10 s for the pods
        (70, a_status("Running", 1)),  # 20 s until the program's first step
        (150, a_status("Running", 81)),
        (200, a_status("Succeeded", 131)),
    )
    assert (counted["waitingSeconds"], counted["startingSeconds"], counted["runningSeconds"]) == (40, 30, 130)
    assert counted["share"] == pytest.approx(130 / 200)


@pytest.mark.parametrize(("state", "field"), [("Waiting", "waiting"), ("Running", "running"), ("Starting", "starting")])
def test_time_in_which_nothing_was_written_is_shown_all_the_same(state: str, field: str) -> None:
    counted = told((0, a_status("Pending")), (6, a_status(state)))
    assert counted["share"] == 0
    shown = counted_until({**a_status(state), "goodput": counted}, timestamp(CREATED), CREATED + 606)
    assert shown[f"{field}Seconds"] == 600 + (6 if state == "Waiting" else 0)
    assert shown["share"] == pytest.approx(600 / 606 if state == "Running" else 0, abs=1e-4)


def test_of_a_job_that_has_ended_and_of_one_that_nobody_counted_nothing_is_added() -> None:
    counted = told((0, a_status("Running")), (60, a_status("Succeeded")))
    assert counted_until({**a_status("Succeeded"), "goodput": counted}, timestamp(CREATED), CREATED + 999) == counted
    assert counted_until({}, None, CREATED) == {}


def test_steps_that_were_lost_count_when_they_are_computed_again() -> None:
    counted = told(
        (0, a_status("Running", 0)),
        (100, a_status("Running", 100)),
        (100, a_status("Restarting")),  # the checkpoint was at 60
        (110, a_status("Running")),
        (110, a_status("Running", 60)),
        (150, a_status("Running", 100)),
        (190, a_status("Running", 140)),
    )
    # The first 100 s are the time before the first report.
    assert counted["redoneUntilStep"] == 100
    assert counted["recomputationSeconds"] == pytest.approx(40)
    # One report over the border: half of its steps were new.
    assert told(
        (0, a_status("Running", 0)),
        (9, a_status("Running", 10)),
        (9, a_status("Restarting")),
        (9, a_status("Running", 5)),
        (19, a_status("Running", 15)),
    )["recomputationSeconds"] == pytest.approx(5)


def test_suspended_time_is_nobodys_loss_and_the_end_is_the_end() -> None:
    counted = told(
        (0, a_status("Running", 1)),
        (0, a_status("Running", 2)),
        (100, a_status("Suspended")),
        (900, a_status("Running", 2)),
        (1000, a_status("Succeeded", 9)),
        (5000, a_status("Succeeded", 9, message="x")),
    )
    assert counted["suspendedSeconds"] == 800
    assert counted["share"] == 1.0


def test_slow_ranks_and_links_are_told_beside_goodput() -> None:
    counted = told(
        (0, a_status("Running", 1)),
        (0, a_status("Running", 2)),
        (100, a_status("Running", 102)),
        inside=Inside(stragglers=0.2, communication=0.3),
    )
    assert counted["share"] == 1.0
    losses = losses_of(counted)
    assert (losses["stragglers"], losses["communication"]) == (pytest.approx(0.2), pytest.approx(0.3))


@given(
    st.lists(
        st.tuples(st.floats(0, 500), st.sampled_from(STATES), st.none() | st.integers(0, 1000)), min_size=1, max_size=20
    ),
    st.floats(-1, 2),
)
def test_every_second_is_counted_once(life: list[tuple[float, str, int | None]], share: float) -> None:
    before: dict[str, Any] = {}
    now = float(CREATED)
    for pause, state, step in life:
        now += pause
        status = a_status(state, step if state == "Running" else None)
        counted = accounted(before, status, timestamp(CREATED), Inside(share, share), now)
        before = {**status, "goodput": counted}
    counted = before["goodput"]
    names = ("waitingSeconds", "startingSeconds", "runningSeconds", "suspendedSeconds")
    assert sum(counted.get(name, 0) for name in names) == int(now) - CREATED
    assert counted.get("recomputationSeconds", 0) <= counted.get("runningSeconds", 0) + 0.001
    assert 0 <= (counted.get("share") or 0) <= 1
    losses = losses_of(counted)
    if share_of(counted) is not None:
        outside = losses["waiting"] + losses["starting"] + losses["recomputation"]
        assert outside + counted["share"] == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(
    "odd", [{"goodput": {"measuredAt": "soon"}}, {"state": "Nowhere"}, {"progress": {"step": "x"}}]
)
def test_a_status_that_somebody_has_spoiled_stops_nothing(odd: dict[str, Any]) -> None:
    accounted({**a_status("Running"), **odd}, a_status("Running", 5), timestamp(CREATED), NOTHING, CREATED + 9)


# --- slow ranks ------------------------------------------------------------------------------------------------------
def pace(own: dict[int, float], known: tuple[int, ...] = (), step: float | None = 2.0) -> Pace:
    return pace_of(own, dict.fromkeys(own, "alike"), {rank: f"node-{rank}" for rank in own}, step, known)


def test_the_slow_rank_is_named_with_its_node() -> None:
    found = pace({0: 1.0, 1: 1.01, 2: 1.4, 3: 0.99})
    assert [(each.rank, each.node) for each in found.stragglers] == [(2, "node-2")]
    assert found.inside.stragglers == pytest.approx((1.4 - 1.005) / 2)
    assert found.inside.communication == pytest.approx(0.6 / 2)
    said = stragglers_json(found, {}, "2026-01-01T00:00:00Z")
    assert "worker 2 on node node-2 (1.4 s" in sentence_of(said)


def test_an_episode_is_told_once_and_ends_below_half_the_distance() -> None:
    said = stragglers_json(pace({0: 1.0, 1: 1.0, 2: 1.4}), {}, "2026-01-01T00:00:00Z")
    again = stragglers_json(pace({0: 1.0, 1: 1.0, 2: 1.07}, known=(2,)), {"stragglers": said}, "2027-01-01T00:00:00Z")
    assert again == said, "words and time of the first look"
    assert pace({0: 1.0, 1: 1.0, 2: 1.07}).stragglers == ()
    assert pace({0: 1.0, 1: 1.0, 2: 1.04}, known=(2,)).stragglers == ()


def test_two_ranks_cannot_tell_who_is_slow_and_stages_are_not_compared() -> None:
    assert pace({0: 1.0, 1: 3.0}).stragglers == ()
    own = {rank: 1.0 if rank < 4 else 2.0 for rank in range(8)}
    nodes = dict.fromkeys(own, "n")
    assert pace_of(own, {rank: rank // 4 for rank in own}, nodes, None).stragglers == ()


@given(st.integers(0, 2**32), st.integers(8, 200))
def test_usual_noise_names_nobody_and_a_slow_one_is_found(seed: int, ranks: int) -> None:
    chance = random.Random(seed)
    own = {rank: chance.uniform(0.98, 1.02) for rank in range(ranks)}
    assert pace(own).stragglers == ()
    slow = chance.randrange(ranks)
    own[slow] = 1.3
    assert [each.rank for each in pace(own).stragglers] == [slow]
    # An independent oracle: farther from the median than anybody else, many times over.
    middle = statistics.median(own.values())
    assert max(own, key=lambda rank: abs(own[rank] - middle)) == slow


def test_ranks_are_alike_by_pool_and_stage() -> None:
    from tests.builders.manifests import MODEL, a_job

    from supernode.api.read import job_from

    cut = {"tensor": 2, "pipeline": 2, "data": 2}
    job = job_from(a_job("gpt", pools=["a"], workers=4, acceleratorsPerWorker=2, model=MODEL, parallelism=cut))
    workers = [{"node": "n", "pool": "a", "devices": [2 * rank, 2 * rank + 1]} for rank in range(4)]
    likes = likes_of(job, placed_on(workers))
    # tensor, then pipeline, then data: ranks 0 and 2 are first stages.
    assert likes[0] == likes[2] != likes[1] == likes[3]
    staged = likes_of(job, {**placed_on(workers), "stages": [{}, {}]})
    assert staged[0] == staged[1] != staged[2] == staged[3]
