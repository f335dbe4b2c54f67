"""Every field of a job's spec is told in the page about them, and has a test that shows its effect; both ways."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from supernode.api.job import TrainingJobSpec

ROOT = Path(__file__).parents[3]

#: Field, or the start of several -> file and test that shows its effect on a job.
SHOWN = {
    "pools": ("wire/handlers/test_handlers_fields.py", "test_storage_and_pools_to_choose_from"),
    "mix": ("wire/handlers/test_handlers_mix.py", "test_stages_run_in_two_pools"),
    "workers": ("wire/handlers/test_handlers_elastic.py", "test_kubectl_scale_up_and_down"),
    "acceleratorsPerWorker": ("wire/handlers/test_handlers_life.py", "test_a_gang_starts_runs_and_ends"),
    "framework": (
        "wire/handlers/test_handlers_policy.py",
        "test_the_launcher_decides_about_an_mpi_job_and_all_workers_about_others",
    ),
    "model": ("wire/handlers/test_handlers_quotas.py", "test_a_gang_with_a_model_counts_with_what_its_place_promises"),
    "parallelism": (
        "wire/handlers/test_handlers_elastic.py",
        "test_a_model_is_cut_again_for_another_number_of_workers",
    ),
    "storage": ("wire/handlers/test_handlers_fields.py", "test_storage_and_pools_to_choose_from"),
    "storage.checkpoint": (
        "wire/handlers/test_handlers_fields.py",
        "test_saving_more_or_more_often_takes_longer_steps",
    ),
    "scheduling.policy.gang.minCount": (
        "wire/handlers/test_handlers_elastic.py",
        "test_a_gang_that_loses_a_node_for_good_shrinks_instead_of_dying",
    ),
    "scheduling.policy.gang.growAfterSeconds": (
        "wire/handlers/test_handlers_elastic.py",
        "test_a_gang_starts_with_what_there_is_and_grows_when_devices_free_up",
    ),
    "scheduling.constraints": ("wire/handlers/test_handlers_fields.py", "test_wishes_about_the_wiring"),
    "scheduling.disruptionMode": ("wire/handlers/test_handlers_single.py", "test_a_worker_is_replaced_alone"),
    "scheduling.priorityClassName": (
        "wire/handlers/test_handlers_preempt.py",
        "test_a_gang_gives_way_after_a_checkpoint_and_comes_back",
    ),
    "runPolicy.suspend": ("wire/handlers/test_handlers_fields.py", "test_a_suspended_job_gives_its_quota_back"),
    "runPolicy.successPolicy": (
        "wire/handlers/test_handlers_policy.py",
        "test_the_launcher_decides_about_an_mpi_job_and_all_workers_about_others",
    ),
    "runPolicy.backoffLimit": (
        "wire/handlers/test_handlers_life.py",
        "test_a_failed_worker_restarts_the_gang_and_then_fails_it",
    ),
    "runPolicy.podFailurePolicy": ("wire/handlers/test_handlers_policy.py", "test_failures_mean_what_the_rules_say"),
    "runPolicy.podFailurePolicy.rules.onReasons": (
        "wire/handlers/test_handlers_fields.py",
        "test_rules_by_reason_and_by_container",
    ),
    "runPolicy.podFailurePolicy.rules.onExitCodes.containerName": (
        "wire/handlers/test_handlers_fields.py",
        "test_rules_by_reason_and_by_container",
    ),
    "runPolicy.startDeadlineSeconds": (
        "wire/handlers/test_handlers_policy.py",
        "test_a_gang_that_does_not_start_gives_its_place_to_others_and_says_why",
    ),
    "runPolicy.checkpointSeconds": (
        "wire/handlers/test_handlers_preempt.py",
        "test_the_wait_for_a_checkpoint_is_bounded",
    ),
    "runPolicy.repair.nodeLossSeconds": (
        "wire/handlers/test_handlers_repair.py",
        "test_the_rank_of_a_lost_node_goes_to_another_one_of_the_same_domain",
    ),
    "runPolicy.repair.holdSeconds": (
        "wire/handlers/test_handlers_repair.py",
        "test_a_wounded_gang_is_released_whole_when_its_time_is_up",
    ),
    "runPolicy.activeDeadlineSeconds": (
        "wire/handlers/test_handlers_policy.py",
        "test_a_deadline_counts_over_restarts_and_begins_again_with_a_resume",
    ),
    "runPolicy.cleanPodPolicy": ("wire/handlers/test_handlers_policy.py", "test_pods_of_a_job_that_has_ended"),
    "runPolicy.ttlSecondsAfterFinished": (
        "wire/handlers/test_handlers_life.py",
        "test_a_finished_job_is_deleted_after_its_ttl",
    ),
    "managedBy": ("wire/handlers/test_handlers_policy.py", "test_a_job_of_another_controller_is_left_alone"),
    "template": ("wire/handlers/test_handlers_fields.py", "test_pods_are_what_their_template_says"),
    "template.spec.restartPolicy": (
        "wire/handlers/test_handlers_policy.py",
        "test_an_exit_code_of_the_program_itself_is_not_tried_again",
    ),
    "template.spec.nodeName": ("wire/api/test_api_crds.py", "test_bad_objects_are_refused_naming_the_field"),
}


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Models that an annotation speaks of, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field that holds no other field."""
    for name, field in model.model_fields.items():
        inner = list(models_in(field.annotation))
        where = f"{path}{field.alias or name}"
        if not inner or where in ("template.spec.containers", "template.spec.initContainers", "template.spec.volumes"):
            yield where
        for each in inner:
            yield from leaves(each, f"{where}.")


def test_the_page_tells_of_every_field_and_of_no_other() -> None:
    page = (ROOT / "docs/training-job.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(rows))) == sorted(leaves(TrainingJobSpec))


def test_every_field_has_a_test_that_shows_its_effect() -> None:
    known = set(leaves(TrainingJobSpec))
    for field in known:
        assert any(field == start or field.startswith(f"{start}.") for start in SHOWN), field
    for start, (path, name) in SHOWN.items():
        assert any(field == start or field.startswith(f"{start}.") for field in known), f"{start} is no field"
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), name
