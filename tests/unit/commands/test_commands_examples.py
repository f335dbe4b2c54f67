"""Every command's help ends with examples that the parser takes, and every command that answers has `-o json|yaml`."""

from __future__ import annotations

import argparse
import shlex

import pytest

from supernode.cli import COMMANDS, build_parser, main
from supernode.commands.documents import FORMATS
from supernode.commands.examples import EXAMPLES, epilog

# Those that answer with something else than values: they run, write a file, or print a script or manifests.
NO_ANSWER = {"local", "operator", "emulator", "demo", "crds", "completion"}


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command and every subcommand of one."""
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(parser: argparse.ArgumentParser, path: str) -> None:
        found[path] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    walk(sub, f"{path} {name}".strip())

    walk(build_parser(tuple(COMMANDS)), "")
    return found


def test_every_command_has_an_example_and_every_example_a_command() -> None:
    assert set(COMMANDS) <= set(EXAMPLES) <= set(parsers())


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_are_commands_that_are_understood(command: str) -> None:
    for line, text in EXAMPLES[command]:
        words = shlex.split(line)
        args = build_parser([words[0]]).parse_args(words[: words.index("--")] if "--" in words else words)
        assert line.startswith(command.split()[0])
        assert (args.command, bool(text)) == (words[0], True)
    assert max(map(len, (epilog("kubectl supernode", command) or "").splitlines())) <= 100


def test_help_shows_them_under_the_name_of_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/kubectl-supernode"])
    with pytest.raises(SystemExit) as ended:
        main(["why", "--help"])
    assert ended.value.code == 0
    assert "examples:\n  kubectl supernode why gpt " in capsys.readouterr().out


def test_every_command_that_answers_does_so_for_programs_too() -> None:
    for name in {*COMMANDS, "local status"} - NO_ANSWER:
        option = next(action for action in parsers()[name]._actions if "--output" in action.option_strings)
        assert tuple(option.choices or ()) == FORMATS, name
