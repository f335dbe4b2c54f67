"""What the user can type is documented, and what is documented can be typed."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from supernode import names
from supernode.commands import local
from supernode.local.agent import warden
from supernode.local.engines import ENGINES

PAGE = (Path(__file__).parents[3] / "docs" / "local-cluster.md").read_text()


def flags_of(action: str) -> set[str]:
    parser = argparse.ArgumentParser()
    local.configure(parser)
    (actions,) = [entry for entry in parser._actions if isinstance(entry, argparse._SubParsersAction)]
    shown = [entry for entry in actions.choices[action]._actions if entry.help != argparse.SUPPRESS]
    return {option for entry in shown for option in entry.option_strings} - {"-h", "--help"}


def test_the_flags_of_up_are_those_of_the_page() -> None:
    documented = set(re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE))
    assert documented == flags_of("up")


def test_the_other_actions_and_their_flags_are_on_the_page() -> None:
    assert flags_of("down") == {"--name"}
    assert flags_of("status") == {"--name", "-o", "--output"}
    for action in ("up", "down", "status"):
        assert f"`supernode local {action}`" in PAGE


def test_engines_and_variables_are_on_the_page() -> None:
    for word in (*ENGINES, names.ENV_LOCAL_DIRECTORY, names.ENV_LOCAL_MARK, names.ENV_TERMINATION_LOG):
        assert f"`{word}`" in PAGE
    assert warden.MARK_VARIABLE == names.ENV_LOCAL_MARK
