"""How many workers can be told of each other: as many as Linux starts a program for, and not one less."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.builders.manifests import a_job

from supernode.api.read import job_from
from supernode.cluster.rendezvous import Gang, frameworks, hostfile, machinefile, most_workers, overflow, variables
from supernode.handlers.bounds import too_many_addresses
from supernode.handlers.reading import crowd_of

MANY = Gang("gpt", "team-a", 20_000, 8)
ALL = frozenset(frameworks())
LISTS = {"TensorFlow": "TF_CONFIG", "PaddlePaddle": "PADDLE_TRAINER_ENDPOINTS"}


def starts(gang: Gang, framework: str) -> bool:
    """Whether a program can really be started with the variables of the last worker."""
    environment = dict(variables(framework, gang, gang.workers - 1))
    try:
        subprocess.run(["/bin/true"], env=environment, check=True)
    except OSError as exc:
        assert exc.errno == 7, "E2BIG"
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is that of Linux")
@pytest.mark.parametrize("framework", LISTS)
@pytest.mark.parametrize("job", ["gpt", "a-rather-long-name-of-a-job"])
def test_the_largest_gang_starts_and_the_next_does_not(framework: str, job: str) -> None:
    gang = replace(MANY, job=job)
    most = most_workers(framework, gang)
    assert starts(replace(gang, workers=most), framework)
    assert not starts(replace(gang, workers=most + 1), framework)


@pytest.mark.parametrize("framework", ALL - LISTS.keys() - {"MPI"})
def test_who_is_told_of_rank_0_only_may_be_any_number(framework: str) -> None:
    assert too_many_addresses(framework, replace(MANY, workers=2**17)) == ""


def test_the_lists_of_hosts_leave_a_config_map_room_for_the_wiring() -> None:
    gang = replace(MANY, workers=most_workers("MPI", MANY))
    assert 9_000 < gang.workers < 12_000
    wiring = json.dumps([list(range(gang.workers))] * 3, separators=(",", ":"))
    assert len(hostfile(gang)) + len(machinefile(gang)) + len(wiring) < 2**20
    assert overflow("MPI", replace(gang, workers=gang.workers + 1)) is not None


def test_a_job_is_told_in_numbers() -> None:
    obj = a_job("gpt", "team-a", workers=20_000, framework="TensorFlow")
    assert crowd_of(obj, job_from(obj)) == (
        "20,000 workers are too many for TensorFlow: TF_CONFIG would have 768,964 bytes with the addresses of all, and "
        "Linux starts a program with at most 131,072; with these names up to 3,476 fit; fewer workers with more "
        "accelerators each would do"
    )
    obj["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "TF_CONFIG", "value": "{}"}]
    assert crowd_of(obj, job_from(obj)) == ""
    few = a_job("gpt", workers=1000, framework="TensorFlow")
    assert crowd_of(few, job_from(few)) == ""
