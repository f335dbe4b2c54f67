"""Seconds of the kernels of one transformer layer, and of the output layer, for one micro batch on one device.

Flows in: chip, model, parallelism. Flows out: forward and backward seconds. Not here: what goes over links.

The kernels are those of a Megatron-like implementation: matrix products by their shapes, everything else by the bytes
it moves. m tokens = micro batch x sequence / context; tensor parallelism divides heads, feed-forward width and
vocabulary, and with sequence parallelism the tokens of norms and residuals too.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernode.chips import Chip
from supernode.steptime.calibration import family_of
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.roofline import dtype_bytes, gemm_seconds, kernel_seconds


@dataclass(frozen=True, slots=True)
class Passes:
    """Seconds of a forward and a backward pass; `again`: of what selective recomputation runs a second time."""

    forward: float
    backward: float
    again: float = 0.0


def layer_passes(chip: Chip, model: ModelShape, parallelism: Parallelism) -> Passes:
    """One layer's kernels for one micro batch.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    tensor = parallelism.tensor
    tokens = tokens_per_device(model, parallelism)
    shared = _split(tokens, tensor) if parallelism.sequence_parallel else tokens
    query = _split(model.attention_heads, tensor) * model.head
    key_value = _split(model.key_value_heads, tensor) * model.head
    width = dtype_bytes(model.dtype)
    hidden = model.hidden_size
    timer = _Timer(chip, model.dtype)

    timer.product(tokens, query + 2 * key_value, hidden)
    timer.product(tokens, hidden, query)
    core = _core(chip, model, parallelism)
    for _ in range(2):
        _norm(timer, shared, hidden, width)
        # Residual addition with dropout: read twice, write, and the mask.
        timer.moved(shared * hidden * (3 * width + 1), flops=3 * shared * hidden)
    inner = _split(model.ffn, tensor)
    up = 2 * inner if model.gated else inner
    if model.experts == 1:
        timer.product(tokens, up, hidden)
        timer.product(tokens, hidden, inner)
        timer.moved(tokens * (up + inner) * width, flops=8 * tokens * inner)
    else:
        held = _split(model.experts, parallelism.expert)
        visits = tokens * model.experts_per_token
        rows = max(1, round(visits / held))
        timer.moved(tokens * model.experts * 4, flops=2 * tokens * hidden * model.experts)  # router
        timer.moved(2 * 2 * visits * hidden * width)  # permute there and back
        timer.product(rows, up, hidden, batch=held)
        timer.product(rows, hidden, inner, batch=held)
        timer.moved(visits * (up + inner) * width, flops=8 * visits * inner)
    return Passes(timer.forward + core.forward, timer.backward + core.backward, core.forward)


def output_passes(chip: Chip, model: ModelShape, parallelism: Parallelism) -> Passes:
    """What stands around the layers, for one micro batch: embedding, last norm, logits, softmax cross-entropy in f32.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    tokens = tokens_per_device(model, parallelism)
    vocabulary = _split(model.vocabulary_size, parallelism.tensor)
    width = dtype_bytes(model.dtype)
    timer = _Timer(chip, model.dtype)
    timer.moved(2 * tokens * model.hidden_size * width)
    _norm(timer, tokens, model.hidden_size, width)
    timer.product(tokens, vocabulary, model.hidden_size)
    timer.moved(tokens * vocabulary * (width + 3 * 4), flops=6 * tokens * vocabulary)
    return Passes(timer.forward, timer.backward)


def _norm(timer: _Timer, tokens: int, hidden: int, width: int) -> None:
    """A layer norm: read and write."""
    timer.moved(2 * tokens * hidden * width, flops=5 * tokens * hidden)


def tokens_per_device(model: ModelShape, parallelism: Parallelism) -> int:
    """Tokens of one micro batch that one device works on."""
    return _split(parallelism.micro_batch_size * model.sequence_length, parallelism.context)


def _core(chip: Chip, model: ModelShape, parallelism: Parallelism) -> Passes:
    """The attention core: scores, softmax, weighted sum. With a fused kernel the scores never reach memory."""
    heads = _split(model.attention_heads, parallelism.tensor) * parallelism.micro_batch_size
    rows = _split(model.sequence_length, parallelism.context)
    timer = _Timer(chip, model.dtype)
    timer.product(rows, model.sequence_length, model.head, batch=heads)
    timer.product(rows, model.head, model.sequence_length, batch=heads)
    passes = family_of(chip.name).score_passes
    scores = heads * rows * model.sequence_length
    timer.moved(passes * scores * dtype_bytes(model.dtype), flops=5 * scores)
    return Passes(timer.forward, timer.backward)


class _Timer:
    """Adds up kernels, forward and backward."""

    def __init__(self, chip: Chip, dtype: str) -> None:
        self._chip = chip
        self._dtype = dtype
        self.forward = 0.0
        self.backward = 0.0

    def product(self, m: int, n: int, k: int, batch: int = 1) -> None:
        """(m, k) x (k, n); backward is one product for the input and one for the weight."""
        self.forward += gemm_seconds(self._chip, m, n, k, self._dtype, batch)
        self.backward += gemm_seconds(self._chip, m, k, n, self._dtype, batch)
        self.backward += gemm_seconds(self._chip, k, n, m, self._dtype, batch)

    def moved(self, nbytes: float, flops: float = 0.0) -> None:
        """A kernel limited by memory; backward moves as much again for the gradient, and the inputs once more."""
        self.forward += kernel_seconds(self._chip, flops=flops, bytes_moved=nbytes, dtype=self._dtype)
        self.backward += kernel_seconds(self._chip, flops=2 * flops, bytes_moved=1.5 * nbytes, dtype=self._dtype)


def _split(size: int, ranks: int) -> int:
    """The largest share when `size` is split over `ranks`."""
    return -(-size // ranks)
