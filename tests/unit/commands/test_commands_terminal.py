"""Text for terminals: widths in columns, tables that fit, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.commands.figures import age, percent, span, step_time
from supernode.commands.terminal import Colour, Mark, Sheet, clean, cut, emit, fitting, wants_colour, width_of, wrap

NASTY = "\x1b]0;owned\x07 \x9b31m \u202egnp.exe \ud800 \u2028 \x7f"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("a\r\nb\tc", "a  b c"),
        ("\u202eevil", "\\u202eevil"),
        ("\u200b", "\\u200b"),
        ("\u3000", " "),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("训练 é", "训练 é"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@given(st.text(st.characters()))
def test_nothing_raw_gets_through_a_sheet_whatever_the_text(text: str) -> None:
    sheet = Sheet(40)
    sheet.line(text, Mark(text, Colour.RED))
    sheet.sentence(text, 2)
    sheet.table(("A", "B"), [[text, "b"], ["a", Mark(text)]])
    assert all(character.isprintable() or character == "\n" for character in sheet.text())


@given(st.text(st.characters(), max_size=60), st.integers(1, 50))
def test_no_line_is_wider_than_the_terminal(text: str, width: int) -> None:
    sheet = Sheet(width)
    sheet.line("name ", text)
    sheet.table(("NAME", "STATE"), [[text, "Running"]])
    assert max(width_of(line) for line in sheet.text().split("\n")) <= width


@pytest.mark.parametrize(("text", "columns"), [("", 0), ("abc", 3), ("训练", 4), ("e\u0301", 1), ("ｱ", 1), ("Ａ", 2)])
def test_widths_are_columns(text: str, columns: int) -> None:
    assert width_of(text) == columns


def test_columns_stay_aligned_after_wide_characters() -> None:
    sheet = Sheet()
    sheet.table(("JOB", "STATE"), [["训练任务", "Running"], ["gpt", "Failed"]])
    ends = [width_of(line[: re.search(r"STATE|Running|Failed", line).start()]) for line in sheet.text().split("\n")]  # type: ignore[union-attr]
    assert ends == [10, 10, 10]


@pytest.mark.parametrize(
    ("text", "width", "short"), [("abcdef", 4, "abc…"), ("训练任务", 5, "训练…"), ("abc", 3, "abc"), ("x", 0, "")]
)
def test_cutting_counts_columns(text: str, width: int, short: str) -> None:
    assert cut(text, width) == short


def test_a_table_cuts_the_widest_column_then_leaves_columns_out() -> None:
    sizes = [[4, 5, 3], [30, 10, 3]]
    assert fitting(sizes, None) == [30, 10, 3]
    assert fitting(sizes, 35) == [18, 10, 3]
    assert fitting(sizes, 25) == [9, 9, 3]
    assert fitting(sizes, 20) == [9, 9]
    assert fitting(sizes, 5) == [5]


def test_sentences_break_at_blanks() -> None:
    assert wrap("one two three", 9, 2) == ["  one two", "  three"]
    assert wrap("one two three", None) == ["one two three"]


def test_empty_columns_are_left_out() -> None:
    sheet = Sheet()
    sheet.table(("A", "WHY NOT", "B"), [["1", "", "2"]])
    assert sheet.text() == "A  B\n1  2"


def test_colours_change_nothing_but_colours() -> None:
    plain, bright = Sheet(30), Sheet(30, colour=True)
    for sheet in (plain, bright):
        sheet.line("is ", Mark("Running", Colour.GREEN))
        sheet.table(("A", "B"), [[Mark("x", Colour.RED), "y"]])
    assert re.sub(r"\x1b\[\d+m", "", bright.text()) == plain.text()
    assert "\x1b[32mRunning\x1b[0m" in bright.text()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (_Terminal(), {}, True),
        (_Terminal(), {"NO_COLOR": "1"}, False),
        (_Terminal(), {"NO_COLOR": ""}, True),
        (_Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_only_where_they_are_wanted(stream: io.StringIO, environment: dict[str, str], wanted: bool) -> None:
    assert wants_colour(stream, environment) is wanted


def test_a_poor_encoding_is_no_error() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    emit("训 ok", stream)
    assert raw.getvalue() == b"\\u8bad ok\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (59.9, "59s"),
        (119, "119s"),
        (300, "5m"),
        (3 * 3600, "3h"),
        (2 * 86400 + 3600, "2d1h"),
        (9e6, "104d"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_figures_of_nothing_are_empty() -> None:
    assert [age(None, 0), age("soon", 0), step_time(None), percent("x")] == [""] * 4
    assert age("2026-01-01T00:00:00Z", 1767225600 + 42) == "42s"
    assert [step_time(2.5), step_time(0.0025), step_time(2.5e-6)] == ["2.5 s", "2.5 ms", "2.5 us"]
    assert [percent(0.421), percent(0.00107), percent(0)] == ["42.1%", "0.11%", "0.0%"]
