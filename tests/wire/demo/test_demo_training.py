"""The demo's training through real sidecars: two pods with two devices each, as processes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from tests.unit.demo import reference
from tests.unit.demo.eager import EagerDevice
from tests.wire.demo.workers import Job, a_job

from supernode.demo.adamw import AdamWConfig
from supernode.demo.corpus import Batches, load_corpus
from supernode.demo.gpt import GPTConfig
from supernode.demo.parameters import Parameters, start_values

SMALL = ["--hidden", "32", "--sequence", "24", "--batch", "4", "--corpus-bytes", "200000", "--log-every", "1"]


def reference_losses(steps: int, ranks: int) -> list[float]:
    """Mean losses of the same run in plain NumPy f32, from the same initial weights and batches."""
    config = GPTConfig(hidden=32, sequence=24)
    adamw = AdamWConfig()
    start = start_values(EagerDevice(), config.table(), 1).numpy()
    weights = reference.unflatten(start, Parameters(EagerDevice(), config.table()).shapes())
    optimizer = reference.AdamW(weights, beta1=0.9, beta2=0.95, epsilon=1e-8, decay=adamw.weight_decay)
    stream = Batches(load_corpus(200_000), batch=4 * ranks, sequence=24, seed=1)
    losses = []
    for step in range(1, steps + 1):
        (batch,) = stream.next()
        loss, gradients = reference.loss_and_gradients(weights, *batch, layers=2, heads=4)
        losses.append(loss)
        optimizer.step(weights, gradients, adamw.rate(step, steps))
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 2e-3), ("f32", 1e-4)])
def test_four_devices_in_two_pods_train_in_step_with_numpy_and_end_with_the_same_bits(dtype, tolerance):
    steps = 15
    with a_job(2, 2) as job:
        job.train("--steps", str(steps), "--dtype", dtype, *SMALL)
        ended = job.ends()
        progress = job.progress()
    assert [(status, err) for status, _, err in ended] == [(0, "")] * 2
    finals = [lines[-1] for _, lines, _ in ended]
    assert len({digest for final in finals for digest in final["digests"]}) == 1
    assert [len(final["digests"]) for final in finals] == [2, 2]
    assert finals[0]["lastLoss"] == finals[1]["lastLoss"]
    losses = [line["loss"] for line in ended[0][1] if "step" in line]
    np.testing.assert_allclose(losses, reference_losses(steps, 4), rtol=tolerance)
    for rank, words in enumerate(progress):
        assert words["step"] == steps
        assert words["digest"] == finals[rank]["digests"][0]
        assert words["tokens"] == steps * 4 * 4 * 24
        assert words["stepSeconds"] > 0
    # The clocks of the devices belong to the chip, not to this machine: both pods agree on them.
    assert progress[0]["stepSeconds"] == pytest.approx(progress[1]["stepSeconds"], rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 4e-3), ("f32", 1e-4)])
def test_eight_devices_cut_in_all_three_ways_have_the_losses_of_one(dtype, tolerance):
    """2 x 2 x 2: tensor ranks and stages inside two pods with four cards each, replicas between them."""
    steps = 15
    words = '{"tensor": 2, "pipeline": 2, "data": 2, "microBatchSize": 2, "globalBatchSize": 16}'
    arguments = [word for word in SMALL if word not in ("--batch", "4")]
    with a_job(2, 4, SUPERNODE_PARALLELISM=words) as job:
        job.train("--steps", str(steps), "--dtype", dtype, *arguments)
        ended = job.ends()
    assert [(status, err) for status, _, err in ended] == [(0, "")] * 2
    losses = [[line["loss"] for line in lines if "step" in line] for _, lines, _ in ended]
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], reference_losses(steps, 4), rtol=tolerance)
    # Pods are replicas of each other, and their four devices hold four different parts.
    first, second = (lines[-1]["digests"] for _, lines, _ in ended)
    assert first == second
    assert len(set(first)) == 4
    assert ended[0][1][0]["pipeline"] == 2


def started(job: Job) -> None:
    for trainer in job.trainers:
        assert trainer.stdout is not None
        assert "unigramLoss" in trainer.stdout.readline()
        assert '"step": 1' in trainer.stdout.readline()


def test_sigterm_stops_a_worker_at_once_and_is_said():
    with a_job(2, 2) as job:
        job.train("--steps", "100000", *SMALL)
        started(job)
        for trainer in job.trainers:
            trainer.send_signal(signal.SIGTERM)
        for status, lines, _ in job.ends():
            assert status == 128 + signal.SIGTERM
            assert lines[-1] == {"stopped": "SIGTERM"}


def test_a_sidecar_that_dies_is_named_by_the_other_pods_worker():
    with a_job(2, 2, SUPERNODE_FABRIC_TIMEOUT="30") as job:
        job.train("--steps", "100000", *SMALL)
        started(job)
        os.kill(job.sidecars[1].pid, signal.SIGKILL)
        (status, _, error), (other, _, own) = job.ends()
        assert status == other == 1
        assert "ranks 2-3 lost (worker 1 at 127." in error
        assert "all_reduce" in error
        assert own.startswith("supernode.demo.train: ")
        assert own.count("\n") == 1


def test_a_worker_without_a_sidecar_says_what_is_missing(tmp_path):
    with a_job(1, 1) as job:
        job.sidecars[0].kill()
        job.sidecars[0].wait()
        (job.directory / "0.sock").unlink(missing_ok=True)
        (job.directory / "0.sock").touch()
        job.train("--steps", "1")
        ((status, _, error),) = job.ends()
    assert status == 1
    assert error.startswith("supernode.demo.train: ")
    assert "0.sock" in error
