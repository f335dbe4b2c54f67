"""`supernode chips`: the table names every chip and fits a terminal; JSON carries every source."""

from __future__ import annotations

import json

import pytest

from supernode.chips import load_catalogue
from supernode.cli import main
from supernode.commands.chips import table


def test_the_table_has_every_chip_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chips"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "BF16", "F32", "MEM", "BW", "LINK", "JOINED", "OUT", "F16", "FP8", "RESOURCE"]
    assert {line.split()[0] for line in lines[1:35]} == set(load_catalogue())
    assert "hygon-bw1000             480*   60*    64    1600*  224*" in out


def test_columns_that_do_not_fit_are_left_out_from_the_right() -> None:
    rows = [("NAME", "A", "LONG"), ("x", "1", "2")]
    assert table(rows) == "NAME  A  LONG\nx     1  2"
    assert table(rows, 8) == "NAME  A\nx     1"
    assert table(rows, 1) == "NAME\nx"


def test_json_carries_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chips", "bw1000", "-o", "json"]) == 0
    (chip,) = json.loads(capsys.readouterr().out)
    assert (chip["name"], chip["memoryGiB"], chip["tflops"]["bf16"]) == ("hygon-bw1000", 64, 480)
    assert chip["sources"]["memory_bytes"]["confidence"] == "verified"


def test_one_chip_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chips", "bowen"]) == 0
    out = capsys.readouterr().out
    assert "memory bytes: 64 GiB  [verified: " in out
    assert "tflops.bf16: 480 TFLOPS" in out
    assert "not known: peak in tf32, fp8, int8" in out


def test_an_unknown_chip_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chips", "bw1001"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("supernode chips: no chip 'bw1001'")
    assert captured.err.count("\n") == 1
