"""The kernels of the array namespace against NumPy, over every dtype they have; a kernel without a case fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import TABLE
from supernode.errors import KernelError

FAMILIES = ("functions", "scan", "rearrange", "indexing", "ordering", "linear algebra", "fourier")
RNG = np.random.default_rng(11)


class Case(NamedTuple):
    """Inputs (floats take the dtype at hand), attributes, what NumPy says."""

    inputs: tuple[Any, ...]
    reference: Callable[..., Any]
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed


def values(*shape: int) -> Any:
    """Numbers that every function here is defined for: 0.25 to 0.75."""
    return RNG.random(shape) / 2 + 0.25


X = values(3, 4)
SQUARE = values(2, 3, 3) + 3 * np.eye(3)
SYMMETRIC = SQUARE + np.swapaxes(SQUARE, -1, -2)
PLACES = np.array([[2], [0]])


def one(function: Any, x: Any = X, **attributes: Any) -> list[Case]:
    return [Case((x,), lambda a: function(a, **attributes), attributes)]


def two(function: Any) -> list[Case]:
    return [Case((X, values(4)), function)]


CASES: dict[str, list[Case]] = {
    **{name: one(getattr(np, name)) for name in ("cos", "cosh", "sin", "sinh", "tan", "expm1", "log1p")},
    **{name: one(getattr(np, f"arc{name[1:]}")) for name in ("acos", "asin", "asinh", "atan", "atanh")},
    "acosh": one(np.arccosh, X + 1),
    "log2": one(np.log2),
    "log10": one(np.log10),
    "trunc": one(np.trunc, X * 9 - 4),
    "signbit": one(np.signbit, X - 0.5),
    "isinf": one(np.isinf, np.array([np.inf, -np.inf, np.nan, 0.0])),
    "conj": one(np.conj, X),
    "real": one(np.real, X),
    "imag": [Case((X + 2j * X,), np.imag)],
    "bitwise_invert": one(np.invert, np.array([0, 5, 77])),
    "bitwise_left_shift": [Case((np.array([1, 3]), np.array([2, 1])), np.left_shift)],
    "bitwise_right_shift": [Case((np.array([64, 3]), np.array([2, 1])), np.right_shift)],
    "atan2": two(np.arctan2),
    "hypot": two(np.hypot),
    "copysign": [Case((X, X - 0.5), np.copysign)],
    "nextafter": two(np.nextafter),
    "logaddexp": two(np.logaddexp),
    "floor_quotient": [Case((X * 9 - 3, values(4)), np.floor_divide)],
    "cumulative_sum": [
        Case((X,), lambda x: np.cumsum(x, 1), {"axis": 1}),
        Case((X,), lambda x: np.vstack([np.zeros((1, 4)), np.cumsum(x, 0)]), {"axis": 0, "initial": True}),
    ],
    "cumulative_prod": [Case((X,), lambda x: np.cumprod(x, -1), {"axis": -1})],
    "variance": [
        Case((X,), np.var),
        Case((X,), lambda x: np.var(x, 1, ddof=1, keepdims=True), {"axis": [1], "keepdims": True, "correction": 1.0}),
    ],
    "count_nonzero": [Case((np.array([[0, 1], [2, 3]]),), lambda x: np.count_nonzero(x, axis=0), {"axis": [0]})],
    "flip": [Case((X,), np.flip), Case((X,), lambda x: x[:, ::-1], {"axis": [1]})],
    "roll": [Case((X,), lambda x: np.roll(x, (1, -2), (0, 1)), {"shift": [1, -2], "axis": [0, 1]})],
    "tile": [Case((X,), lambda x: np.tile(x, (2, 3)), {"repetitions": [2, 3]})],
    "triangle": [
        Case((X,), lambda x: np.tril(x, -1), {"k": -1}),
        Case((X,), lambda x: np.triu(x, 1), {"k": 1, "upper": True}),
    ],
    "eye": [],
    "linspace": [
        Case((np.array(0.25), np.array(2.0)), lambda a, b: np.linspace(a, b, 7), {"num": 7}),
        Case((np.array(0.25), np.array(2.0)), lambda a, b: np.linspace(a, b, 4, False), {"num": 4, "endpoint": False}),
    ],
    "index": [
        Case((X,), lambda x: x[1, ::-2], {"key": [["number", 1], ["slice", None, None, -2]]}),
        Case((X, PLACES, np.array([1, 3])), lambda x, i, j: x[i, j], {"key": [["array"], ["array"]]}),
        Case(
            (values(2, 3, 4), PLACES[:, 0] // 2),
            lambda x, i: x[i, :, 1],
            {"key": [["array"], ["slice", None, None, None], ["number", 1]]},
        ),
        Case((values(2, 3, 4), PLACES), lambda x, i: x[1, None, i], {"key": [["number", 1], ["new"], ["array"]]}),
    ],
    "set_index": [],
    "take_along_axis": [
        Case((X, np.argsort(X, 1)), lambda x, i: np.take_along_axis(x, i, 1), {"axis": 1}),
    ],
    "repeat": [
        Case((X, np.array([1, 0, 2])), lambda x, n: np.repeat(x, n, 0), {"axis": 0, "length": 3}),
    ],
    "sort": [
        Case((X,), lambda x: np.sort(x, 0), {"axis": 0}),
        Case((X,), lambda x: -np.sort(-x, 1), {"axis": 1, "descending": True}),
    ],
    "argsort": [
        Case((X,), lambda x: np.argsort(x, 0, kind="stable"), {"axis": 0}),
        Case((X,), lambda x: np.argsort(-x, 1, kind="stable"), {"axis": 1, "descending": True}),
    ],
    "searchsorted": [
        Case((np.sort(X[0]), X), np.searchsorted),
        Case((np.sort(X[0]), X), lambda a, v: np.searchsorted(a, v, "right"), {"side": "right"}),
        Case((X[0], X, np.argsort(X[0])), lambda a, v, i: np.searchsorted(a, v, sorter=i)),
    ],
    "nonzero": [Case((np.array([[0.0, 1.0], [2.0, 3.0]]),), np.nonzero, {"count": 3})],
    "count_unique": [Case((np.array([3.0, 1.0, 3.0]),), lambda x: np.asarray(2))],
    "unique": [
        Case((np.array([[3.0, 1.0, 3.0]]),), lambda x: ([1.0, 3.0], [1, 0], [[1, 0, 1]], [1, 2]), {"count": 2}),
    ],
    "cholesky": [
        Case((SYMMETRIC,), np.linalg.cholesky),
        Case((SYMMETRIC,), lambda x: np.linalg.cholesky(x, upper=True), {"upper": True}),
    ],
    "determinant": one(np.linalg.det, SQUARE),
    "sign_log_determinant": [Case((SQUARE,), lambda x: tuple(np.linalg.slogdet(x)))],
    "eigh": [],
    "eigvalsh": one(np.linalg.eigvalsh, SYMMETRIC),
    "inverse": one(np.linalg.inv, SQUARE),
    "qr": [],
    "svd": [],
    "svdvals": one(np.linalg.svdvals, X),
    "solve": [
        Case((SQUARE, values(3)), np.linalg.solve),
        Case((SQUARE, values(3, 2)), np.linalg.solve),
    ],
    "pinv": one(np.linalg.pinv, X),
    "matrix_rank": [
        Case((np.stack([np.eye(3), np.ones((3, 3))]),), lambda x: np.array([3, 1])),
    ],
    "diagonal": [Case((X,), lambda x: np.diagonal(x, 1), {"k": 1})],
    "vector_norm": [
        Case((X,), lambda x: np.linalg.vector_norm(x, axis=1, ord=3), {"axis": [1], "ord": 3}),
        Case((X,), lambda x: np.abs(x).max(), {"ord": "inf"}),
    ],
    "matrix_norm": [
        Case((X,), np.linalg.matrix_norm),
        Case((SQUARE,), lambda x: np.linalg.matrix_norm(x, ord="nuc"), {"ord": "nuc"}),
    ],
    "cross": [Case((X.T, values(3)), np.cross, {"axis": -1})],
    "fft": [
        Case((X,), lambda x: np.fft.fft(x, 6), {"axes": [-1], "lengths": [6]}),
        Case((X,), lambda x: np.fft.fftn(x, norm="ortho"), {"axes": [0, 1], "norm": "ortho"}),
    ],
    "ifft": [Case((X,), lambda x: np.fft.ifftn(x, axes=(0, 1)), {"axes": [0, 1]})],
    "rfft": [Case((X,), lambda x: np.fft.rfftn(x, axes=(0, 1)), {"axes": [0, 1]})],
    "irfft": [Case((X,), np.fft.irfft, {"axes": [1]})],
    "hfft": [Case((X,), np.fft.hfft, {"axes": [1]})],
    "ihfft": [Case((X,), np.fft.ihfft, {"axes": [1]})],
}
TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 2e-5, "c64": 2e-5}


def test_every_kernel_has_a_case() -> None:
    assert set(CASES) == {kernel.name for family in FAMILIES for kernel in TABLE.families[family]}


@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if cases])
def test_against_numpy(kernel: Any, name: str) -> None:
    for dtype in TABLE.kernels[name].dtypes:
        target = DTYPES[dtype]
        for case in CASES[name]:
            floats = case.inputs[0].dtype.kind in "fc"
            if floats != (target.kind not in "iub") or (case.inputs[0].dtype.kind == "c" and target.kind != "c"):
                continue
            inputs = [x.astype(target) if x.dtype.kind in "fc" or not floats else x for x in case.inputs]
            wide = [x.astype(np.float64) if x.dtype == DTYPES["bf16"] else x for x in inputs]
            if name == "nextafter":
                wide = inputs
            expected = case.reference(*wide)
            results = kernel(name, *inputs, **case.attributes)
            listed = expected if isinstance(expected, tuple) else (expected,)
            for result, reference in zip(results, listed, strict=True):
                given = result.astype(np.float64) if result.dtype == DTYPES["bf16"] else result
                limit = TOLERANCE.get(dtype, 1e-12)
                np.testing.assert_allclose(given, reference, rtol=limit, atol=limit, err_msg=f"{name} {dtype}")


def test_rank_within_a_tolerance(kernel: Any) -> None:
    (found,) = kernel("matrix_rank", np.diag([1.0, 0.1]) + 0j, np.array(0.5))
    assert found == 1


def test_eye(kernel: Any) -> None:
    for rows, columns, k in [(3, 4, 0), (3, 4, 2), (4, 2, -1), (2, 2, 5), (2, 2, -5), (0, 3, 0)]:
        (found,) = kernel("eye", rows=rows, columns=columns, k=k, dtype="c64")
        np.testing.assert_array_equal(found, np.eye(rows, columns, k))


@pytest.mark.parametrize("dtype", ["f32", "f64", "c64", "c128"])
def test_factors_multiply_back(kernel: Any, dtype: str) -> None:
    x = X.astype(DTYPES[dtype])
    close = {"rtol": 1e-4, "atol": 1e-4}
    for full in (True, False):
        u, s, v = kernel("svd", x, full_matrices=full)
        np.testing.assert_allclose(u[:, :3] * s @ v[:3], x, **close)
    for mode in ("reduced", "complete"):
        q, r = kernel("qr", x.T.copy(), mode=mode)
        np.testing.assert_allclose(q @ r, x.T, **close)
    symmetric = SYMMETRIC.astype(DTYPES[dtype])
    w, vectors = kernel("eigh", symmetric)
    np.testing.assert_allclose(symmetric @ vectors, vectors * w[:, None, :], **close)


def test_assignment_happens_in_place(kernel: Any) -> None:
    x = np.zeros((3, 4))
    kernel("set_index", x, np.array(2.0), np.array([0, 2]), key=[["array"], ["slice", 1, 3, None]])
    expected = np.zeros((3, 4))
    expected[[0, 2], 1:3] = 2
    np.testing.assert_array_equal(x, expected)


def test_quotients_of_infinities_are_those_of_the_standard(kernel: Any) -> None:
    a, b = np.array([np.inf, -np.inf, np.inf, 3.0, -3.0, 3.0]), np.array([2.0, 2.0, np.inf, np.inf, np.inf, -np.inf])
    (found,) = kernel("floor_quotient", a, b)
    np.testing.assert_array_equal(found, [np.inf, -np.inf, np.nan, 0.0, -0.0, -0.0])
    np.testing.assert_array_equal(np.signbit(found[3:]), [False, True, True])


def test_complex_functions_at_infinity_are_those_of_the_standard(kernel: Any) -> None:
    (found,) = kernel("expm1", np.array([complex(np.inf, 0), complex(-np.inf, np.nan), complex(0.5, 0.5)]))
    np.testing.assert_array_equal(found[:2], [complex(np.inf, 0), -1])
    (zeros,) = kernel("expm1", np.array([complex(-0.0, 0.0), complex(0.0, -0.0)]))
    assert [np.signbit(zeros.real).tolist(), np.signbit(zeros.imag).tolist()] == [[False, False], [False, True]]
    np.testing.assert_allclose(found[2], np.expm1(0.5 + 0.5j))
    (found,) = kernel("tanh", np.array([complex(np.inf, 2.0), complex(-np.inf, -2.0)]))
    np.testing.assert_array_equal(found, [1, -1])
    np.testing.assert_array_equal(np.signbit(found.imag), [False, True])


def test_descending_order_keeps_equal_elements_in_theirs(kernel: Any) -> None:
    (found,) = kernel("argsort", np.array([1, 2, 1, 2]), descending=True)
    np.testing.assert_array_equal(found, [1, 3, 0, 2])


def test_arrays_on_both_sides_of_an_empty_ellipsis_are_apart(kernel: Any) -> None:
    x, places = values(3, 4, 5), np.array([0, 2])
    key = [["slice", None, None, 2], ["number", 1], ["apart"], ["array"]]
    np.testing.assert_array_equal(kernel("index", x, places, key=key)[0], x[::2, 1, ..., places])
    del key[2]
    np.testing.assert_array_equal(kernel("index", x, places, key=key)[0], x[::2, 1, places])
    for wrong in ([["apart"], ["number", 0]], [["number", 0], ["apart"], ["number", 0], ["apart"], ["number", 0]]):
        with pytest.raises(KernelError, match=r"apart stands|ellipsis"):
            kernel("index", x, key=wrong)


REFUSED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("index", (X,), {"key": [["number", 3]]}, "outside"),
    ("index", (X,), {"key": [["number", 0]] * 3}, "too many"),
    ("index", (X,), {"key": [["array"]]}, "more arrays"),
    ("index", (X, np.array([0])), {"key": []}, "fewer arrays"),
    ("index", (X,), {"key": [["path", 0]]}, "not understood"),
    ("index", (X, np.array([5])), {"key": [["array"]]}, "out of bounds"),
    ("set_index", (X.copy(), np.ones(3)), {"key": []}, "not broadcast"),
    ("nonzero", (X,), {"count": 3}, "12 elements"),
    ("unique", (X,), {"count": -1}, "negative"),
    ("repeat", (X, np.array([1, -1, 0])), {"axis": 0, "length": 0}, "add up"),
    ("take_along_axis", (X, np.full((3, 4), 9)), {"axis": 1}, "not all in"),
    ("cholesky", (-SYMMETRIC,), {}, "positive definite"),
    ("inverse", (np.zeros((2, 2)),), {}, "Singular"),
    ("inverse", (X,), {}, "square"),
    ("cross", (X, X), {"axis": -1}, "no 3"),
    ("fft", (X,), {"axes": [-1], "lengths": [0]}, "0 points"),
    ("fft", (X,), {"axes": [-1], "norm": "loud"}, "norm"),
    ("matrix_norm", (X,), {"ord": "max"}, "order"),
    ("searchsorted", (X, X), {}, "one axis"),
    ("roll", (X,), {"shift": [1], "axis": [0, 1]}, "shifts"),
]


@pytest.mark.parametrize(("name", "inputs", "attributes", "words"), REFUSED)
def test_refused(kernel: Any, name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        kernel(name, *inputs, **attributes)


@pytest.mark.parametrize("name", [kernel.name for kernel in TABLE.kernels.values() if kernel.elementwise])
def test_arrays_without_axes_stay_arrays(kernel: Any, name: str) -> None:
    entry = TABLE.kernels[name]
    for dtype in entry.dtypes:
        one = np.ones((), DTYPES[dtype])
        inputs = [one] * len(entry.inputs)
        targets = DTYPES if name == "cast" and not dtype.startswith("c") else [dtype]
        for target in targets:
            attributes = {"dtype": target} if name == "cast" else {}
            for result in kernel(name, *inputs, **attributes):
                assert isinstance(result, np.ndarray), (name, dtype, target)
