"""What nodes, workers and admission webhooks say is taken over bounded and plain, or not at all."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.api.conditions import MESSAGE_LIMIT, Condition, set_condition
from supernode.cluster import pods
from supernode.cluster.refusals import LONGEST, error_from
from supernode.handlers.progress import own_seconds, read_report

ANY = st.text(st.characters(exclude_categories=()), max_size=400)
NASTY = ["\x1b]0;title\x07\x1b[2J" * 50, "\x00\u202e" * 400, "line\r\nline\u2028line", "\ud800 lone", "z" * 2**20, ""]


def is_plain(text: str, longest: int) -> bool:
    acting = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    return not acting and len(text) <= longest


def a_pod(words: str, reason: str) -> dict[str, Any]:
    ended = {"name": "trainer", "state": {"terminated": {"exitCode": 3, "reason": reason, "message": words}}}
    return {"metadata": {"name": "p"}, "status": {"phase": "Failed", "containerStatuses": [ended]}}


def check(words: str, reason: str) -> None:
    code, why, said = pods.ending(a_pod(words, reason))
    assert code == 3
    assert is_plain(why, 100)
    assert is_plain(said, 300)
    evicted = {"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": reason, "message": words}}
    _, why, said = pods.ending(evicted)
    assert is_plain(why, 100)
    assert is_plain(said, 300)
    waiting = {"state": {"waiting": {"reason": reason, "message": words}}}
    assert is_plain(pods.trouble({"status": {"containerStatuses": [waiting]}}), 402)
    sick = {"name": words, "resources": [{"resourceID": reason, "health": "Unhealthy"}]}
    assert is_plain(pods.sick_device({"status": {"containerStatuses": [{"allocatedResourcesStatus": [sick]}]}}), 330)
    answer = json.dumps({"reason": reason, "message": words}).encode()
    assert is_plain(str(error_from("POST", "/api", 403, answer, None)), LONGEST + 30)
    found = set_condition([], Condition("Failed", "True", "WorkerFailed", words), now="2026-01-01T00:00:00Z")
    assert is_plain(found[0]["message"], MESSAGE_LIMIT)


@given(ANY, ANY)
def test_words_of_pods_and_answers_are_plain(words: str, reason: str) -> None:
    check(words, reason)


@pytest.mark.parametrize("words", NASTY)
def test_nasty_words_are_plain(words: str) -> None:
    check(words, words)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=5,
)
NAMES = ["step", "tokens", "steps", "checkpointStep", "loss", "firstLoss", "stepSeconds", "digest", "updatedAt", "own"]


@given(st.dictionaries(st.sampled_from([*NAMES, "ownSeconds"]), JSON))
def test_a_report_of_anything_gives_only_what_a_status_may_hold(given_: dict[str, Any]) -> None:
    text = json.dumps(given_)
    own = own_seconds(text)
    assert own is None or 0 < own < 2**53
    report = read_report(text) or {}
    for name, value in report.items():
        assert name in NAMES
        assert is_plain(str(value), 128)
        json.dumps(value, allow_nan=False).encode()


@pytest.mark.parametrize(
    "text",
    [b"[" * 16384, b'{"a":' * 3000, b"\xff\xfe\x00", b"", b"{" + b"1" * 5000, b"null", b'"text"', b"\x00" * 100],
)
def test_what_is_no_report_is_none(text: bytes) -> None:
    assert read_report(text) is None
    assert own_seconds(text) is None


def test_figures_too_large_for_a_number_are_left_out() -> None:
    assert read_report('{"step": 1, "loss": 1%s, "stepSeconds": 1e999}' % ("0" * 400)) == {"step": 1}
    assert own_seconds('{"ownSeconds": 1%s}' % ("0" * 400)) is None


@pytest.mark.parametrize("digest", ["\x1b[2J", "a" * 129, "\ud800", "a b", "é", ""])
def test_a_digest_is_letters_and_digits(digest: str) -> None:
    assert read_report(json.dumps({"step": 1, "digest": digest})) == {"step": 1}
    assert read_report(json.dumps({"step": 1, "digest": "ab12"})) == {"step": 1, "digest": "ab12"}
