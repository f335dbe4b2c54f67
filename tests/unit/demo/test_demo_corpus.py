"""The text: the same everywhere, bounded, real; batches that differ by rank; the unigram loss."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from supernode.demo.corpus import Batches, Corpus, load_corpus, standard_library
from supernode.errors import InputError


def test_it_is_the_standard_library_and_the_same_every_time():
    corpus = load_corpus(300_000)
    assert corpus.text.size == 300_000
    assert corpus.digest == load_corpus(300_000).digest
    first = sorted(standard_library().glob("*.py"))[0].read_bytes()
    assert corpus.text[: len(first)].tobytes() == first
    assert b"import" in corpus.text.tobytes()


def test_packages_of_other_people_are_left_out(tmp_path):
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "b.py").write_text("two")
    (tmp_path / "B.py").write_text("three")
    (tmp_path / "c.txt").write_text("four")
    assert load_corpus(root=tmp_path).text.tobytes() == b"threeone"
    assert load_corpus(6, root=tmp_path).text.tobytes() == b"threeo"


def test_no_text_is_said(tmp_path):
    with pytest.raises(InputError, match="no Python source"):
        load_corpus(root=tmp_path)


def test_unigram_loss_is_the_entropy_of_the_bytes():
    text = b"abracadabra " * 7
    counts = Counter(text)
    entropy = -sum(n / len(text) * math.log(n / len(text)) for n in counts.values())
    assert Corpus(np.frombuffer(text, np.uint8)).unigram_loss == pytest.approx(entropy)
    assert Corpus(np.zeros(9, np.uint8)).unigram_loss == 0


def test_targets_are_the_next_bytes_and_replicas_share_out_the_same_batch():
    corpus = Corpus(np.arange(5000, dtype=np.uint64).astype(np.uint8))
    whole = Batches(corpus, batch=8, sequence=32, seed=5)
    replicas = [Batches(corpus, batch=4, sequence=32, seed=5, replica=r, replicas=2, micro_batch=2) for r in (0, 1)]
    seen = set()
    for _ in range(3):
        ((tokens, targets),) = whole.next()
        assert tokens.shape == targets.shape == (8, 32)
        np.testing.assert_array_equal(tokens + np.uint8(1), targets)
        parts = [part for replica in replicas for part in replica.next()]
        assert [part[0].shape for part in parts] == [(2, 32)] * 4
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), tokens)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), targets)
        seen.add(tokens.tobytes())
    assert len(seen) == 3
    assert not np.array_equal(Batches(corpus, batch=8, sequence=32, seed=6).next(), whole.next())


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(InputError, match="10 bytes of text are too few for sequences of 32"):
        Batches(Corpus(np.zeros(10, np.uint8)), batch=1, sequence=32, seed=1)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="a batch of 5 sequences does not divide into micro batches of 2"):
        Batches(Corpus(np.zeros(100, np.uint8)), batch=5, sequence=32, seed=1, micro_batch=2)
