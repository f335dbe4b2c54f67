"""Mount paths and pod names in text: replaced where they stand whole, left alone everywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.local.agent.substitute import PathMap, expand_references, replace_pod_names

PATHS = PathMap({"/data": "/real/a", "/data/cfg": "/real/b", "/dev/termination-log": "/real/t", "/": "/never"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data", "/real/a"),
        ("/data/x/y", "/real/a/x/y"),
        ("/data/", "/real/a/"),
        ("--path=/data/x", "--path=/real/a/x"),
        ("/data:/data/cfg", "/real/a:/real/b"),
        ("/data/cfg/f", "/real/b/f"),
        ("open('/data')", "open('/real/a')"),
        ("unix:///data/s.sock", "unix:///data/s.sock"),
        ("/database", "/database"),
        ("/data-1", "/data-1"),
        ("/data.bak", "/data.bak"),
        ("/my/data", "/my/data"),
        ("x/data", "x/data"),
        ("/data,/data;", "/real/a,/real/a;"),
        ("/dev/termination-log", "/real/t"),
        ("/", "/"),
    ],
)
def test_mount_paths_are_replaced_as_whole_prefixes(text: str, expected: str) -> None:
    assert PATHS.apply(text) == expected


@given(st.text(alphabet="abc/.-_ =:", max_size=40))
def test_text_without_a_mount_path_is_untouched(text: str) -> None:
    assert PATHS.apply(text) == text


def test_without_mounts_nothing_is_replaced() -> None:
    assert PathMap({}).apply("/data") == "/data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w-0.job.team-a.svc:29400", "<w-0|job|team-a>:29400"),
        ("w-0.job.team-a.svc.cluster.local", "<w-0|job|team-a>"),
        ("a.b.c.svc,d.e.f.svc", "<a|b|c>,<d|e|f>"),
        ("http://w-1.j.n.svc:80/x", "http://<w-1|j|n>:80/x"),
        ("job.team-a.svc", "job.team-a.svc"),
        ("x.a.b.c.svc", "x.a.b.c.svc"),
        ("a.b.c.svcs", "a.b.c.svcs"),
        ("a.b.c.svc.example.org", "a.b.c.svc.example.org"),
        ("A.b.c.svc", "A.b.c.svc"),
    ],
)
def test_pod_names_become_addresses(text: str, expected: str) -> None:
    assert replace_pod_names(text, lambda *parts: f"<{'|'.join(parts)}>") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)$(A)y", "x11y"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A ${A}", "$A ${A}"),
        ("$$$(A)", "$1"),
    ],
)
def test_references_follow_kubernetes_rules(text: str, expected: str) -> None:
    assert expand_references(text, {"A": "1"}) == expected
