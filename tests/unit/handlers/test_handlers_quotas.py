"""What is said of quotas, in both units: to who waits, in the status of a pool, and in the metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from tests.builders.manifests import a_pool
from tests.unit.scheduling.clusters import BW1000, MODEL, a_gang, a_state, held
from tests.unit.scheduling.clusters import a_pool as a_spec

from supernode.api.read import pool_from
from supernode.cluster import translate
from supernode.errors import InputError
from supernode.handlers.quotas import measure_use, overpromised, quota_use, quota_words, use_json
from supernode.scheduling.promise import PER_TFLOPS, peak_of
from supernode.scheduling.quota import Quota
from supernode.scheduling.snapshot import Snapshot
from supernode.telemetry.metrics import OperatorMetrics

PEAK = peak_of(BW1000)
PAIR = (0, 1)


def a_cluster(*quotas: Quota) -> Snapshot:
    """8 devices; a holds 4 of them with a gang whose place promises 100 TFLOPS, b holds 2 with one of unknown step."""
    state = a_state(pools=[a_spec(quotas=quotas)])
    mine = held("a/one", ("dcu-0", PAIR), ("dcu-1", PAIR))
    state.claim("a/one", replace(mine, promised=(("dcu", 100 * PER_TFLOPS),)), {})
    state.claim("b/two", held("b/two", ("dcu-2", PAIR)), {})
    return state.snapshot()


def test_the_status_tells_per_namespace_what_it_has_in_both_units() -> None:
    snapshot = a_cluster(Quota("a", 0, None, 60 * PER_TFLOPS, 120 * PER_TFLOPS), Quota("c", 2, 4))
    rows = {row["namespace"]: row for row in use_json(quota_use(snapshot, snapshot.pools[0]))}
    assert list(rows) == ["a", "c", "*"], "nobody learns the names of those without a quota"
    assert rows["a"] == {
        "namespace": "a",
        "used": 4,
        "guaranteed": 0,
        "borrowed": 0,
        "usedTFLOPS": 100.0,
        "guaranteedTFLOPS": 60.0,
        "limitTFLOPS": 120.0,
        "borrowedTFLOPS": 40.0,
    }
    assert (rows["*"]["used"], rows["*"]["borrowed"]) == (2, 2)
    assert rows["*"]["usedTFLOPS"] == 2 * PEAK / PER_TFLOPS, "an unknown step counts with the peak"
    assert (rows["c"]["used"], rows["c"]["guaranteed"], rows["c"]["limit"]) == (0, 2, 4)
    metrics = OperatorMetrics(CollectorRegistry())
    measure_use(metrics, "dcu", quota_use(snapshot, snapshot.pools[0]))
    text = metrics.text().decode()
    assert 'supernode_quota_tflops{kind="borrowed",namespace="a",pool="dcu"} 40.0' in text
    assert 'supernode_quota_devices{kind="limit",namespace="c",pool="dcu"} 4.0' in text
    assert 'supernode_quota_devices{kind="limit",namespace="*",pool="dcu"}' not in text, "it has none"


def test_a_pool_says_when_more_is_guaranteed_than_it_has() -> None:
    def said(*quotas: Quota) -> str:
        snapshot = a_cluster(*quotas)
        return overpromised(snapshot, snapshot.pools[0])

    assert said(Quota("a", 6), Quota("b", 3)) == "its quotas guarantee 9 accelerators of 8"
    assert said(Quota("a", 6), Quota("b", 2)) == ""
    assert "more than the peak" in said(Quota("a", 0, None, 8 * PEAK + 1))
    assert said(Quota("a", 0, None, 8 * PEAK)) == ""


def test_who_waits_is_told_who_borrows_in_which_unit_and_whose_turn_it_is() -> None:
    snapshot = a_cluster(Quota("a", 0, None, 60 * PER_TFLOPS), Quota("c", 0, None, 3 * PEAK))
    old, young = a_gang("c/old", 1, 1, created=1.0), a_gang("c/young", 1, 2, created=2.0)
    said = quota_words(snapshot, young, "InsufficientAccelerators", [old, young])
    assert f"holds 0 of {3 * PEAK / PER_TFLOPS:.4g} TFLOPS guaranteed" in said
    assert "a namespace without quota borrows 2, a borrows 40 TFLOPS in pool dcu" in said
    assert said.endswith("before it it is the turn of c/old, place 2 of 2 in the queue")
    # Four devices are more than c is guaranteed: quotas play no part in why it waits.
    assert quota_words(snapshot, a_gang("c/big", 2, 2), "InsufficientAccelerators", []) == ""


@pytest.mark.parametrize("limit", [0, -1, float("inf")])
def test_a_limit_is_a_positive_number(limit: float) -> None:
    with pytest.raises(InputError, match="limitTFLOPS"):
        pool_from(a_pool("dcu", quotas=[{"namespace": "team-a", "limitTFLOPS": limit}]))


def test_a_guarantee_is_at_most_the_limit_unit_by_unit() -> None:
    with pytest.raises(InputError, match="limitTFLOPS 9 is below guaranteedTFLOPS 10"):
        pool_from(a_pool("dcu", quotas=[{"namespace": "a", "guaranteedTFLOPS": 10, "limitTFLOPS": 9}]))
    pool = pool_from(a_pool("dcu", quotas=[{"namespace": "a", "guaranteedTFLOPS": 10.5, "limit": 2}]))
    assert translate.pool_spec(pool).quotas == (Quota("a", 0, 2, 10_500_000),)


def test_a_place_remembers_what_it_promised() -> None:
    placement = replace(held("a/one", ("dcu-0", PAIR)), promised=(("dcu", 123_456_789),))
    status = translate.placement_status(placement, 1)
    assert status["promised"] == [{"pool": "dcu", "tflops": 123.456789}]
    assert translate.placement_of("a/one", status).promised == placement.promised
    with pytest.raises(InputError, match="can't be read"):
        translate.placement_of("a/one", {**status, "promised": [{"pool": "dcu", "tflops": float("inf")}]})


def test_a_gang_with_a_model_counts_with_what_its_place_promises() -> None:
    """Whatever it could have in the best place is what it waits for."""
    snapshot = a_cluster(Quota("c", 0, None, PEAK))
    assert "guaranteed" in quota_words(snapshot, a_gang("c/new", 1, 2, model=MODEL), "InsufficientAccelerators", [])
    assert quota_words(snapshot, a_gang("c/new", 1, 2), "InsufficientAccelerators", []) == "", "the peak is more"


def test_the_example_of_the_page_means_what_it_says() -> None:
    page = (Path(__file__).parents[3] / "docs/operator.md").read_text(encoding="utf-8")
    block = page.split("### Quotas")[1].split("```yaml\n")[1].split("```")[0]
    pool = pool_from(a_pool("dcu", **yaml.safe_load(block)))
    assert translate.pool_spec(pool).quotas == (
        Quota("team-a", 64, 128),
        Quota("team-b", 0, None, 9000 * PER_TFLOPS, 20000 * PER_TFLOPS),
        Quota("team-c", 16, None, 4000 * PER_TFLOPS),
    )
