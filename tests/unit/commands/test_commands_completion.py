"""Shell completion: what bash really offers, and that every option is in every script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from supernode.cli import COMMANDS, build_parser
from supernode.commands.completion import SHELLS, script, walk

PARSER = build_parser(tuple(COMMANDS))


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "supernode.bash"
    path.write_text(script("bash", PARSER), encoding="utf-8")
    return path


def offered(bash_script: Path, line: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last word of a line."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    words = line.split(" ")
    code = (
        f"source {bash_script}; COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
        '_supernode; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-uc", code], capture_output=True, text=True, cwd=folder, timeout=20)
    assert not done.stderr
    return [word for word in done.stdout.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("supernode st", ["status"]),
        ("kubectl-supernode wh", ["why"]),
        ("supernode local ", ["up", "down", "status"]),
        ("supernode local up --eng", ["--engine"]),
        ("supernode local up --engine ", ["embedded", "envtest"]),
        ("supernode -", ["-h", "--help", "--version"]),
        ("supernode why -o y", ["yaml"]),
        ("supernode why --output ", ["table", "json", "yaml"]),
        ("supernode why status --kube", ["--kubeconfig"]),
        ("supernode completion ", ["bash", "zsh", "fish"]),
        ("supernode why gpt", []),
        ("supernode top --interval ", []),
    ],
)
def test_what_bash_offers(bash_script: Path, line: str, words: list[str]) -> None:
    assert offered(bash_script, line) == words


def test_bash_offers_files_where_a_file_is_meant(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").touch()
    assert offered(bash_script, "supernode place --job j", tmp_path) == ["job.yaml"]
    assert offered(bash_script, "supernode why --kubeconfig j", tmp_path) == ["job.yaml"]


def test_bash_offers_every_command(bash_script: Path) -> None:
    assert offered(bash_script, "supernode ") == list(COMMANDS)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_every_script(shell: str) -> None:
    text = script(shell, PARSER)
    for command in walk(PARSER):
        for name, _ in command.subcommands:
            assert name in text
        for option in command.options:
            for name in option.names:
                assert name.lstrip("-") in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    path = tmp_path / "script"
    path.write_text(script(shell, PARSER), encoding="utf-8")
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
