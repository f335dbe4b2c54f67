"""The constants of the table are near those that the fitting script finds, and the curve behaves."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench import fit_steptime

from supernode.chips import find_chip
from supernode.steptime.calibration import FAMILIES, family_of
from supernode.steptime.roofline import gemm_efficiency, gemm_seconds


def test_fitting_again_finds_little_better(capsys: pytest.CaptureFixture[str]) -> None:
    fit_steptime.main()
    out = capsys.readouterr().out
    pairs = re.findall(r"([\d.]+)% with the table, ([\d.]+)% at best", out)
    assert len(pairs) == 7
    for table, best in pairs:
        assert float(table) <= float(best) + 2.5, out
    assert "CROWD: 0.4" in out


sizes = st.integers(1, 65536)


@given(st.sampled_from(FAMILIES), sizes, sizes, sizes)
def test_efficiency_grows_with_every_size_and_stays_below_the_peak(family: object, m: int, n: int, k: int) -> None:
    one = gemm_efficiency(family, m, n, k)  # type: ignore[arg-type]
    assert 0 < one < family.gemm_peak < 1  # type: ignore[attr-defined]
    for bigger in ((2 * m, n, k), (m, 2 * n, k), (m, n, 2 * k)):
        assert gemm_efficiency(family, *bigger) > one  # type: ignore[arg-type]


def test_families_differ_where_their_tiles_do() -> None:
    # A product of one small tile fills less of an H100 than of an A100.
    small, large = (128, 128, 512), (8192, 8192, 8192)

    def share(name: str, size: tuple[int, int, int]) -> float:
        chip = find_chip(name)
        m, n, k = size
        seconds = gemm_seconds(chip, m, n, k, "bf16") - family_of(name).launch
        return 2 * m * n * k / seconds / chip.peak_flops("bf16")

    assert share("nvidia-h100-80g-sxm", small) < 0.6 * share("nvidia-a100-80g-sxm", small)
    assert share("nvidia-h100-80g-sxm", large) > 0.7 * share("nvidia-a100-80g-sxm", large)
