"""The image table: which command on this machine stands for which container image.

In: an image name as it stands in a pod. Out: an `Image` with the command that is its entry point, or None with a
message that says how to add it. There are no layers and no registry: a local cluster runs what is installed here.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from supernode.errors import LocalError


@dataclass(frozen=True)
class Image:
    """What stands for a container image.

    Attributes:
        name: the name it was asked for by.
        entrypoint: command that the container runs when its `command` is empty.
        environment: variables that the image sets.
    """

    name: str
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def repository(image: str) -> str:
    """The image's name without tag and digest: ``ghcr.io/x/supernode:0.1@sha256:...`` -> ``ghcr.io/x/supernode``."""
    name = image.split("@", 1)[0]
    head, _, tail = name.rpartition(":")
    # A colon before a slash belongs to the registry's port.
    return head if head and "/" not in tail else name


class ImageTable:
    """Images by repository: the whole name first, then its last part.

    Args:
        extra: further entries, name -> command (argument vector).
    """

    def __init__(self, extra: Mapping[str, Sequence[str]] | None = None) -> None:
        # Output must reach the log as it is written, as the published images have it.
        python = {"PYTHONUNBUFFERED": "1"}
        self._entries: dict[str, Image] = {
            "supernode": Image("supernode", (sys.executable, "-m", "supernode"), python),
            "python": Image("python", (sys.executable,), python),
        }
        for name, command in (extra or {}).items():
            self._entries[name] = Image(name, tuple(command), python)

    def find(self, image: str) -> Image | None:
        """The entry for an image, or None."""
        name = repository(image)
        return self._entries.get(image) or self._entries.get(name) or self._entries.get(name.rsplit("/", 1)[-1])

    def unknown(self, image: str) -> str:
        """Message for an image that is not in the table: what was asked, what is there, what helps."""
        return (
            f'image "{image}" is not in the image table of this local cluster, which runs pods as processes of this '
            f"machine; known are {', '.join(sorted(self._entries))}; "
            f"start the cluster with --image {repository(image)}=COMMAND to say what stands for it"
        )


def parse_entry(text: str) -> tuple[str, tuple[str, ...]]:
    """``NAME=COMMAND`` of the command line -> (name, argument vector); LocalError when it isn't that."""
    name, separator, command = text.partition("=")
    argv = tuple(shlex.split(command))
    if not separator or not name or not argv:
        raise LocalError(f"--image {text!r}: write NAME=COMMAND, such as --image busybox=/bin/busybox")
    return name, argv


def resolve_program(argv: Sequence[str]) -> list[str]:
    """Let `python` and `supernode` mean the running interpreter's, as they do inside the product's image."""
    head, *rest = argv
    if head in ("python", "python3"):
        return [sys.executable, *rest]
    if head == "supernode":
        return [sys.executable, "-m", "supernode", *rest]
    return [head, *rest]
