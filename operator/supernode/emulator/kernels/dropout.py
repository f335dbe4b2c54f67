"""Dropout with counter-based random numbers: no mask is kept, the gradient makes it again.

Flows in: x, a rate, and which numbers of which sequence (seed; subsequence, such as the rank or the layer; offset).
Flows out: x / (1 - rate) where the number of the element is above the rate, else 0. Element i takes number offset + i,
so ranks that hold parts of one array can draw the numbers of the whole. Not here: the generator (`philox`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.parallel import share
from supernode.emulator.kernels.philox import random_bits
from supernode.emulator.kernels.rules import narrow, number, streaming, whole, widen
from supernode.emulator.kernels.table import REQUIRED, AnyArray, Attributes, Bound, Kernel, Spec, example

# Elements that are worked on at once, and below which threads cost more than they bring.
_BLOCK: Final = 1 << 16
_WORTH: Final = 1 << 18


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    number(attributes, "rate", 0.0, 1.0)
    whole(attributes, "seed", 0, (1 << 64) - 1)
    whole(attributes, "subsequence", 0, (1 << 64) - 1)
    whole(attributes, "offset")
    return (specs[0],)


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = inputs[0].reshape(-1)
    wide = widen(x[:0]).dtype.type
    rate = attributes["rate"]
    limit = round(rate * 2**32)
    scale = wide(1.0 / (1.0 - rate) if rate < 1 else 0.0)
    out = np.empty(x.shape, x.dtype)

    def block(start: int) -> None:
        part = slice(start, min(start + _BLOCK, x.size))
        bits = random_bits(
            part.stop - start,
            seed=attributes["seed"],
            subsequence=attributes["subsequence"],
            offset=attributes["offset"] + start,
        )
        # One factor, so that the largest numbers are not infinite before they are dropped.
        values = (bits >= limit) * scale
        values *= widen(x[part])
        out[part] = narrow(values, Spec(outputs[0].dtype, values.shape))

    share(block, range(0, x.size, _BLOCK), worth=x.size >= _WORTH)
    return (out.reshape(outputs[0].shape),)


_ATTRIBUTES: Final = {"rate": REQUIRED, "seed": REQUIRED, "subsequence": 0, "offset": 0}

KERNELS: Final = (
    Kernel(
        "dropout",
        ("x",),
        FLOATS,
        _shape,
        streaming(20),
        _run,
        "x / (1 - rate), or 0 with probability rate, by the Philox 4x32-10 numbers from offset on",
        _ATTRIBUTES,
        backward="dropout_backward",
        bound=Bound(2),
        examples=(example((5, 7), rate=0.3, seed=7, subsequence=1, offset=5),),
    ),
    Kernel(
        "dropout_backward",
        ("grad",),
        FLOATS,
        _shape,
        streaming(20),
        _run,
        "gradient of x: the same elements, by the same numbers",
        _ATTRIBUTES,
        outputs=("grad_x",),
        bound=Bound(2),
        examples=(example((5, 7), rate=0.3, seed=7),),
    ),
)
