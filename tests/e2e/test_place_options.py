"""`supernode place`: what it offers a job that does not fit, its picture, and its memory of inputs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.e2e.test_place_command import CLUSTER, RUNNING, a_job, call, run


def answer(folder: Path, job: dict[str, object], cluster: str) -> dict[str, object]:
    result: dict[str, object] = json.loads(run(folder, job, "--json", cluster=cluster).stdout)
    return result


def test_a_job_that_does_not_fit_is_told_what_would(tmp_path: Path) -> None:
    """default/gpt holds 2 of the 4 nodes of the one spine, and 3 are asked for."""
    waits = answer(tmp_path, a_job(workers=3), CLUSTER + RUNNING)
    assert waits["placed"] is False
    assert waits["alternatives"] == ["fits now with 2 workers"]
    shown = run(tmp_path, a_job(workers=3), cluster=CLUSTER + RUNNING).stdout
    assert "- fits now with 2 workers" in shown


def test_priorities_deadlines_and_checkpoints_of_running_jobs_count(tmp_path: Path) -> None:
    running = RUNNING.replace(
        "  template:", "  runPolicy: {activeDeadlineSeconds: 2000000000}\n  template:", 1
    ).replace(
        "  state: Running",
        "  state: Running\n  startTime: '2020-01-01T00:00:00Z'\n  progress: {step: 250, stepSeconds: 2.0}",
    )
    classes = "---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 100\n"
    job = a_job(workers=3, scheduling={"priorityClassName": "high"})
    waits = answer(tmp_path, job, CLUSTER + running + classes)
    assert isinstance(waits["alternatives"], list), waits
    assert waits["reason"] == "InsufficientAccelerators", waits["message"]
    assert waits["alternatives"][0] == "fits now with 2 workers"
    assert waits["alternatives"][1].startswith("free in about ")
    assert waits["alternatives"][1].endswith(" when default/gpt ends")
    assert waits["alternatives"][2] == "fits if default/gpt gave way, doing 8 min of work again"
    wrong = run(tmp_path, job, cluster=CLUSTER + classes.replace("100", "lots"))
    assert wrong.returncode != 0
    assert "PriorityClass high: value" in wrong.stderr


def test_picture(tmp_path: Path) -> None:
    file = tmp_path / "gang.svg"
    assert run(tmp_path, a_job(), "--svg", str(file), cluster=CLUSTER + RUNNING).returncode == 0
    titles = [e.text or "" for e in ET.parse(file).getroot().iter("{http://www.w3.org/2000/svg}title")]
    assert sum(title.endswith("mine") for title in titles) == 4
    assert sum(title.endswith("held") for title in titles) == 4
    assert sum(title.endswith("free") for title in titles) == 2
    nowhere = run(tmp_path, a_job(), "--svg", str(tmp_path / "no" / "gang.svg"))
    assert "gang.svg" in nowhere.stderr
    assert nowhere.returncode != 0


def test_a_dump_gives_the_same_answer_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    first = run(tmp_path, a_job(workers=3), "--json", "--dump", str(kept), cluster=CLUSTER + RUNNING)
    (tmp_path / "cluster.yaml").unlink()
    (tmp_path / "job.yaml").unlink()
    again = call("--replay", str(kept), "--json")
    assert (again.returncode, again.stdout) == (first.returncode, first.stdout)


def test_wrong_uses_are_named(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text('{"version": 1, "now": 0.0, "cluster": 7}', encoding="utf-8")
    for arguments, expected in (
        ((), "--replay"),
        (("--cluster", "x.yaml"), "--job"),
        (("--replay", str(kept), "--job", "x.yaml"), "give it alone"),
        (("--replay", str(kept)), "cluster"),
        (("--replay", str(tmp_path / "none.json")), "can't be read"),
    ):
        done = call(*arguments)
        assert done.returncode not in (0, 1) or done.stderr
        assert expected in done.stderr, arguments
    kept.write_text("[]", encoding="utf-8")
    assert "is not what --dump writes" in call("--replay", str(kept)).stderr
