"""Text of others, made fit for a status, an event and a line of a log."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.plaintext import escaped, last_line, plain
from supernode.telemetry.logs import LONGEST, JsonFormatter, TextFormatter

ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Any code point at all, lone surrogates too.
ANY = st.text(st.characters(exclude_categories=()), max_size=300)
NASTY = "\x1b[31mred\x1b[0m\x00\x07\x9b2J\r\nFAKE level=info\u202eabc\u2066\u200b\ud800\ufeff\U000e0041 end"


def acts(text: str, but: str = "") -> list[str]:
    return [c for c in text if c not in but and unicodedata.category(c) in ACTING]


@given(ANY, st.integers(1, 200))
def test_nothing_in_it_acts_and_it_is_never_longer(text: str, limit: int) -> None:
    for found in (plain(text, limit), last_line(text, limit)):
        assert acts(found) == []
        assert len(found) <= limit
        found.encode()  # no surrogate is left
    assert plain(plain(text, limit), limit) == plain(text, limit)


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=100))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert plain(text, 100) == text
    assert escaped(text) is text


def test_what_is_written_out() -> None:
    assert plain(NASTY, 200) == (
        "\\x1b[31mred\\x1b[0m\\x00\\x07\\x9b2J FAKE level=info\\u202eabc\\u2066\\u200b\\ud800\\ufeff\\U000e0041 end"
    )
    assert plain("a \t\r\n\u2028 b", 9) == "a b"
    assert plain("漢字 and é", 20) == "漢字 and é"
    assert plain("x" * 11, 10) == "x" * 9 + "…"
    assert last_line("first\n\nValueError: \x1b[1mno\x1b[0m\n\n", 40) == "ValueError: \\x1b[1mno\\x1b[0m"
    assert last_line("", 5) == ""


@pytest.mark.parametrize("text", ["\x00" * 2**20, "x" * 2**20, "\n" * 2**20 + "end", "\u202e" * 2**20, " " * 2**20])
def test_a_mebibyte_is_cut(text: str) -> None:
    assert len(plain(text, 1000)) <= 1000
    assert len(last_line(text, 300)) <= 300


@contextmanager
def a_log(formatter: logging.Formatter) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    yield logger, stream


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_message_is_one_bounded_line_of_the_log(formatter: logging.Formatter) -> None:
    with a_log(formatter) as (logger, stream):
        logger.warning("a pod said: %s", NASTY)
        logger.warning("a pod said: %s", "y" * 2**20)
    lines = stream.getvalue().split("\n")[:-1]
    assert len(lines) == 2
    assert [acts(line) for line in lines] == [[], []]
    assert len(lines[1]) < LONGEST + 200


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_acts_on_nobody_either(formatter: logging.Formatter) -> None:
    with a_log(formatter) as (logger, stream):
        try:
            raise ValueError(NASTY * 1000)
        except ValueError:
            logger.exception("unexpected")
    text = stream.getvalue()
    assert acts(text, but="\n") == []
    assert len(text) < 2 * LONGEST + 200
    if isinstance(formatter, JsonFormatter):
        assert json.loads(text)["message"] == "unexpected"
