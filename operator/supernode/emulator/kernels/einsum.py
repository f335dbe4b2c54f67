"""Sums of products by index letters.

Flows in: arrays and an equation such as `bij,bjk->bik`. Flows out: their product, in f32 (f64 of f64, integers in
themselves), rounded once. Not here: plain matrix products (`matmul`), which cost what a matrix product costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FIELDS
from supernode.emulator.kernels.rules import moved, narrow, same_dtype, widen
from supernode.emulator.kernels.table import (
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError

_LONGEST: Final = 256
#: Stand for the axes of an ellipsis, from the last one.
_DOTS: Final = "ZYXWVUTS"


def parse(equation: object, shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], str, dict[str, int]]:
    """Letters of each input, letters of the result, and the size that each letter stands for.

    Raises:
        KernelError: the equation does not fit the inputs.
    """
    text = str(equation).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(text) > _LONGEST or len(terms) != len(shapes):
        raise KernelValueError(f"equation {text[:60]!r} has {len(terms)} terms for {len(shapes)} inputs")
    sizes: dict[str, int] = {}
    spelled, most = [], 0
    for term, shape in zip(terms, shapes, strict=True):
        dots = len(shape) - len(term.replace("...", "")) if "..." in term else 0
        if not 0 <= dots <= len(_DOTS):
            raise KernelValueError(f"term {term!r} does not fit {list(shape)}")
        most = max(most, dots)
        letters = term.replace("...", _DOTS[:dots][::-1])
        if len(letters) != len(shape) or (letters and not letters.isalpha()):
            raise KernelValueError(f"term {term!r} does not fit {list(shape)}")
        for letter, size in zip(letters, shape, strict=True):
            known = sizes.setdefault(letter, size)
            if known != size:
                if 1 not in (known, size) or letter not in _DOTS:
                    raise KernelValueError(f"{letter!r} is {known} and {size} in {text!r}")
                sizes[letter] = max(known, size)
        spelled.append(letters)
    dots_of_all = _DOTS[:most][::-1]
    if arrow:
        out = right.replace("...", dots_of_all)
    else:
        plain = "".join(term.replace("...", "") for term in terms)
        out = dots_of_all + "".join(sorted(letter for letter in set(plain) if plain.count(letter) == 1))
    if any(letter not in sizes for letter in out) or len(set(out)) != len(out):
        raise KernelValueError(f"the result {right!r} of {text!r} is not possible")
    return spelled, out, sizes


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _, out, sizes = parse(attributes["equation"], [spec.shape for spec in specs])
    return (Spec(same_dtype(specs), tuple(sizes[letter] for letter in out)),)


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    _, _, sizes = parse(attributes["equation"], [spec.shape for spec in specs])
    return Cost(2.0 * math.prod(sizes.values()), moved(specs, outputs))


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    terms, out, _ = parse(attributes["equation"], [array.shape for array in inputs])
    found = np.einsum(f"{','.join(terms)}->{out}", *(widen(array) for array in inputs), optimize=len(inputs) > 1)
    return (narrow(np.array(found, order="C"), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "einsum",
        ("x", "..."),
        FIELDS,
        _shape,
        _cost,
        _run,
        "sum of products by index letters, as equation says; an ellipsis stands for axes that broadcast",
        {"equation": REQUIRED},
        bound=Bound(64, MAGNITUDES, degree=2),
        examples=(
            example((2, 3, 4), (2, 4, 5), equation="bij,bjk->bik"),
            example((3, 3), equation="...ii->...i"),
        ),
    ),
)
