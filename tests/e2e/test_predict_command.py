"""`supernode predict` as a person calls it: a CSV in, a table, JSON or the best cuts out, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.cli import main
from supernode.commands.predict_rows import COLUMNS, Job, RowError, jobs
from supernode.steptime.memory import Memory
from supernode.steptime.predict import PARTS, predict

ISSUED = (
    "model,layers,hidden,heads,kv_heads,ffn,head_dim,experts,experts_per_token,gated,vocab,seq_len,tp,pp,dp,cp,ep,"
    "interleave,sequence_parallel,recompute,zero_stage,micro_batch,global_batch,dtype,chip,devices,devices_per_node,"
    "scaleout_GBps,measured_s"
)
KORTHIKANTI = """
22B,48,6144,64,,,,,,,51200,2048,8,1,1,,,,,full,,4,4,fp16,nvidia-a100-80g-sxm,8,8,25,1.42
22B,48,6144,64,,,,,,,51200,2048,8,1,1,,,,1,selective,,4,4,fp16,nvidia-a100-80g-sxm,8,8,25,1.10
175B,96,12288,96,,,,,,,51200,2048,8,8,1,,,3,,full,,1,64,fp16,nvidia-a100-80g-sxm,64,8,25,18.13
175B,96,12288,96,,,,,,,51200,2048,8,8,1,,,3,1,selective,,1,64,fp16,nvidia-a100-80g-sxm,64,8,25,13.75
530B,105,20480,128,,,,,,,51200,2048,8,35,1,,,3,,full,,1,280,fp16,nvidia-a100-80g-sxm,280,8,25,49.05
530B,105,20480,128,,,,,,,51200,2048,8,35,1,,,3,1,selective,,1,280,fp16,nvidia-a100-80g-sxm,280,8,25,37.83
530B,105,20480,128,,,,,,,51200,2048,8,35,8,,,3,1,selective,,1,2240,fp16,nvidia-a100-80g-sxm,2240,8,25,39.15
1T,128,25600,160,,,,,,,51200,2048,8,64,1,,,1,,full,,1,512,fp16,nvidia-a100-80g-sxm,512,8,25,94.42
1T,128,25600,160,,,,,,,51200,2048,8,64,1,,,1,1,selective,,1,512,fp16,nvidia-a100-80g-sxm,512,8,25,71.49
"""
V100 = """
1B,24,1920,15,,,,,,,51200,1024,1,,1,,,,,full,,8,8,fp16,nvidia-v100-32g-sxm,1,16,12.5,1.121
2B,30,2304,18,,,,,,,51200,1024,2,,1,,,,,full,,8,8,fp16,nvidia-v100-32g-sxm,2,16,12.5,1.093
4B,36,3072,24,,,,,,,51200,1024,4,,1,,,,,full,,8,8,fp16,V100,4,16,12.5,1.238
8B,42,4096,32,,,,,,,51200,1024,8,,1,,,,,full,,8,8,fp16,V100,8,16,12.5,1.407
"""


def write(tmp_path: Path, rows: str, header: str = ISSUED) -> str:
    path = tmp_path / "jobs.csv"
    path.write_text(header + "\n" + rows.strip() + "\n", encoding="utf-8")
    return str(path)


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_columns_are_those_that_are_promised() -> None:
    assert ",".join(COLUMNS) == ISSUED


@pytest.mark.parametrize(("rows", "bound"), [(KORTHIKANTI, 3.0), (V100, 15.0)], ids=["A100", "V100"])
def test_published_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, bound: float) -> None:
    assert main(["predict", "--csv", write(tmp_path, rows), "--json"]) == 0
    found = objects(capsys)
    assert [one["line"] for one in found] == list(range(2, 2 + len(rows.split())))
    for one in found:
        assert {"line", "step_s", "mfu", "memory_gib", "fits", "parts", "calibrated", "measured_s", "error_pct"} <= set(
            one
        )
        assert set(one["memory_parts_gib"]) == set(Memory._fields)  # type: ignore[call-overload]
        assert sum(one["memory_parts_gib"].values()) == pytest.approx(one["memory_gib"])  # type: ignore[attr-defined]
        assert set(one["parts"]) == set(PARTS)  # type: ignore[call-overload]
        assert one["step_s"] == pytest.approx(sum(one["parts"].values()))  # type: ignore[attr-defined]
        assert one["error_pct"] == pytest.approx((one["step_s"] / one["measured_s"] - 1) * 100)  # type: ignore[operator]
        assert one["fits"] is True
        assert one["calibrated"] is True
    assert sum(abs(one["error_pct"]) for one in found) / len(found) <= bound  # type: ignore[arg-type, misc]


def test_json_may_be_asked_for_as_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, KORTHIKANTI)
    assert main(["predict", "--csv", path, "--json"]) == 0
    one = capsys.readouterr().out
    assert main(["predict", "--csv", path, "-o", "json"]) == 0
    assert capsys.readouterr().out == one


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "big,94,12288,96,8,28672,,,,1,153376,4096,8,8,64,,,,1,none,1,1,4096,bf16,huawei-ascend-910b2,,8,25,\n"
    rows += rows.replace("huawei-ascend-910b2", "nvidia-b200-sxm")
    assert main(["predict", "--csv", write(tmp_path, KORTHIKANTI + rows)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["LINE", "MODEL", "CHIP", "DEVICES", "STEP_S"]
    assert "mean absolute error of 9 measured rows: " in out
    assert "huawei-ascend-910b2*" in out
    memory = lines[lines.index("memory of the fullest device") + 1 :]
    assert memory[0].split() == ["LINE", "MODEL", *(f"{name.upper()}_GIB" for name in Memory._fields), "SUM", "LIMIT"]
    assert len(memory[1].split()) == len(memory[0].split())
    assert sum(map(float, memory[1].split()[2:-2])) == pytest.approx(float(memory[1].split()[-2]), abs=0.3)
    assert "not fitted to its own step times" in out
    assert "200 GB/s a device assumed" in out


def test_bad_rows_are_named_and_the_others_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = KORTHIKANTI.split()[0]
    rows = [
        good,
        good.replace("6144,64", "6144,many"),
        "# a comment, and an empty line",
        "",
        good.replace(",8,1,1,,", ",7,1,1,,").replace("sxm,8,8", "sxm,7,8"),
        good.replace("nvidia-a100-80g-sxm", "nvidia-a1000"),
        good.replace(",48,6144", ",,6144"),
        good.replace("full", "most"),
        good.replace("25,1.42", "nan,1.42"),
        good.replace("25,1.42", "25,-1"),
        good.replace("sxm,8,8", "sxm,12,8"),
        good.replace("fp16", "q4"),
        good.replace(",4,4,fp16", ",4,6,fp16"),
        good.replace(",,full,", ",,full,9").replace(",9,", ",9,", 1),
        good + ",1,2,3",
        good.replace("48", "1e300"),
        good.replace("nvidia-a100-80g-sxm", "cambricon-mlu590"),
        good,
    ]
    assert main(["predict", "--csv", write(tmp_path, "\n".join(rows)), "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["line"] for line in captured.out.splitlines()] == [2, 19]
    found = captured.err.splitlines()
    expected = [
        (3, "heads", "'many'"),
        (6, "tp", "64 attention heads can't be split over 7"),
        (7, "chip", "nvidia-a1000"),
        (8, "layers", "is needed"),
        (9, "recompute", "none, selective, full"),
        (10, "scaleout_GBps", "'nan'"),
        (11, "measured_s", "'-1'"),
        (12, "devices", "tp x pp x dp x cp = 8, but devices says 12"),
        (13, "dtype", "q4"),
        (14, "global_batch", "global batch of 6"),
        (15, "zero_stage", "0, 1, 2 or 3"),
        (16, "measured_s", "32 cells"),
        (17, "layers", "10^12"),
        (18, "chip", "cambricon-mlu590"),
    ]
    assert len(found) == len(expected), captured.err
    for line, (number, column, words) in zip(found, expected, strict=True):
        assert line.startswith(f"supernode predict: line {number}, column {column}: "), line
        assert words in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"layers,layers\n", "stands there twice"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_that_are_no_table_of_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, words: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text)
    assert main(["predict", "--csv", str(path)]) == 1
    assert words in capsys.readouterr().err
    assert main(["predict", "--csv", str(tmp_path / "none.csv")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Only what must be given; data ranks follow from the devices, the links from the catalogue.
    path = write(tmp_path, "32,4096,32,H100,64", "layers,hidden,heads,chip,devices")
    assert main(["predict", "--csv", path, "--json"]) == 0
    (one,) = objects(capsys)
    assert one["devices"] == 64
    assert one["measured_s"] is one["error_pct"] is None
    assert one["notes"] == []


def test_search_finds_the_best_cut_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = KORTHIKANTI.split()[3]
    path = write(tmp_path, row + "\n" + row.replace("12288", "1228800"))
    assert main(["predict", "--csv", path, "--search", "--json"]) == 0
    found, large = objects(capsys)
    best = found["best"]
    assert len(best) == 10  # type: ignore[arg-type]
    assert all(one["fits"] for one in best)  # type: ignore[attr-defined]
    seconds = [one["step_s"] for one in best]  # type: ignore[attr-defined]
    assert seconds == sorted(seconds)
    assert main(["predict", "--csv", write(tmp_path, row), "--json"]) == 0
    (own,) = objects(capsys)
    assert seconds[0] <= own["step_s"]
    # The best cut, written into the row, gives the same step.
    first = best[0]  # type: ignore[index]
    columns = dict(zip(ISSUED.split(","), row.split(","), strict=True))
    columns |= {name: str(value) for name, value in first.items() if name in columns}
    assert main(["predict", "--csv", write(tmp_path, ",".join(columns.values())), "--json"]) == 0
    (again,) = objects(capsys)
    assert again["step_s"] == pytest.approx(first["step_s"])
    assert "compute" in first["why"]
    assert "slower: " in best[-1]["why"]  # type: ignore[index]
    assert not large["best"][0]["fits"]  # type: ignore[index]
    assert "GiB too much" in large["best"][0]["why"]  # type: ignore[index]
    assert main(["predict", "--csv", path, "--search"]) == 0
    out = capsys.readouterr().out
    assert "175B: 64 x nvidia-a100-80g-sxm, 64 samples a step" in out
    assert "WHY" in out


def test_search_that_nothing_divides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "2,64,1,A100,7,3", "layers,hidden,heads,chip,devices,global_batch")
    assert main(["predict", "--csv", path, "--search"]) == 1
    assert "line 2, column global_batch" in capsys.readouterr().err


def test_a_column_that_means_nothing_is_told_and_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "32,4096,32,H100,red", "layers,hidden,heads,chip,colour")
    assert main(["predict", "--csv", path, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["devices"] == 1
    assert "column 'colour' is ignored" in captured.err


ODD = [
    "0",
    "-1",
    "1.5",
    "1e9",
    "1e400",
    "nan",
    "inf",
    "x",
    "\u0661",
    "9" * 40,
    "True",
    "Full",
    "None",
    "\x00",
    "'",
    "=1+1",
]


@given(st.lists(st.tuples(st.sampled_from(list(COLUMNS)), st.sampled_from(ODD)), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_odd_cells_are_predicted_or_named_never_a_traceback(changes: list[tuple[str, str]]) -> None:
    cells = dict(zip(ISSUED.split(","), KORTHIKANTI.split()[3].split(","), strict=True)) | dict(changes)
    (row,) = jobs(ISSUED + "\n" + ",".join(cells.values()), "x.csv")
    if isinstance(row, Job):
        try:
            step = row.guard(lambda job: predict(job.chip, job.model, job.cut(), job.wiring()))
        except RowError as exc:
            row = exc
        else:
            assert 0 < step.seconds < float("inf")
            assert 0 < step.mfu < 1
    if isinstance(row, RowError):
        assert row.line == 2
        assert row.column in COLUMNS
