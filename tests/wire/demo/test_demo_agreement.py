"""The step time that the emulator measures and the one that is predicted, for one job in several cuts, part by part."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from tests.wire.demo import agreement
from tests.wire.demo.agreement import JOBS, Job, Measured

from supernode.chips import find_chip
from supernode.cli import main
from supernode.demo.verdict import AGREEMENT
from supernode.steptime.calibration import family_of

measured = cache(agreement.measured)


@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_measured_and_predicted_steps_agree_and_each_part_says_why_not_more(job: Job) -> None:
    step, run = agreement.predicted(job), measured(job)
    assert abs(run.seconds / step.seconds - 1) <= AGREEMENT, agreement.table([(job, step, run)])
    launch = family_of(find_chip(job.chip).name).launch
    # The same kernels but for small ones, which are counted: positions, sums over micro batches, a table with two uses,
    # gradients of biases that are of other rows than those of their matrices.
    more = run.launches - job.launches
    assert 2 <= more <= 5 * job.cut.micro_batches + 2 * job.model.layers * job.cut.sequence_parallel
    assert run.parts["compute"] - step.parts.compute == pytest.approx(more * launch, abs=0.02 * step.seconds)
    # The same collectives; the first one of a pass waits for a rank with one small launch more.
    hidden = find_chip(job.chip).name.startswith("nvidia-h100") * 0.05 * step.parts.tensor
    late = 2 * launch * job.cut.micro_batches + hidden
    assert step.parts.tensor * 0.99 <= run.parts["tensor"] <= step.parts.tensor * 1.01 + late
    assert (step.parts.tensor > 0) == (job.cut.tensor > 1)
    assert run.parts["data"] == pytest.approx(step.parts.data, rel=0.05)
    assert run.parts["optimizer"] == pytest.approx(step.parts.optimizer, abs=1e-6 + 0.1 * step.parts.optimizer)
    # Alone a stage waits for its batch only; in a pipeline sends run beside the next pass, so it waits less.
    rest = run.parts["pipeline"]
    if job.cut.pipeline == 1:
        assert step.parts.pipeline == 0
        assert rest == pytest.approx(launch, rel=0.1)
    else:
        assert 0.75 * step.parts.pipeline <= rest <= step.parts.pipeline


def test_the_page_shows_what_these_runs_give() -> None:
    text = agreement.PAGE.read_text(encoding="utf-8")
    found: list[tuple[Job, object, Measured]] = [(job, agreement.predicted(job), measured(job)) for job in JOBS]
    again = "run: python -m tests.wire.demo.agreement"
    assert agreement.page(text, agreement.table(found)) == text, again  # type: ignore[arg-type]


@pytest.mark.parametrize("job", [job for job in JOBS if job.name in ("data 4", "tensor 2")], ids=lambda job: job.name)
def test_the_command_predicts_it_too(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # By the catalogue's links alone, without those of a cluster.
    model, cut = job.model, job.cut
    row = {
        "layers": model.layers,
        "hidden": model.hidden_size,
        "heads": model.attention_heads,
        "vocab": model.vocabulary_size,
        "seq_len": model.sequence_length,
        "chip": job.chip,
        "tp": cut.tensor,
        "dp": cut.data,
        "micro_batch": cut.micro_batch_size,
        "global_batch": cut.batch,
    }
    (tmp_path / "job.csv").write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    assert main(["predict", "--csv", str(tmp_path / "job.csv"), "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)["step_s"]
    assert abs(measured(job).seconds / said - 1) <= AGREEMENT
