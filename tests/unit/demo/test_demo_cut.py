"""Cuts of a job and the order of work in a pipeline: nobody is left out, nobody waits forever, no memory grows."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.demo.cut import Cut, cut_from_environment, cut_of
from supernode.demo.schedule import even_stages, one_forward_one_backward
from supernode.errors import ModelError

degrees = st.integers(1, 5)


@given(degrees, degrees, degrees, st.booleans())
def test_groups_of_each_axis_share_out_the_ranks(tensor: int, pipeline: int, data: int, stages_last: bool):
    cut = Cut(tensor, pipeline, data, stages_last=stages_last)
    places = [cut.place(rank) for rank in range(cut.devices)]
    assert [cut.rank(place) for place in places] == list(range(cut.devices))
    for groups, size in (
        ({cut.tensor_ranks(place) for place in places}, tensor),
        ({cut.data_ranks(place) for place in places}, data),
        ({tuple(cut.stage_rank(place, s) for s in range(pipeline)) for place in places}, pipeline),
    ):
        assert sorted(rank for group in groups for rank in group) == list(range(cut.devices))
        assert {len(group) for group in groups} == {size}
    # Tensor ranks are neighbours, as the operator places them.
    assert cut.tensor_ranks(places[0]) == tuple(range(tensor))


@given(st.integers(1, 6), st.integers(1, 12))
def test_stages_never_wait_in_a_circle_and_keep_few_activations(stages: int, micro_batches: int):
    orders = [list(one_forward_one_backward(stage, stages, micro_batches)) for stage in range(stages)]
    for stage, order in enumerate(orders):
        for kind in ("forward", "backward"):
            assert [number for k, number in order if k == kind] == list(range(micro_batches))
        kept = most = 0
        for kind, _ in order:
            kept += 1 if kind == "forward" else -1
            most = max(most, kept)
        assert most <= min(stages - stage, micro_batches)
    # Sends never wait: run whatever has its input, until nothing is left.
    done: set[tuple[int, str, int]] = set()
    waiting = [iter(order) for order in orders]
    heads = [next(order) for order in waiting]
    moved = True
    while moved:
        moved = False
        for stage, head in enumerate(heads):
            if head is None:
                continue
            kind, number = head
            before = (stage - 1, kind, number) if kind == "forward" else (stage + 1, kind, number)
            if not 0 <= before[0] < stages or before in done:
                done.add((stage, kind, number))
                heads[stage] = next(waiting[stage], None)
                moved = True
    assert heads == [None] * stages


def test_one_forward_one_backward_by_hand():
    words = [[f"{kind[0]}{number}" for kind, number in one_forward_one_backward(s, 2, 3)] for s in range(2)]
    assert words == [["f0", "f1", "b0", "f2", "b1", "b2"], ["f0", "b0", "f1", "b1", "f2", "b2"]]
    assert len(list(zip_longest(*words))) == 6


@given(st.integers(1, 40), st.integers(1, 9))
def test_stages_are_as_even_as_they_can_be(layers: int, stages: int):
    counts = even_stages(layers, stages)
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1


def test_the_words_of_a_job():
    words = {
        "tensor": 2, "pipeline": 2, "data": 2, "context": 1, "expert": 1, "interleave": 1, "microBatchSize": 2,
        "globalBatchSize": 16, "sequenceParallel": True, "recompute": "Full", "zeroStage": 1,
    }  # fmt: skip
    assert cut_of(words, 8) == Cut(2, 2, 2, 2, 8, True, True, True)
    mixed = {**words, "stages": [{"layers": 5}, {"layers": 3}], "rankOrder": ["tensor", "context", "data", "pipeline"]}
    assert cut_of(mixed, 8) == Cut(2, 2, 2, 2, 8, True, True, True, (5, 3), True)
    assert cut_of({}, 3) == cut_from_environment({}, 3) == Cut(data=3)
    assert cut_from_environment({"SUPERNODE_PARALLELISM": '{"data": 4, "globalBatchSize": 32}'}, 4).batch == 8


@pytest.mark.parametrize(
    ("words", "field", "message"),
    [
        ({"context": 2}, "context", "cuts by tensor, pipeline and data"),
        ({"interleave": 2, "pipeline": 4}, "interleave", "interleave is 2"),
        ({"zeroStage": 3}, "zeroStage", "zeroStage is 3"),
        ({"tensor": 2, "data": 3}, "parallelism", "tensor 2 x pipeline 1 x data 3 = 6, but the job has 4 devices"),
        ({"data": 4, "rankOrder": ["data", "tensor"]}, "rankOrder", "stages last"),
        ({"data": 4, "globalBatchSize": 6}, "globalBatchSize", "6 does not divide into 4"),
    ],
)
def test_what_the_program_cannot_do_is_named(words: dict[str, int], field: str, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        cut_of(words, 4)
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_a_broken_variable_is_named(text: str):
    with pytest.raises(ModelError, match="SUPERNODE_PARALLELISM"):
        cut_from_environment({"SUPERNODE_PARALLELISM": text}, 4)
