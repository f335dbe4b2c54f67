"""The text to learn: the Python source of the running interpreter's own standard library.

Flows in: a limit in bytes, a seed and a rank. Flows out: the same bytes on every machine with the same interpreter,
batches that differ by rank, and the loss of a unigram model of those bytes. Real text that is there without a
download, and not random: indentation and keywords give a small model something to learn.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from supernode.errors import InputError

DEFAULT_BYTES: Final = 2 << 20
# Not part of the standard library, or not text that people wrote to be read.
SKIPPED: Final = frozenset({"site-packages", "dist-packages", "__pycache__", "lib2to3", "test", "tests", "idle_test"})

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Corpus:
    """Text as bytes, uint8 (n,), read-only."""

    text: Bytes

    @property
    def digest(self) -> str:
        """sha256 of the text: the same on all ranks, or they do not train on the same data."""
        return hashlib.sha256(self.text.tobytes()).hexdigest()

    @property
    def unigram_loss(self) -> float:
        """Cross-entropy in nats per byte of the best model that knows only how often each byte occurs."""
        counts = np.bincount(self.text, minlength=256)
        shares = counts[counts > 0] / self.text.size
        return float(-(shares * np.log(shares)).sum())


def standard_library() -> Path:
    """Where the running interpreter keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def load_corpus(limit: int = DEFAULT_BYTES, root: Path | None = None) -> Corpus:
    """The first `limit` bytes of all `.py` files under `root` (the standard library), in the order of their names.

    Raises:
        InputError: there is no such text.
    """
    root = standard_library() if root is None else root
    parts: list[bytes] = []
    left = limit
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if left <= 0:
            break
        if SKIPPED.isdisjoint(path.relative_to(root).parts):
            parts.append(path.read_bytes()[:left])
            left -= len(parts[-1])
    text = np.frombuffer(b"".join(parts), dtype=np.uint8)
    if text.size < 2:
        raise InputError(f"no Python source in {root}: the demo learns from the interpreter's standard library")
    return Corpus(text)


class Batches:
    """An endless stream of (inputs, targets), each uint8 (batch, sequence); the target is the next byte.

    The same seed and rank give the same stream; different ranks give different ones.
    """

    def __init__(self, corpus: Corpus, *, batch: int, sequence: int, seed: int, rank: int) -> None:
        if corpus.text.size <= sequence + 1:
            raise InputError(f"{corpus.text.size} bytes of text are too few for sequences of {sequence}")
        self._text = corpus.text
        self._batch = batch
        self._offsets = np.arange(sequence + 1)
        self._random = np.random.default_rng([seed, rank])

    def next(self) -> tuple[Bytes, Bytes]:
        """The next batch."""
        starts = self._random.integers(0, self._text.size - len(self._offsets), size=self._batch)
        rows = self._text[starts[:, None] + self._offsets]
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
