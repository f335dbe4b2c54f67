"""The pages about the step-time model say what the model says now."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.unit.steptime import accuracy

AGAIN = "run: python -m tests.unit.steptime.accuracy"


def test_example_and_accuracy_on_the_page_are_those_of_the_model() -> None:
    text = accuracy.PAGE.read_text(encoding="utf-8")
    assert accuracy.page(text) == text, AGAIN


def test_the_picture_shows_every_run() -> None:
    text = accuracy.PICTURE.read_text(encoding="utf-8")
    assert accuracy.picture() == text, AGAIN
    drawn = ElementTree.fromstring(text)
    dots = [one for one in drawn.iter("{http://www.w3.org/2000/svg}circle") if one.get("r") == "4"]
    assert len(dots) == 9 + 4 + len(accuracy.published.large_runs())
    for dot in dots:  # inside the frame
        assert 60 < float(dot.get("cx") or 0) < 540
        assert 20 < float(dot.get("cy") or 0) < 500


def test_the_page_of_constants_is_the_table() -> None:
    assert accuracy.CONSTANTS.read_text(encoding="utf-8") == accuracy.constants(), AGAIN


def test_every_source_of_runs_is_shown_and_explained() -> None:
    sources = {row["source"] for row in accuracy.published.rows("large_runs.csv")}
    assert sources == set(accuracy.RUNS)
    header = (accuracy.ROOT / "tests/unit/steptime/data/large_runs.csv").read_text(encoding="utf-8")
    for source in sources:
        assert f"# {source}" in header or f", {source}:" in header, source
