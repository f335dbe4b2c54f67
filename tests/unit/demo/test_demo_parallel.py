"""However the model is cut, it is the same model: every cut has the losses of one device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.demo.eager import EagerEmulator, EagerMember

from supernode.demo import layers, parallel
from supernode.demo.adamw import AdamWConfig
from supernode.demo.corpus import Batches, load_corpus
from supernode.demo.cut import Cut
from supernode.demo.gpt import GPTConfig
from supernode.demo.parallel import Ranks

OPTIMIZER = AdamWConfig(learning_rate=1e-2, warmup=1)
CONFIG = GPTConfig(layers=4, hidden=16, heads=4, sequence=8, dtype="f32")
STEPS, BATCH = 6, 8
CORPUS = load_corpus(50_000)
# f32 sums in another order: what is left after six steps of a large learning rate.
CLOSE = 2e-5


def losses(cut: Cut, config: GPTConfig = CONFIG, micro_batch: int = 2) -> list[float]:
    emulator = EagerEmulator(cut.devices)
    ranks = Ranks(emulator, config, OPTIMIZER, cut, seed=2)
    streams = [
        Batches(
            CORPUS,
            batch=BATCH // cut.data,
            sequence=config.sequence,
            seed=2,
            replica=cut.place(device.rank).data,
            replicas=cut.data,
            micro_batch=min(micro_batch, BATCH // cut.data),
        )
        for device in ranks.devices
    ]
    values = [
        ranks.step([s.next() for s in streams], step=i, learning_rate=OPTIMIZER.learning_rate).item()
        for i in range(1, STEPS + 1)
    ]
    assert len(ranks.digests()) == cut.devices
    return values


ONE = losses(Cut())


def test_one_device_learns():
    assert ONE[-1] < ONE[0] - 0.3


@pytest.mark.parametrize(
    "cut",
    [
        Cut(tensor=2),
        Cut(tensor=4),
        Cut(tensor=2, sequence_parallel=True),
        Cut(pipeline=2),
        Cut(pipeline=4),
        Cut(data=2),
        Cut(data=4, shard_optimizer=True),
        Cut(tensor=2, pipeline=2, data=2),
        Cut(tensor=2, pipeline=2, data=2, sequence_parallel=True, recompute=True, shard_optimizer=True),
        Cut(tensor=2, pipeline=4, data=1, recompute=True),
        Cut(pipeline=2, data=2, layers=(3, 1), stages_last=True),
    ],
    ids=str,
)
def test_every_cut_has_the_losses_of_one_device(cut: Cut):
    np.testing.assert_allclose(losses(cut), ONE, rtol=CLOSE)


def test_in_bf16_too():
    config = GPTConfig(layers=2, hidden=16, heads=4, sequence=8)
    whole = losses(Cut(), config)
    np.testing.assert_allclose(losses(Cut(tensor=2, pipeline=2, data=2), config), whole, rtol=5e-3)


def differs(cut: Cut) -> bool:
    return not np.allclose(losses(cut), ONE, rtol=20 * CLOSE)


def drop(self: Any, array: Any, op: str = "sum", stream: Any = None) -> None:
    """A collective that does nothing."""


@pytest.mark.parametrize(
    ("cut", "owner", "name", "replacement"),
    [
        (Cut(tensor=2), layers.Border, "leave", lambda self, part: part),
        (Cut(tensor=2, sequence_parallel=True), parallel.GPT, "reduce_shared_rows", lambda self: None),
        (Cut(pipeline=2), EagerMember, "all_reduce", drop),
        (Cut(data=2), EagerMember, "all_reduce", drop),
        (Cut(pipeline=2), parallel.Rank, "_backward", lambda self, batch, tape, share: None),
    ],
    ids=["partial sums", "shares of rows", "tied embedding", "replicas", "no backward pass"],
)
def test_a_forgotten_exchange_is_noticed(monkeypatch, cut: Cut, owner: Any, name: str, replacement: Any):
    monkeypatch.setattr(owner, name, replacement)
    try:
        assert differs(cut)
    except Exception as exc:  # replicas that drift apart are noticed even earlier
        assert "do not hold the same weights" in str(exc) or "waits for a call" in str(exc)
