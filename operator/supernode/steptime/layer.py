"""Seconds of the kernels of one transformer layer, and of what stands before and behind all, for one micro batch.

Flows in: chip, model, cuts. Flows out: forward and backward seconds. Not here: what goes over links.

The kernels are those of a Megatron-like implementation: matrix products by their shapes, everything else by the bytes
it moves. m tokens = micro batch x sequence / context; tensor parallelism divides heads, feed-forward width and
vocabulary, and with sequence parallelism the tokens of norms and residuals too. Written for one cut and for a batch.
"""

from __future__ import annotations

from typing import NamedTuple

from supernode.chips import Chip
from supernode.steptime.arithmetic import Num, either, largest, split
from supernode.steptime.calibration import ATTENTION_BACKWARD, family_of
from supernode.steptime.cuts import Cuts
from supernode.steptime.model import ModelShape
from supernode.steptime.roofline import Rates, rates_of, training_rates


class Passes(NamedTuple):
    """Seconds of a forward and a backward pass; `again`: of what selective recomputation runs a second time."""

    forward: Num
    backward: Num
    again: Num = 0.0


def tokens_per_device(model: ModelShape, cuts: Cuts) -> Num:
    """Tokens of one micro batch that one device works on."""
    return split(cuts.micro_batch_size * model.sequence_length, cuts.context)


def layer_passes(chip: Chip, model: ModelShape, cuts: Cuts) -> Passes:
    """One layer's kernels for one micro batch.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    tensor = cuts.tensor
    tokens = tokens_per_device(model, cuts)
    sharing = 1 + (tensor - 1) * cuts.sequence_parallel
    shared = split(tokens, sharing)
    query = split(model.attention_heads, tensor) * model.head
    key_value = split(model.key_value_heads, tensor) * model.head
    timer = _Timer(training_rates(chip, model.dtype))
    width = timer.rates.width
    hidden = model.hidden_size

    timer.product(tokens, query + 2 * key_value, hidden)
    timer.product(tokens, hidden, query)
    core = _core(chip, model, cuts)
    timer.moved(2 * shared * hidden * width, times=2)  # a norm: read and write
    timer.moved(shared * hidden * (3 * width + 1), times=2)  # residual and dropout: read twice, write, and the mask
    inner = split(model.ffn, tensor)
    up = 2 * inner if model.gated else inner
    if model.experts == 1:
        timer.product(tokens, up, hidden)
        timer.product(tokens, hidden, inner)
        timer.moved(tokens * (up + inner) * width)
    else:
        held = split(model.experts, cuts.expert)
        visits = tokens * model.experts_per_token
        rows = largest(visits / held, 1.0)
        timer.product(shared, model.experts, hidden)  # router
        timer.moved(2 * visits / sharing * hidden * width, times=2)  # permute there and back
        timer.product(rows, up, hidden, held)
        timer.product(rows, hidden, inner, held)
        timer.moved(visits * (up + inner) * width)
    return Passes(timer.forward + core.forward, timer.backward + core.backward, core.forward)


def embedding_passes(chip: Chip, model: ModelShape, cuts: Cuts) -> Passes:
    """What stands before the layers, for one micro batch: rows of the token table; those of other ranks are zeros.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    timer = _Timer(_rates_of_ends(chip, model))
    timer.moved(2 * tokens_per_device(model, cuts) * model.hidden_size * timer.rates.width)
    return Passes(timer.forward, timer.backward)


def output_passes(chip: Chip, model: ModelShape, cuts: Cuts) -> Passes:
    """What stands behind the layers, for one micro batch: last norm, logits, softmax cross-entropy in f32.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    tokens = tokens_per_device(model, cuts)
    shared = split(tokens, 1 + (cuts.tensor - 1) * cuts.sequence_parallel)
    vocabulary = split(model.vocabulary_size, cuts.tensor)
    timer = _Timer(_rates_of_ends(chip, model))
    width = timer.rates.width
    timer.moved(2 * shared * model.hidden_size * width)
    timer.product(tokens, vocabulary, model.hidden_size)
    timer.moved(tokens * vocabulary * (width + 3 * 4))
    # Where ranks share the vocabulary the loss is three launches: their exchanges stand between (`stage.end_costs`).
    apart = 2 * timer.rates.launch * (cuts.tensor > 1)
    return Passes(timer.forward + apart, timer.backward)


def _rates_of_ends(chip: Chip, model: ModelShape) -> Rates:
    """Outside the layers nothing is in fp8."""
    return rates_of(chip, "bf16" if model.dtype == "fp8" else model.dtype)


def _core(chip: Chip, model: ModelShape, cuts: Cuts) -> Passes:
    """The attention core: scores, softmax, weighted sum.

    Fused, the scores never reach memory and the masked half is left out; otherwise they cross it several times.
    """
    heads = split(model.attention_heads, cuts.tensor) * cuts.micro_batch_size
    length = model.sequence_length
    rows = split(length, cuts.context)
    rates = training_rates(chip, model.dtype)

    def fused(products: float) -> Num:
        # Two products of 2 x rows x length x head, half of it masked.
        flops = 2.0 * heads * rows * length * model.head
        moved = 4 * heads * rows * model.head * rates.width
        return rates.fused_attention(products * flops, products * moved, length)

    plain = plain_core(chip, cuts)
    if plain is False:
        return Passes(fused(1.0), fused(ATTENTION_BACKWARD))
    timer = _Timer(rates)
    timer.product(rows, length, model.head, heads)
    timer.product(rows, model.head, length, heads)
    timer.moved(family_of(chip.name).score_passes * heads * rows * length * rates.width)
    forward = either(plain, lambda: timer.forward, lambda: fused(1.0))
    backward = either(plain, lambda: timer.backward, lambda: fused(ATTENTION_BACKWARD))
    return Passes(forward, backward)


def plain_core(chip: Chip, cuts: Cuts) -> Num:
    """Whether the scores cross the memory, because no fused kernel is used (`family.Family.score_passes`)."""
    family = family_of(chip.name)
    if family.score_passes == 0:
        return False
    return family.attention is None or ((cuts.full + cuts.selective) > 0) & (cuts.zero_stage < 3)


class _Timer:
    """Adds up kernels, forward and backward."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.forward: Num = 0.0
        self.backward: Num = 0.0

    def product(self, m: Num, n: Num, k: Num, batch: Num = 1) -> None:
        """(m, k) x (k, n); backward is one product for the input and one for the weight."""
        rates = self.rates
        self.forward = self.forward + rates.product(m, n, k, batch)
        self.backward = self.backward + rates.product(m, k, n, batch) + rates.product(k, n, m, batch)

    def moved(self, nbytes: Num, times: int = 1) -> None:
        """Kernels limited by memory; backward moves as much again for the gradient, and the inputs once more."""
        self.forward = self.forward + times * self.rates.moved(nbytes)
        self.backward = self.backward + times * self.rates.moved(1.5 * nbytes)
