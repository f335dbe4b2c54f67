"""The image table: what an image name means here, and what is said of one that means nothing."""

from __future__ import annotations

import sys

import pytest

from supernode.errors import LocalError
from supernode.local.agent.images import ImageTable, parse_entry, repository, resolve_program


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("supernode", "supernode"),
        ("supernode:0.1", "supernode"),
        ("localhost:5000/x/supernode", "localhost:5000/x/supernode"),
        ("localhost:5000/x/supernode:1@sha256:ab", "localhost:5000/x/supernode"),
        ("ghcr.io/a/b@sha256:ab", "ghcr.io/a/b"),
    ],
)
def test_repository(image: str, expected: str) -> None:
    assert repository(image) == expected


def test_the_products_image_is_the_running_interpreter_whatever_its_registry() -> None:
    table = ImageTable()
    for name in ("supernode", "supernode:9", "localhost:5000/a/supernode:1@sha256:ab"):
        image = table.find(name)
        assert image is not None
        assert image.entrypoint == (sys.executable, "-m", "supernode")
    assert table.find("supernode-other") is None


def test_own_entries_win_and_the_message_says_how_to_add_one() -> None:
    table = ImageTable(dict([parse_entry("team/x=/bin/sh -c 'echo 1'")]))
    found = table.find("team/x:2")
    assert found is not None
    assert found.entrypoint == ("/bin/sh", "-c", "echo 1")
    assert table.find("x:2") is None
    assert "--image other/y=COMMAND" in table.unknown("other/y:3")


@pytest.mark.parametrize("text", ["x", "=a", "x=", "x= "])
def test_a_malformed_entry_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="NAME=COMMAND"):
        parse_entry(text)


def test_python_means_the_running_interpreter() -> None:
    assert resolve_program(["python3", "x.py"]) == [sys.executable, "x.py"]
    assert resolve_program(["supernode", "emulator"]) == [sys.executable, "-m", "supernode", "emulator"]
    assert resolve_program(["/usr/bin/python3"]) == ["/usr/bin/python3"]
