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
    """An endless stream of batches, each the next sequences of the text's random order, cut over the replicas.

    The same seed gives the same sequences in every step, whatever the number of replicas: replica r of n gets the r-th
    n-th of them.

    Args:
        corpus: the text.
        batch: sequences of one replica and step.
        sequence: bytes of a sequence.
        seed: of the order.
        replica: of `replicas`, counted from 0.
        replicas: how many share a step's sequences.
        micro_batch: sequences that are handed out together.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        batch: int,
        sequence: int,
        seed: int,
        replica: int = 0,
        replicas: int = 1,
        micro_batch: int = 0,
    ) -> None:
        if corpus.text.size <= sequence + 1:
            raise InputError(f"{corpus.text.size} bytes of text are too few for sequences of {sequence}")
        self._micro_batch = micro_batch or batch
        if batch % self._micro_batch:
            raise InputError(f"a batch of {batch} sequences does not divide into micro batches of {self._micro_batch}")
        self._text = corpus.text
        self._batch, self._replica, self._replicas = batch, replica, replicas
        self._offsets = np.arange(sequence + 1)
        self._random = np.random.default_rng(seed)

    def next(self) -> list[tuple[Bytes, Bytes]]:
        """The micro batches of a step: (inputs, targets), uint8 (micro batch, sequence); targets are the next bytes."""
        starts = self._random.integers(0, self._text.size - len(self._offsets), size=self._batch * self._replicas)
        mine = starts[self._replica * self._batch : (self._replica + 1) * self._batch]
        rows = self._text[mine[:, None] + self._offsets]
        parts = np.split(rows, self._batch // self._micro_batch)
        return [(np.ascontiguousarray(part[:, :-1]), np.ascontiguousarray(part[:, 1:])) for part in parts]
