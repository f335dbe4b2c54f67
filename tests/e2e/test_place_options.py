"""`supernode place`: what it offers a job that does not fit, its picture, and its memory of inputs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.builders.placements import placed_on
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


def test_a_dump_keeps_the_time_the_priorities_and_who_runs(tmp_path: Path) -> None:
    """The same offers again, whenever and wherever it is asked: when others end, who would give way."""
    running = RUNNING.replace(
        "  template:", "  runPolicy: {activeDeadlineSeconds: 2000000000}\n  template:", 1
    ).replace("  state: Running", "  state: Running\n  startTime: '2020-01-01T00:00:00Z'")
    classes = "---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 100\n"
    job = a_job(workers=3, scheduling={"priorityClassName": "high", "disruptionMode": "Single"})
    kept = tmp_path / "kept.json"
    first = run(tmp_path, job, "--json", "--dump", str(kept), cluster=CLUSTER + running + classes)
    inputs = json.loads(kept.read_text())
    inputs["now"] = 1_800_000_000.0  # as if it had been dumped then
    kept.write_text(json.dumps(inputs))
    again = [json.loads(call("--replay", str(kept), "--json").stdout) for _ in range(2)]
    assert again[0] == again[1]
    assert {**again[0], "alternatives": []} == {**json.loads(first.stdout), "alternatives": []}
    left = 1_577_836_800 + 2_000_000_000 - 1_800_000_000
    assert again[0]["alternatives"][1] == f"free in about {left / 86400:.0f} d when default/gpt ends"
    assert again[0]["alternatives"][2].startswith("fits if default/gpt gave way")


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


def test_output_for_programs_has_two_names(tmp_path: Path) -> None:
    one = run(tmp_path, a_job(), "--json")
    two = run(tmp_path, a_job(), "-o", "json")
    assert one.stdout == two.stdout
    assert json.loads(two.stdout)["placed"] is True
    broken = run(tmp_path, a_job(workers=0), "--output", "json")
    assert json.loads(broken.stdout)["reason"] == "Misconfigured"


MIXED = {
    "pools": ["dcu-bw1000", "npu"],
    "mix": "Stages",
    "workers": 5,
    "acceleratorsPerWorker": 2,
    "parallelism": {"tensor": 2, "pipeline": 5, "globalBatchSize": 20},
    "scheduling": {},
}


def test_a_gang_over_two_pools(tmp_path: Path) -> None:
    """Four nodes of one chip and one of the other: five stages need them all."""
    model = {**a_job()["spec"]["model"], "layers": 20}
    job = a_job(**MIXED, model=model)
    found = answer(tmp_path, job, CLUSTER)
    assert found["placed"] is True, found["message"]
    workers, stages = found["workers"], found["stages"]
    assert isinstance(workers, list)
    assert isinstance(stages, list)
    assert [worker["pool"] for worker in workers] == [stage["pool"] for stage in stages]
    assert sorted(worker["node"] for worker in workers) == ["dcu-0", "dcu-1", "dcu-2", "dcu-3", "npu-0"]
    assert sum(stage["layers"] for stage in stages) == 20
    assert [stage["device_ranks"] for stage in stages] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    shown = run(tmp_path, job, "--svg", str(tmp_path / "gang.svg")).stdout
    assert "RANKS  NODE   POOL        DEVICES" in shown
    assert "STAGE  POOL        LAYERS  DEVICE RANKS  MICRO BATCH  MEMORY" in shown
    titles = [e.text or "" for e in ET.parse(tmp_path / "gang.svg").iter("{http://www.w3.org/2000/svg}title")]
    assert sum(title.endswith("mine") for title in titles) == 10


def test_a_running_mix_holds_both_pools(tmp_path: Path) -> None:
    """Its status is what the operator writes; another job finds both pools full."""
    job = a_job(**MIXED, model={**a_job()["spec"]["model"], "layers": 20})
    found = answer(tmp_path, job, CLUSTER)
    held = {
        **job,
        "metadata": {"name": "first", "namespace": "default"},
        "status": {"state": "Running", "placement": {"pool": "both", **placed_on(found["workers"])}},
    }
    cluster = CLUSTER + "---\n" + json.dumps(held) + "\n"
    for pool in MIXED["pools"]:  # type: ignore[attr-defined]
        later = answer(tmp_path, a_job(pools=[pool], workers=1, scheduling={}), cluster)
        assert later["placed"] is False
        assert "default/first holds" in str(later["message"])


def test_wrong_mixes_and_stores_name_their_field(tmp_path: Path) -> None:
    for job, words in (
        (a_job(mix="Stages"), "spec.mix: Stages needs at least two pools"),
        (a_job(storage={"dataset": "nowhere"}), "spec.storage.dataset: no storage in any SuperNodeGroup"),
        (
            a_job(storage={"checkpoint": {"store": "x", "everySteps": 1, "sizeGB": 1}}),
            "spec.storage.checkpoint.store: no storage",
        ),
    ):
        found = answer(tmp_path, job, CLUSTER)
        assert found["placed"] is False
        assert words in str(found["message"])


def test_storage_is_waited_for(tmp_path: Path) -> None:
    store = "  storage:\n  - {name: lake, level: supernode, domain: sn-1, readGBps: 9, writeGBps: 300}\n"
    checkpoint = {"checkpoint": {"store": "lake", "everySteps": 10, "sizeGB": 3}}
    found = answer(tmp_path, a_job(storage=checkpoint), CLUSTER + store)
    assert found["domain"] == "spine-0/sn-1"
    prediction = found["prediction"]
    assert isinstance(prediction, dict)
    assert abs(prediction["parts"]["storage"] - 0.001) < 1e-9
    runners = found["runners_up"]
    assert isinstance(runners, list)
    assert {rival["level"] for rival in runners} == {"supernode", "spine"}
    assert all(rival["predicted_step_s"] > found["predicted_step_s"] for rival in runners)
