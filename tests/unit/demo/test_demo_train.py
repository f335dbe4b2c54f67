"""The worker's program: flags and their page, lines, first and last loss, with an emulator in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.unit.demo.eager import EagerEmulator

from supernode.demo.adamw import AdamWConfig
from supernode.demo.corpus import load_corpus
from supernode.demo.train import LAST_STEPS, build_parser, train

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
SMALL = ["--hidden", "16", "--heads", "2", "--sequence", "12", "--batch", "2", "--log-every", "5"]


def test_every_flag_is_on_its_page_with_its_default_and_the_other_way_round():
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| (\S+) \|", PAGE.read_text(), flags=re.MULTILINE))
    parser = build_parser()
    actions = {action.option_strings[-1]: action for action in parser._actions if action.dest != "help"}
    assert set(rows) == set(actions)
    assert rows == {flag: str(action.default) for flag, action in actions.items()}


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--batch", "-1"], ["--dtype", "int8"], ["--steps", "x"]])
def test_wrong_flags_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_lines_reports_and_the_last_words(capsys):
    emulator = EagerEmulator(2)
    corpus = load_corpus(50_000)
    words = train(emulator, build_parser().parse_args(["--steps", "12", *SMALL]), corpus)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["corpusSha256"] == corpus.digest
    assert lines[0]["unigramLoss"] == pytest.approx(corpus.unigram_loss, abs=1e-4)
    assert [line["step"] for line in lines[1:]] == [1, 5, 10, 12]
    losses = [report["loss"] for report in emulator.reports]
    assert len(losses) == 13
    assert [report["step"] for report in emulator.reports] == [*range(1, 13), 12]
    assert [report["tokens"] for report in emulator.reports][:2] == [48, 96]
    assert words["firstLoss"] == losses[0]
    assert words["lastLoss"] == losses[-1] == pytest.approx(sum(losses[12 - LAST_STEPS : 12]) / LAST_STEPS)
    assert len(words["digests"]) == 2
    assert set(words["digests"]) == {emulator.reports[-1]["digest"]}


def test_the_same_seed_gives_the_same_bits_and_another_does_not(capsys):
    corpus = load_corpus(50_000)

    def digest(seed: str) -> str:
        args = build_parser().parse_args(["--steps", "3", "--seed", seed, *SMALL])
        return train(EagerEmulator(2), args, corpus)["digests"][0]

    assert digest("1") == digest("1") != digest("2")


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    config = AdamWConfig(learning_rate=1.0, warmup=10)
    rates = [config.rate(step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
