"""What the commands for people show, from tables of objects; no cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.builders.manifests import a_group, a_job, a_pool
from tests.builders.placements import placed_on

from supernode.commands import logs, ranks, status, top, tree, why
from supernode.commands.picture import picture
from supernode.commands.reading import document, unknown
from supernode.commands.terminal import Sheet
from supernode.errors import NotFoundError
from supernode.handlers.quotas import use_json
from supernode.scheduling.promise import PER_TFLOPS
from supernode.scheduling.quota import NO_QUOTA, Amount, Quota

Json = dict[str, Any]
NOW = 1767225600.0  # 2026-01-01T00:00:00Z
EVIL = "\x1b]0;owned\x07"


def a_node(name: str, supernode: str | None, *, ready: bool = True, cordoned: bool = False) -> Json:
    labels = {"supernode.dev/chip": "hygon-bw1000", "supernode.dev/group": "scalex", "supernode.dev/spine": "spine-0"}
    if supernode is not None:
        labels["supernode.dev/supernode"] = supernode
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": {"hygon.com/hcu": "2", "cpu": "64"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def placed(job: Json, *nodes: str, state: str = "Running", **more: Any) -> Json:
    workers = [{"node": node, "pool": "dcu-bw1000", "devices": [0, 1]} for node in nodes]
    where = {"attempt": 0, "pool": "dcu-bw1000", "level": "supernode", "domain": "spine-0/sn-0", **placed_on(workers)}
    scheduled = {"type": "Scheduled", "status": "True", "reason": "Placed", "message": "2 workers on 2 nodes"}
    job["status"] = {"state": state, "ready": "2/2", "placement": where, "conditions": [scheduled], **more}
    return job


def waiting(job: Json, message: str = "needs 8, 4 free") -> Json:
    since = "2025-12-31T23:55:00Z"
    found = {"type": "Scheduled", "status": "False", "reason": "InsufficientAccelerators", "message": message}
    job["status"] = {"state": "Waiting", "message": message, "conditions": [found | {"lastTransitionTime": since}]}
    return job


def with_status(pool: Json, **numbers: int) -> Json:
    return pool | {"status": numbers | {"conditions": [{"type": "Ready", "status": "True"}]}}


def created(obj: Json, stamp: str = "2025-12-31T23:00:00Z") -> Json:
    obj["metadata"] |= {"creationTimestamp": stamp, "uid": "u"}
    return obj


NODES = [a_node("dcu-0", "sn-0"), a_node("dcu-1", "sn-0"), a_node("dcu-2", "sn-1"), a_node("dcu-3", "sn-1")]
POOL = with_status(a_pool(), nodes=4, capacity=8, allocated=4, free=4)
GROUP = a_group()


def shown(module: Any, found: Json, width: int | None = None) -> str:
    sheet = Sheet(width)
    module.render(found, sheet, NOW)
    return sheet.text()


def test_the_tree_with_a_job_a_cordoned_and_an_unlabelled_node() -> None:
    nodes = [*NODES[:2], a_node("dcu-2", "sn-1", cordoned=True), NODES[3], a_node("dcu-9", None)]
    seen = picture(nodes, [POOL], [GROUP], [placed(a_job(), "dcu-0", "dcu-1")])
    assert shown(tree, tree.facts(seen, ["scalex"])) == (
        "scalex  2 of 8 devices free  (spine 50 GB/s 10 us, supernode 224 GB/s 2 us)\n"
        "`-- spine spine-0  2 of 8 devices free\n"
        "    |-- supernode sn-0  0 of 4 devices free\n"
        "    |   |-- dcu-0  aa  default/gpt rank 0\n"
        "    |   `-- dcu-1  aa  default/gpt rank 1\n"
        "    `-- supernode sn-1  2 of 4 devices free\n"
        "        |-- dcu-2  xx  cordoned\n"
        "        `-- dcu-3  ..\n"
        "not wired in: dcu-9 lacks the label supernode.dev/supernode\n"
        "\n"
        "a  default/gpt\n"
        ".  free   x  not to be had now"
    )


def test_the_tree_stops_at_a_level_and_names_the_jobs_below() -> None:
    seen = picture(NODES, [POOL], [GROUP], [placed(a_job(), "dcu-0", "dcu-1")])
    lines = shown(tree, tree.facts(seen, ["scalex"], level="supernode")).splitlines()
    assert lines[2] == "    |-- supernode sn-0  0 of 4 devices free  default/gpt"
    with pytest.raises(NotFoundError, match="did you mean supernode"):
        tree.facts(seen, ["scalex"], level="supernod")


def test_a_job_that_has_ended_holds_nothing() -> None:
    seen = picture(NODES, [POOL], [GROUP], [placed(a_job(), "dcu-0", state="Succeeded")])
    assert sum(view.free for view in seen.nodes) == 8
    assert seen.held == {}


def test_more_jobs_than_letters_still_make_a_tree() -> None:
    jobs = [placed(a_job(f"j{index:03}"), "dcu-0") for index in range(60)]
    text = shown(tree, tree.facts(picture(NODES, [POOL], [GROUP], jobs), ["scalex"]), 80)
    assert "+  default/j059" not in text  # two devices: the last claim wins, nobody else is drawn
    assert "a  default/j059" in text


def test_why_of_a_waiting_job_says_what_was_asked_what_is_free_and_who_holds_it() -> None:
    wide = created(
        waiting(
            a_job("wide", workers=4, scheduling={"constraints": {"topology": [{"level": "spine", "mode": "Required"}]}})
        )
    )
    other = created(waiting(a_job("late", namespace="b")))
    jobs = [placed(created(a_job()), "dcu-0", "dcu-1"), wide, other]
    found = why.facts(wide, [POOL], jobs, picture(NODES, [POOL], [GROUP], jobs), NOW)
    text = shown(why, found)
    assert text.splitlines()[:4] == [
        "default/wide is Waiting (InsufficientAccelerators) for 5m",
        "  needs 8, 4 free",
        "",
        "asked for: 4 workers x 2 devices = 8, of pool dcu-bw1000, in one spine",
    ]
    assert "pool dcu-bw1000: 4 of 8 devices free" in text
    assert "  supernode  spine-0/sn-0  0 of 4  0\n" in text
    assert "  held by: default/gpt 4" in text
    assert "  b/late  4        60m" in text


def test_why_of_a_running_job_says_where_and_why_there() -> None:
    job = placed(created(a_job()), "dcu-0", "dcu-1", mfu=0.4, progress={"stepSeconds": 0.5})
    job["status"]["placement"] |= {
        "predictedStepSeconds": 0.25,
        "runnersUp": [{"level": "supernode", "domain": "spine-0/sn-1"}],
    }
    text = shown(why, why.facts(job, [POOL], [job], picture(NODES, [POOL], [GROUP], [job]), NOW))
    assert "default/gpt is Running (Placed)\n  2 workers on 2 nodes\n" in text
    assert "runs in: pool dcu-bw1000, all in supernode spine-0/sn-0\n  dcu-0  rank 0\n" in text
    assert "step: predicted 250 ms, observed 500 ms, MFU 40.0%\n" in text
    assert "next best: supernode spine-0/sn-1" in text
    assert "held by: this job 4" in text


def test_goodput_counts_until_now_though_nothing_was_written_since() -> None:
    job = placed(created(a_job()), "dcu-0", "dcu-1")
    job["status"]["goodput"] = {"share": 0.0, "waitingSeconds": 60.0, "measuredAt": "2025-12-31T23:01:00Z"}
    text = shown(why, why.facts(job, [POOL], [job], picture(NODES, [POOL], [GROUP], [job]), NOW))
    assert "goodput: 98.3% of its time; lost to waiting 1.7%\n" in text
    assert "98.3%" in shown(top, top.facts([POOL], [job], NOW))


def test_why_of_a_running_job_says_why_it_has_fewer_workers_than_it_asks_for() -> None:
    def text(workers: int, state: str = "Running", **gang: int) -> str:
        job = placed(created(a_job(workers=workers, scheduling={"policy": {"gang": gang}})), "dcu-0", "dcu-1")
        job["status"]["state"] = state
        return shown(why, why.facts(job, [POOL], [job], picture(NODES, [POOL], [GROUP], [job]), NOW))

    assert "has 2 of" not in text(2)
    assert "has 2 of" not in text(3, "Succeeded")
    assert "has 2 of 3 workers: it starts again with more when there is room for all of them\n" in text(3)
    assert "has 2 of 5 workers: it starts again with more when there is room for 4 or more\n" in text(5, minCount=4)
    assert "has 2 of 5 workers: all of them would take 10 devices, and its pools have 8\n" in text(5)
    elastic = text(4, minCount=1, growAfterSeconds=300).replace("\n", " ")
    assert "when there is room for them and nobody waits for these pools, 5m after it got its place" in elastic
    assert "40,000 workers are too many for one job" in text(40_000, minCount=1)


def test_why_of_a_job_that_has_a_place_says_what_keeps_it_from_running() -> None:
    stuck = "0 of 2 workers run; worker 0 on node dcu-0: ErrImagePull: no such image"
    job = placed(created(a_job()), "dcu-0", "dcu-1", state="Starting", message=stuck)
    text = shown(why, why.facts(job, [POOL], [job], picture(NODES, [POOL], [GROUP], [job]), NOW))
    assert f"default/gpt is Starting (Placed)\n  2 workers on 2 nodes\n  {stuck}\n\n" in text


def test_why_of_a_running_job_says_what_is_being_done_to_it() -> None:
    def text(**plan: Any) -> str:
        job = placed(created(a_job(workers=4, scheduling={"policy": {"gang": {"minCount": 2}}})), "dcu-0", "dcu-1")
        job["status"] |= {"disruption": plan, "message": plan.get("message", "2 workers")}
        return shown(why, why.facts(job, [POOL], [job], picture(NODES, [POOL], [GROUP], [job]), NOW)).replace("\n", " ")

    grows = "starts again with 4 workers instead of 2: devices for them are free"
    assert f"Resize: {grows} (in 90s at the latest)" in text(
        kind="Resize", message=grows, deadline="2026-01-01T00:01:30Z"
    )
    assert "has 2 of 4" not in text(kind="Resize", message=grows, deadline="2026-01-01T00:01:30Z")
    assert f"Resize: {grows} " in text(kind="Resize", message=grows, deadline="2025-12-31T23:59:59Z")
    assert "at the latest" not in text(kind="Resize", message=grows, deadline="2025-12-31T23:59:59Z")
    assert text(kind="Resize", message=grows).count(grows) == 1
    assert text(kind="Repair", message="2 workers on 2 nodes").count("2 workers on 2 nodes") == 1  # said already
    assert "has 2 of 4" in text()


def test_why_says_where_nobody_has_to_give_way() -> None:
    job = waiting(created(a_job(scheduling={"priorityClassName": "polite"})))
    seen = picture(NODES, [POOL], [GROUP], [job])

    def text(*classes: Json) -> str:
        return shown(why, why.facts(job, [POOL], [job], seen, NOW, classes)).replace("\n", " ")

    polite = {"metadata": {"name": "polite"}, "value": 900, "preemptionPolicy": "Never"}
    assert "priority class polite (900): it comes first, but nobody has to give way for it" in text(polite)
    assert "priority class polite (900) " in text(polite | {"preemptionPolicy": "PreemptLowerPriority"})
    assert "priority class polite " in text()


def test_a_job_of_another_controller_is_left_to_it() -> None:
    job = created(a_job(managedBy="foo.dev/bar"))
    text = shown(why, why.facts(job, [POOL], [job], picture(NODES, [POOL], [GROUP], [job]), NOW))
    assert "default/gpt is Pending\n  it is left to foo.dev/bar (spec.managedBy)\n" in text
    found = status.facts("https://c", "", jobs=[job], pools=[], groups=[], nodes_=[], lease={})
    assert found["jobs"]["attention"] == []


def test_why_of_a_job_that_nobody_looked_at_and_of_a_pool_that_is_not_there() -> None:
    job = created(a_job(pools=["nope"]))
    text = shown(why, why.facts(job, [], [job], picture([], [], [], []), NOW))
    assert "no operator has looked at this job yet" in text
    assert "pool nope: there is none of that name that you can see" in text


def test_why_names_what_other_pods_hold() -> None:
    job = created(a_job())
    pool = with_status(a_pool(), capacity=8, allocated=6, free=2)
    jobs = [placed(a_job("x"), "dcu-0")]
    assert "held by: default/x 2, others 4" in shown(
        why, why.facts(job, [pool], jobs, picture(NODES, [pool], [GROUP], jobs), NOW)
    )


def a_pod(rank: int, phase: str = "Running", attempt: int = 0, **container: Any) -> Json:
    labels = {"supernode.dev/rank": str(rank), "supernode.dev/attempt": str(attempt)}
    return {
        "metadata": {"name": f"gpt-worker-{rank}", "namespace": "default", "labels": labels},
        "spec": {
            "nodeName": f"dcu-{rank}",
            "initContainers": [{"name": "supernode-emulator"}],
            "containers": [{"name": "trainer"}],
        },
        "status": {"phase": phase, "containerStatuses": [container] if container else []},
    }


def test_ranks_with_domains_phases_and_troubles() -> None:
    bad = a_pod(1, "Pending", state={"waiting": {"reason": "ErrImagePull", "message": f"no {EVIL}"}})
    job = placed(a_job(workers=3), "dcu-0", "dcu-1", "dcu-2")
    text = shown(ranks, ranks.facts(job, [a_pod(0), bad], picture(NODES, [], [GROUP], [])))
    assert text.splitlines() == [
        "RANK  NODE   SPINE    SUPERNODE  DEVICES  PHASE    READY  POD           PROBLEM",
        "0     dcu-0  spine-0  sn-0       0-1      Running  no     gpt-worker-0",
        "1     dcu-1  spine-0  sn-0       0-1      Pending  no     gpt-worker-1  ErrImagePull: no \\x1b]0;owned\\x07",
        "2     dcu-2  spine-0  sn-1       0-1               no                   no pod",
    ]
    nowhere = shown(ranks, ranks.facts(waiting(a_job()), [], picture([], [], [], [])))
    assert nowhere == "default/gpt has no workers: Waiting\nneeds 8, 4 free"


def test_status_at_a_glance() -> None:
    lease = {"spec": {"holderIdentity": "op-1", "renewTime": "2025-12-31T23:59:58.5Z", "leaseDurationSeconds": 15}}
    jobs = [placed(created(a_job()), "dcu-0"), created(waiting(a_job("wide"), f"needs {EVIL}"))]
    found = status.facts("https://c", "", jobs=jobs, pools=[POOL], groups=[GROUP], nodes_=NODES, lease=lease)
    text = shown(status, found, 100)
    assert text.startswith("cluster   https://c  4 nodes, 4 ready\noperator  op-1 leads, renewed 1s ago\n")
    assert "dcu-bw1000  hygon-bw1000  Emulated  4      8        4     4     0          yes" in text
    assert "jobs      2: 1 Waiting, 1 Running" in text
    assert "default/wide  Waiting  60m  needs \\x1b]0;owned\\x07" in text


def test_status_shows_what_namespaces_have_of_the_pools() -> None:
    """As the operator writes it, in both units, within 80 columns; a pool without quotas says nothing."""
    use = {
        "team-a": (Quota("team-a", 64, 128), Amount(80, 7_123_456_789), Amount(16, 0)),
        "team-b": (
            Quota("team-b", 0, None, 9000 * PER_TFLOPS, 20000 * PER_TFLOPS),
            Amount(8, 9500 * PER_TFLOPS),
            Amount(0, 500 * PER_TFLOPS),
        ),
        "*": (NO_QUOTA, Amount(4, 0), Amount(4, 0)),
    }
    pool = with_status(a_pool(), capacity=128)
    pool["status"]["quotas"] = use_json(use)
    alone = with_status(a_pool("npu"))
    alone["status"]["quotas"] = use_json({"*": use["*"]})
    found = status.facts("https://c", "", jobs=[], pools=[pool, alone], groups=[], nodes_=NODES, lease={})
    text = shown(status, found, 80)
    assert (
        """
