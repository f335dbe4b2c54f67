"""`supernode emulator run` as a person calls it: a model file in, tables, JSON, arrays and errors out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron of two layers; the batch is open."""
    rng = np.random.default_rng(3)
    constants = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {"w1": (256, 512), "b1": (512,), "w2": (512, 16)}.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Gelu", ["a"], ["b"], name="bend"),
        helper.make_node("MatMul", ["b", "w2"], ["c"], name="second"),
        helper.make_node("Softmax", ["c"], ["y"], name="chances"),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        constants,
    )
    out = tmp_path_factory.mktemp("onnx") / "perceptron.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), out)
    return out


def supernode(*words: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUPERNODE_")}
    command = [sys.executable, "-c", "import sys; from supernode.cli import main; sys.exit(main(sys.argv[1:]))"]
    return subprocess.run(
        [*command, "emulator", "run", *map(str, words)], env=environment, capture_output=True, text=True, timeout=120
    )


def test_tables(path: Path) -> None:
    done = supernode(path, "--dim", "batch=64", "--chip", "nvidia-a100-80g-sxm")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("perceptron.onnx on nvidia-a100-80g-sxm")
    assert re.match(r"device time [\d.]+ us, 18.4MFLOP .* memory [\d.]+ KiB at most .* of 80 GiB", lines[1])
    table = "\n".join(lines)
    for operator in ("Gemm", "Gelu", "MatMul", "Softmax"):
        assert re.search(rf"^{operator} +1 +[\d.]+ us +[\d.]+% +[\d.]+[kM]? +[\d.]+[kM]B +device", table, re.MULTILINE)
    assert re.search(r"device +first$", table, re.MULTILINE)
    assert max(map(len, lines[1:])) <= 120
    assert lines[-1] == "output y: float32[64, 16]"


def test_json_and_arrays(path: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(5).standard_normal((3, 256)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = supernode(path, "--input", f"x={tmp_path / 'x.npy'}", "--save", tmp_path / "out", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert yaml.safe_load(supernode(path, "--input", f"x={tmp_path / 'x.npy'}", "-o", "yaml").stdout) == facts
    assert facts["chip"] == "hygon-bw1000"
    assert facts["deviceSeconds"] == pytest.approx(sum(row["seconds"] for row in facts["operators"]), rel=1e-6)
    assert [row["name"] for row in facts["nodes"] if row["where"] == "device"] == ["first", "bend", "second", "chances"]
    assert facts["memory"]["peakBytes"] > facts["memory"]["constantsBytes"] > 256 * 512 * 4
    assert facts["outputs"] == [{"name": "y", "dtype": "float32", "shape": [3, 16]}]
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(np.load(tmp_path / "out/y.npy"), expected, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same(path: Path, tmp_path: Path) -> None:
    outputs = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        done = supernode(path, "--dim", "batch=2", "--seed", seed, "--save", folder, "-o", "json")
        outputs.append((np.load(folder / "y.npy").tobytes(), json.loads(done.stdout)["deviceSeconds"]))
    assert outputs[0] == outputs[1]
    assert outputs[0][0] != outputs[2][0]
    assert outputs[0][1] == outputs[2][1]


def test_errors_say_what_is_wrong(path: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\xff" * 64)
    odd = onnx.load(path)
    odd.graph.node[1].op_type, odd.graph.node[1].domain = "Bend", "own"
    odd.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(odd, tmp_path / "odd.onnx")
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    for words, message in (
        ((tmp_path / "none.onnx",), r"MODEL: cannot read .*none.onnx: No such file"),
        ((garbage,), r"garbage.onnx is not an ONNX model"),
        ((tmp_path / "odd.onnx", "--dim", "batch=1"), r"node 'bend' \(Bend\): the operator own.Bend"),
        ((path,), r"--dim: batch is open .*give --dim batch=SIZE"),
        ((path, "--dim", "batch=-1"), r"not '-1'"),
        ((path, "--dim", "batch=1", "--dim", "bach=2"), r"no size 'bach' is to be given; open are batch"),
        (
            (path, "--dim", "batch=100000000000"),
            r"input x of 100000000000x256 numbers needs 186.3 TiB of the host, which",
        ),
        ((path, "--input", "z=z.npy"), r"no input 'z'; it has x"),
        ((path, "--input", f"x={tmp_path / 'x.npy'}"), r"holds float32\[2, 3\], but input x is float32\[\?,256\]"),
        ((path, "--dim", "batch=1", "--chip", "abacus"), r"abacus"),
        ((path, "--dim", "batch=4096", "--memory-gib", "0.005"), r"node 'first' \(Gemm\).*MiB"),
    ):
        done = supernode(*words)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert re.search(message, done.stderr.replace("\n", " ")), done.stderr


def test_without_the_extra_the_sidecar_runs_and_models_say_what_is_missing(path: Path) -> None:
    script = """
import sys
sys.modules["onnx"] = None
import supernode.commands.emulator, supernode.emulator.server, supernode.emulator.client, supernode.emulator.array_api
from supernode.cli import main
assert main(["emulator", "kernels"]) == 0
sys.exit(main(["emulator", "run", sys.argv[1]]))
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert "layer_norm" in done.stdout
    assert "need the package onnx: pip install onnx" in done.stderr
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_options_are_in_the_page() -> None:
    text = (ROOT / "docs/onnx.md").read_text()
    shown = supernode("-h").stdout
    flags = set(re.findall(r"(--[a-z-]+)", shown)) - {"--help", "--output"} | {"-o"}
    assert set(re.findall(r"^\| `(-[-a-z]+)`", text, re.MULTILINE)) == flags
