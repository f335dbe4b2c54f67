"""The tests that the `onnx` package ships, all that run on a CPU, on the emulated device.

What does not pass is listed with its reason, here and in docs/onnx.md; a listed test that passes is a failure too.
"""

from __future__ import annotations

import re
import unittest
import warnings
from pathlib import Path

import numpy as np
import pytest

import supernode.emulator.onnx_backend

with warnings.catch_warnings(), np.errstate(all="ignore"):
    warnings.simplefilter("ignore")  # the package's own test data overflow on purpose
    from onnx.backend.test import BackendTest

    CASES = BackendTest(supernode.emulator.onnx_backend, __name__).test_cases

TESTS = {
    name: case
    for case in CASES.values()
    for name in unittest.defaultTestLoader.getTestCaseNames(case)
    if name.endswith("_cpu")
}
#: What the package's own reference implementation passes of these tests where Pillow is not installed; a little more
#: than on the machine that the requirement was counted on.
REFERENCE = 2005
RANDOM = "the expected numbers are those of another generator of random numbers"
IMAGES = "decoding images needs Pillow, which this package does not ask for"
HALF = (
    "the expected numbers round to 16 bits after every step; ours, rounded once, differ by one unit in the last place"
)
RUNNER = "the package's runner cannot compare sequences of numbers without axes"
GRADIENT = "the operator Gradient differentiates graphs; nothing here does, nor does the reference"
KNOWN = {
    **{f"test_bernoulli{kind}_cpu": RANDOM for kind in ("", "_expanded", "_double", "_double_expanded", "_seed")},
    "test_bernoulli_seed_expanded_cpu": RANDOM,
    **{
        f"test_image_decoder_decode_{kind}_cpu": IMAGES
        for kind in ("bmp_rgb", "jpeg2k_rgb", "jpeg_bgr", "jpeg_grayscale", "jpeg_rgb", "png_rgb", "pnm_rgb")
    },
    "test_image_decoder_decode_tiff_rgb_cpu": IMAGES,
    "test_image_decoder_decode_webp_rgb_cpu": IMAGES,
    "test_attention_4d_causal_fp16_cpu": HALF,
    "test_attention_4d_causal_fp16_expanded_cpu": HALF,
    "test_loop16_seq_none_cpu": RUNNER,
    "test_gradient_of_add_cpu": GRADIENT,
    "test_gradient_of_add_and_mul_cpu": GRADIENT,
}
PAGE = Path(__file__).parents[3] / "docs/onnx.md"


@pytest.mark.parametrize("name", sorted(TESTS))
def test_standard(name: str) -> None:
    result = unittest.TestResult()
    TESTS[name](name).run(result)
    problems = [text for _, text in (*result.errors, *result.failures)] + [reason for _, reason in result.skipped]
    if name in KNOWN:
        assert problems, f"{name} passes now: take it off the list, here and in docs/onnx.md"
    else:
        assert not problems, problems[0]


def test_no_fewer_pass_than_of_the_reference() -> None:
    assert len(TESTS) >= 2033
    assert set(KNOWN) <= set(TESTS)
    assert len(TESTS) - len(KNOWN) >= REFERENCE


def test_the_page_lists_what_does_not_pass() -> None:
    text = PAGE.read_text()
    assert set(re.findall(r"`(test_\w+)`", text.split("## What does not pass")[1].split("\n## ")[0])) == {
        name.removesuffix("_cpu") for name in KNOWN
    }
    assert f"{len(TESTS) - len(KNOWN):,} of {len(TESTS):,}" in text