POOL        NAMESPACE   USED  GUARANTEED  LIMIT  BORROWED  OF
dcu-bw1000  team-a      80    64          128    16        devices
                        7123  -           -      -         TFLOPS
dcu-bw1000  team-b      8     -           -      -         devices
                        9500  9000        20000  500       TFLOPS
dcu-bw1000  all others  4     -           -      4         devices
                        0     -           -      -         TFLOPS
"""
        in text
    )
    second = found["pools"][0]["quotas"][1]
    assert (second["namespace"], second["limit"], second["limitTFLOPS"], second["borrowedTFLOPS"]) == (
        "team-b",
        None,
        20000.0,
        500.0,
    )


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        (None, "you may not see its Lease"),
        ({}, "nobody leads: no operator is running"),
        ({"spec": {"holderIdentity": ""}}, "nobody leads"),
        (
            {"spec": {"holderIdentity": "op", "renewTime": "2025-12-31T23:50:00Z"}},
            "op led, but has not renewed its lease for 10m",
        ),
        ({"spec": {"holderIdentity": "op", "renewTime": "odd"}}, "op leads"),
    ],
)
def test_who_leads(lease: Json | None, words: str) -> None:
    found = status.facts("https://c", "a", jobs=[], pools=None, groups=[], nodes_=None, lease=lease)
    text = shown(status, found)
    assert words in text
    assert "pools     you may not list them\n\ngroups    none\n\njobs      none in namespace a" in text


def test_top_puts_running_jobs_first() -> None:
    progress = {"step": 150, "loss": 2.58459, "stepSeconds": 0.00078}
    running = placed(created(a_job("z")), "dcu-0", progress=progress, mfu=0.0011)
    done = placed(created(a_job("a")), "dcu-1", state="Succeeded")
    lines = shown(top, top.facts([POOL], [done, created(waiting(a_job("b"))), running], NOW)).splitlines()
    assert lines[:2] == ["POOL                                HELD", "dcu-bw1000  [##########..........]  4 of 8"]
    assert [line.split()[0] for line in lines[4:]] == ["default/z", "default/b", "default/a"]
    assert lines[4].split()[4:9] == ["150", "2.585", "780", "us", "0.11%"]
    assert shown(top, top.facts(None, [], NOW)) == "no jobs"


@pytest.mark.parametrize(
    ("part", "whole", "bar"),
    [(0, 8, "[....]"), (1, 800, "[#...]"), (8, 8, "[####]"), (9, 8, "[####]"), (0, 0, "[    ]")],
)
def test_bars(part: int, whole: int, bar: str) -> None:
    assert top.bar(part, whole, 4) == bar


def test_a_frame_never_scrolls() -> None:
    assert top.frame("a\nb", 10) == "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"
    assert top.frame("\n".join("abcdef"), 4).count("\n") == 3
    assert "... 4 more lines" in top.frame("\n".join("abcdef"), 4)


@pytest.mark.parametrize("module", [status, top, tree, why, ranks])
def test_no_name_or_message_reaches_the_terminal_raw(module: Any) -> None:
    job = placed(created(a_job(EVIL, namespace=EVIL)), "dcu-0", EVIL, message=EVIL)
    job["status"]["conditions"][0]["message"] = EVIL
    pool = with_status(a_pool(), capacity=8)
    pool["spec"]["chip"] = "hygon-bw1000"
    seen = picture(NODES, [pool], [GROUP], [job])
    pod = a_pod(0, EVIL)
    pod["metadata"]["name"] = EVIL
    found = {
        status: lambda: status.facts(
            EVIL, EVIL, jobs=[job], pools=[pool], groups=[GROUP], nodes_=[], lease={"spec": {"holderIdentity": EVIL}}
        ),
        top: lambda: top.facts([pool], [job], NOW),
        tree: lambda: tree.facts(seen, ["scalex"]),
        why: lambda: why.facts(job, [pool], [job], seen, NOW),
        ranks: lambda: ranks.facts(job, [pod], seen),
    }[module]()
    for text in (shown(module, found), shown(module, found, 60), document(found, "json"), document(found, "yaml")):
        assert "\x1b" not in text
        assert "\x07" not in text
    assert json.loads(document(found, "json")) == found
    assert yaml.safe_load(document(found, "yaml")) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("job", "gtp", ["gpt", "wide"], "a"), 'no job "gtp" in namespace a; did you mean gpt?'),
        (("job", "x", [], "a"), 'no job "x" in namespace a; there are none'),
        (("job", "zz", ["a", "b"], "n"), 'no job "zz" in namespace n; there are a, b'),
        (("job", "gpt", ["gtp"], "a", ["b/gpt", "b/x"]), 'no job "gpt" in namespace a, but there is b/gpt'),
        (("group", "q", list("abcdefg")), 'no group "q"; there are a, b, c, d, e and 2 more'),
    ],
)
def test_unknown_names(arguments: Any, words: str) -> None:
    assert unknown(*arguments) == words


def test_which_logs_are_read() -> None:
    job = a_job()
    found = [a_pod(1, attempt=1), a_pod(0, attempt=1), a_pod(0, attempt=0)]
    assert [(s.rank, s.container) for s in logs.choose(job, found, None, None)] == [(0, "trainer"), (1, "trainer")]
    assert [s.container for s in logs.choose(job, found, frozenset({1}), "supernode-emulator")] == [
        "supernode-emulator"
    ]
    for wanted, container, pods, words in (
        (frozenset({7}), None, found, "its ranks are 0 to 1"),
        (None, "traner", found, "did you mean trainer"),
        (None, None, [], "default/gpt is Pending and has no pods"),
    ):
        with pytest.raises(NotFoundError, match=words):
            logs.choose(job, pods, wanted, container)


async def test_lines_of_a_log_however_it_is_cut() -> None:
    async def lines(*pieces: bytes) -> list[str]:
        async def stream() -> Any:
            for piece in pieces:
                yield piece

        return [line async for line in logs.split(stream())]

    assert await lines(b"a\nb", b"c\n", b"d") == ["a", "bc", "d"]
    assert await lines(b"10%\r20%\r", b"\ndone\r\n") == ["10%", "20%", "done"]
    assert await lines(b"\xe8\xae", b"\xad\n\xff\n") == ["训", "\ufffd"]
    assert [len(line) for line in await lines(b"x" * 70_000)] == [65_536, 4_464]


def test_a_line_of_a_log_has_its_rank_and_nothing_raw() -> None:
    source = logs.Source(3, "gpt-worker-3", "default", "trainer")
    line = logs.Line(source, "\x1b[31mred\x1b[0m\tx \x1b[2J训")
    assert logs.Printer("table", 12).rendered(line) == "[ 3] red\tx \\x1b[2J训"
    assert json.loads(logs.Printer("json", 12).rendered(line))["line"] == line.text
    assert yaml.safe_load(logs.Printer("yaml", 12).rendered(line))[0]["line"] == line.text
