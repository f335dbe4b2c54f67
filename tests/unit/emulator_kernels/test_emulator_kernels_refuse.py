"""What the kernel table refuses, with which words; and that nothing a peer sends as a launch can break it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.emulator.dtypes import DTYPES, WIDE, dtype_name
from supernode.emulator.kernels import TABLE, Kernel, Spec, Table
from supernode.emulator.kernels.reference import markdown, table_lines
from supernode.errors import KernelError

F = Spec("f32", (2, 3))


@pytest.mark.parametrize(
    ("name", "specs", "attributes", "words"),
    [
        ("nope", (), {}, "no kernel is called 'nope'"),
        ("add", (F,), {}, "needs a second array or a number"),
        ("add", (F, F, F), {}, "got 3 inputs"),
        ("add", (F, Spec("bf16", (2, 3))), {}, r"several dtypes \(f32, bf16\)"),
        ("add", (F, Spec("f32", (4,))), {}, "do not broadcast"),
        ("add", (F,), {"value": 1, "speed": 2}, "unknown attribute speed"),
        ("add", (Spec("i8", (3,)),), {"value": 300}, "out of range for i8"),
        ("add", (Spec("i8", (3,)),), {"value": 0.5}, "does not fit i8"),
        ("exp", (Spec("i32", (3,)),), {}, "no i32 version"),
        ("matmul", (F, F), {}, "inner sizes differ: 3 of the first input, 2 of the second"),
        ("matmul", (F, Spec("f32", (3,))), {}, "two axes"),
        ("matmul", (F, F, Spec("f32", (9,))), {"transpose_b": True}, "bias must be"),
        ("matmul", (F, F), {"transpose_b": True, "dtype": "i32"}, "cannot be i32"),
        ("sum", (F,), {"axis": 2}, "axis 2 is not in an array with 2 axes"),
        ("sum", (F,), {"axis": [0, -2]}, "names one twice"),
        ("sum", (F,), {"axis": "x"}, "not a whole number"),
        ("max", (Spec("f32", (0,)),), {}, "no extreme of nothing"),
        ("cast", (F,), {}, "needs dtype"),
        ("cast", (F,), {"dtype": "f31"}, "'f31' is none of"),
        ("transpose", (F,), {"axes": [0]}, "do not name each of 2 axes"),
        ("split", (F,), {"sections": 2, "axis": 1}, "does not divide"),
        ("slice", (F,), {"start": 2, "stop": 9}, "not inside axis 0"),
        ("embedding", (F, F), {}, "tokens must be"),
        ("embedding_backward", (F, Spec("i32", (2,))), {"rows": -1}, "rows must be"),
        ("attention", (F, Spec("f32", (2, 4)), F), {}, "head size must be the same"),
        ("attention", (Spec("f32", (4, 3)), F, F), {}, "some query would see none"),
        ("softmax_cross_entropy", (F, Spec("i64", (3,))), {}, "targets must be"),
        ("layer_norm", (F, Spec("f32", (2,)), Spec("f32", (2,))), {}, "gain must be"),
        ("adamw", (F, F, F, F, F), {"learning_rate": 1e-3, "step": 0}, "step must be from 1"),
        ("adamw", (F, F, Spec("bf16", (2, 3)), F, F), {"learning_rate": 1e-3, "step": 1}, "master must be"),
        ("full", (), {"shape": [1 << 62], "value": 1.0}, "not possible"),
        ("full", (), {"shape": [-1], "value": 1.0}, "negative size"),
        ("full", (), {"shape": [1], "value": "x"}, "value must be a number"),
        ("arange", (), {"stop": 1, "step": 0}, "no range"),
        ("random_normal", (), {"shape": [1], "seed": -1}, "seed must be"),
    ],
)
def test_refusals_name_what_is_wrong(
    name: str, specs: tuple[Spec, ...], attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(KernelError, match=words) as caught:
        TABLE.plan(name, specs, attributes)
    assert name in str(caught.value)


plain = st.none() | st.booleans() | st.integers(-5, 5) | st.integers() | st.floats() | st.text(max_size=4)
values = plain | st.lists(plain, max_size=3) | st.sampled_from(sorted(DTYPES))
some_specs = st.builds(Spec, st.sampled_from([*DTYPES, "x"]), st.lists(st.integers(0, 4), max_size=4).map(tuple))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_launch_is_planned_or_refused(data: st.DataObject) -> None:
    kernel = TABLE.kernels[data.draw(st.sampled_from(sorted(TABLE.kernels)))]
    specs = tuple(data.draw(st.lists(some_specs, max_size=6)))
    names = st.sampled_from([*kernel.attributes, "other"])
    attributes = data.draw(st.dictionaries(names, values, max_size=4))
    try:
        plan = TABLE.plan(kernel.name, specs, attributes)
    except KernelError:
        return
    assert all(spec.dtype in DTYPES and min(spec.shape, default=0) >= 0 for spec in plan.outputs)
    assert plan.cost.flops >= 0
    assert plan.cost.bytes_moved >= 0


def test_attributes_that_are_equal_but_not_the_same_keep_their_value(kernel: Any) -> None:
    assert kernel("full", shape=[1], value=0.0)[0].tobytes() != kernel("full", shape=[1], value=-0.0)[0].tobytes()


def test_entries_are_complete() -> None:
    for kernel in TABLE.kernels.values():
        assert kernel.summary
        assert kernel.backward in ("", *TABLE.kernels)
        assert all(0 <= i < len(kernel.inputs) for i in kernel.writes)
        assert set(kernel.dtypes) <= set(DTYPES)
    text = "\n".join(table_lines(TABLE))
    assert all(f"  {name}(" in text and f"`{name}(" in markdown(TABLE) for name in TABLE.kernels)


def test_what_is_accepted_runs_or_says_why_not() -> None:
    """Examples with other sizes (none, one) and odd attributes: a result as planned, or a refusal in words."""
    rng = np.random.default_rng(5)
    odd = [0, 1, 2, -1, True, None, 0.5, "x", [1, 2], [[0, 1]], "f32"]
    ran = 0
    for kernel in TABLE.kernels.values():
        for _ in range(25):
            example = kernel.examples[rng.integers(len(kernel.examples))]
            dtype = kernel.dtypes[rng.integers(len(kernel.dtypes))]
            wide = dtype_name(WIDE[dtype])
            sizes = {size for draw in example.inputs for size in draw.shape}
            other = {size: int(rng.choice([0, 1, 2, size, size, size])) for size in sizes}
            specs = tuple(
                Spec(wide if d.dtype == "wide" else d.dtype or dtype, tuple(other[n] for n in d.shape))
                for d in example.inputs
            )
            attributes = dict(example.attributes)
            if kernel.attributes and rng.random() < 0.3:
                names = sorted(kernel.attributes)
                attributes[names[rng.integers(len(names))]] = odd[rng.integers(len(odd))]
            try:
                plan = TABLE.plan(kernel.name, specs, attributes)
            except KernelError:
                continue
            if sum(plan.nbytes) > 1 << 24:
                continue
            arrays = [np.asarray(rng.integers(0, 4, spec.shape)).astype(DTYPES[spec.dtype]) for spec in specs]
            words = f"{kernel.name}({', '.join(map(str, specs))}) {attributes}"
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # means of nothing are NaN, and said to be so
                    results = kernel.run(arrays, {**kernel.attributes, **attributes}, plan.outputs)
            except KernelError:
                continue
            except Exception as exc:
                raise AssertionError(words) from exc
            for result, spec in zip(results, plan.outputs, strict=True):
                assert (result.shape, result.dtype) == (spec.shape, DTYPES[spec.dtype]), words
            ran += 1
    assert ran > 2000


def test_outputs_have_the_names_that_entries_say() -> None:
    for kernel in TABLE.kernels.values():
        seen = 0
        for example in kernel.examples:
            for dtype in kernel.dtypes:
                wide = dtype_name(WIDE[dtype])
                specs = tuple(Spec(wide if x.dtype == "wide" else x.dtype or dtype, x.shape) for x in example.inputs)
                try:
                    count = len(TABLE.plan(kernel.name, specs, example.attributes).outputs)
                except KernelError:
                    continue  # an example for other dtypes
                seen += 1
                # The gradient of an input that may be left out is left out with it.
                spare = kernel.optional if kernel.name.endswith("_backward") else 0
                assert kernel.outputs == ("...",) or len(kernel.outputs) - spare <= count <= len(kernel.outputs)
        assert seen, f"no example of {kernel.name} is accepted"


def test_two_kernels_of_one_name_are_refused() -> None:
    entry: Kernel = TABLE.kernels["add"]
    with pytest.raises(KernelError, match="two kernels are called add"):
        Table({"one": [entry], "two": [entry]})


def test_dtype_names() -> None:
    assert [dtype_name(x) for x in ("bf16", "float32", DTYPES["bf16"], int, bool)] == [
        "bf16",
        "f32",
        "bf16",
        "i64",
        "bool",
    ]
    with pytest.raises(KernelError, match="no dtype 'complex256'"):
        dtype_name("complex256")
