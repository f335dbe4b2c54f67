"""The operators that run on kernels of the device: named a second time here, and seen to run nowhere else."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from supernode.emulator import onnx_backend
from supernode.emulator.onnx_backend import Profile
from supernode.emulator.onnx_backend.operators import FAMILIES, OPERATORS

#: Operators of deep-learning models, by hand; all must run on the device's own kernels.
_WORDS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat Constant
ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Det Div Dropout
DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu
Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish
Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min
Mish Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv
QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
RotaryEmbedding Round STFT Scan ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
OWN = _WORDS.split()
#: Operators that need no launch: they say what the host knows, or pass values on.
SILENT = {"Constant", "Identity", "If", "Loop", "Scan", "Shape", "Size"} | {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze"
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    """The standard's tests of nodes, by operator."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found: dict[str, list[Any]] = defaultdict(list)
        for case in load_model_tests(kind="node"):
            for name in {node.op_type for node in case.model.graph.node}:
                found[name].append(case)
    return found


def test_the_table_has_them() -> None:
    names = {name for domain, name in OPERATORS if not domain}
    assert len(OWN) == len(set(OWN)) >= 120
    assert set(OWN) <= names
    assert sum(len(family) for family in FAMILIES.values()) == len(OPERATORS)


@pytest.mark.parametrize("name", OWN)
def test_runs_on_the_device(name: str, cases: dict[str, list[Any]]) -> None:
    """Of the standard's tests of an operator at least one runs on kernels alone (others may have odd dtypes)."""
    seen = []
    for case in cases[name]:
        profile = Profile(onnx_backend.find_device())
        prepared = onnx_backend.prepare(case.model)
        with np.errstate(all="ignore"):
            prepared.run([array(x) for x in case.data_sets[0][0]], profile=profile)
        rows = [row for row in profile.rows.values() if row.operator == name]
        on_device = all(row.where != "host" for row in profile.rows.values())
        seen.append(on_device and bool(rows) and (name in SILENT or any(row.launches for row in rows)))
        if seen[-1]:
            return
    pytest.fail(f"{name}: {len(seen)} tests, none on the device alone")


def array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def test_the_page_names_them() -> None:
    text = (Path(__file__).parents[3] / "docs/onnx.md").read_text()
    part = text.split("## Operators on the device")[1].split("\n## ")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", part)) == {name for _, name in OPERATORS}
