"""The demo's progress: one line that is replaced in a terminal, lines that stay elsewhere."""

import re
import sys

import pytest

from supernode.commands.demo import Progress

LONG = " | ".join(f"job-{number} Running 2/2 step 100 loss 2.718" for number in range(9))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_replaced_line_never_wraps(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Progress(0.0).show(LONG, key="same")
    shown = capsys.readouterr().out
    assert "\n" not in shown
    assert len(re.sub(r"\r|\x1b\[K", "", shown)) == columns - 1


def test_without_a_terminal_a_line_comes_when_something_changes(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(0.0)
    progress.show("first", key="a")
    progress.show("again", key="a")
    progress.show("second", key="b")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[1] for line in lines] == ["first", "second"]
