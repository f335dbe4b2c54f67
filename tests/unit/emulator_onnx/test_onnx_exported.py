"""Models as PyTorch exports them (`exported/export.py`), against what PyTorch makes of their inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from supernode.emulator import onnx_backend
from supernode.emulator.onnx_backend import Profile

MODELS = sorted((Path(__file__).parent / "exported").glob("*.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_gives_what_pytorch_gives_without_the_host(path: Path) -> None:
    prepared = onnx_backend.prepare(onnx.load(path))
    with np.load(path.with_suffix(".npz")) as arrays:
        values = {name: arrays[name] for name in arrays.files}
    inputs = [values[f"in{i}"] for i in range(len(prepared.input_names))]
    profile = Profile(prepared.device)
    found = prepared.run(inputs, profile=profile)
    expected = [values[f"out{i}"] for i in range(len(found))]
    assert f"out{len(found)}" not in values
    for name, one, other in zip(prepared.output_names, found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)
    assert not [row for row in profile.rows.values() if row.where == "host"]


def test_other_sizes_than_those_exported() -> None:
    """The batch and the length are open: a longer sequence gives the shorter one's results at its beginning."""
    prepared = onnx_backend.prepare(onnx.load(Path(__file__).parent / "exported/decoder.onnx"))
    ids = np.arange(33).reshape(3, 11) % 40
    long, short = prepared.run([ids])[0], prepared.run([ids[:, :6]])[0]
    assert long.shape == (3, 11, 40)
    np.testing.assert_allclose(long[:, :6], short, rtol=1e-4, atol=1e-5)
    assert len(MODELS) == 8
