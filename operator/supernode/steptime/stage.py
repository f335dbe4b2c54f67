"""Seconds of one pipeline stage: what any number of layers, the output layer, gradients and updates cost on one chip.

Flows in: chip, model, cuts, wiring, and how many layers. Flows out: seconds of one micro batch, of the sends between
stages, of the gradient reduction and of the optimizer. `predict` adds up equal stages from these; stages over
different chips take the same pieces with their own chip, layers and wiring. Not here: the order of micro batches.

Between tensor ranks a micro batch makes these exchanges (Shoeybi et al. 2019, section 3; with sequence parallelism
Korthikanti et al. 2022, section 4.2.2), `border` being the sum of everybody's part of all activations, or a gather and
a scatter of them:

    embedding        forward: everybody's rows of the token table                        1 border
    a layer          behind attention and behind the feed-forward part, forward and back  2 borders each way
    output layer     backward: the gradient of the last activations                      1 border
    loss             the largest logit of each token; then the sum of exp and the target's logit, together
"""

from __future__ import annotations

from typing import NamedTuple

from supernode.chips import Chip
from supernode.steptime.arithmetic import Num, choose, either, largest, smallest
from supernode.steptime.calibration import BUCKET, BUCKET_PER_REPLICA, family_of
from supernode.steptime.collectives import crowded, transfer_seconds
from supernode.steptime.cuts import Cuts
from supernode.steptime.layer import embedding_passes, layer_passes, output_passes, tokens_per_device
from supernode.steptime.memory import GRADIENT_BYTES, Weights, optimizer_bytes
from supernode.steptime.model import ModelShape
from supernode.steptime.roofline import kept_bytes, rates_of
from supernode.steptime.wiring import Wiring


class Cost(NamedTuple):
    """Seconds that one micro batch takes, forward, backward and recomputation together; names as in `predict.Parts`.

    `hidden`: of traffic that runs behind `compute`; it takes no time of its own, but nothing else can hide there.
    """

    compute: Num
    tensor: Num = 0.0
    context: Num = 0.0
    expert: Num = 0.0
    hidden: Num = 0.0

    @property
    def seconds(self) -> Num:
        """All of it."""
        return self.compute + self.tensor + self.context + self.expert

    def times(self, layers: Num) -> Cost:
        """The same for so many layers."""
        return Cost(*(layers * part for part in self))

    def plus(self, other: Cost) -> Cost:
        """Both."""
        return Cost(*(one + two for one, two in zip(self, other, strict=True)))


def layer_cost(chip: Chip, model: ModelShape, cuts: Cuts, wiring: Wiring) -> Cost:
    """One layer, one micro batch. A stage of n layers costs `layer_cost(...).times(n)`; the last one `output_cost` too.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    layer = layer_passes(chip, model, cuts)
    compute = layer.forward + layer.backward + cuts.selective * layer.again + cuts.full * layer.forward
    width = kept_bytes(model.dtype)
    tokens = tokens_per_device(model, cuts)
    activations = tokens * (model.hidden_size * float(width))
    passes = 2 + cuts.full  # forward, backward, and forward again
    # Behind attention and behind the feed-forward part, where tokens that visit several experts travel so often.
    borders = passes * (2 + (model.experts_per_token - 1) * cuts.sequence_parallel)
    tensor = borders * _border_seconds(cuts, wiring, activations)
    hidden = smallest(borders * _hidden_seconds(chip, cuts, wiring, activations), compute)
    key_value = 2.0 * tokens * cuts.context * (model.key_value_heads * model.head * width) / cuts.tensor
    gather = transfer_seconds("all_gather", key_value, wiring.context)
    context = passes * gather + transfer_seconds("reduce_scatter", key_value, wiring.context)
    expert: Num = 0.0
    if model.experts > 1:
        visits = activations * model.experts_per_token / (1 + (cuts.tensor - 1) * cuts.sequence_parallel)
        expert = passes * 2 * transfer_seconds("all_to_all", visits, wiring.expert)
    return Cost(compute, tensor - hidden, context, expert, hidden)


def end_costs(chip: Chip, model: ModelShape, cuts: Cuts, wiring: Wiring) -> tuple[Cost, Cost]:
    """What stands before the layers (the embedding) and behind them (last norm, logits and loss), one micro batch.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    first, last = embedding_passes(chip, model, cuts), output_passes(chip, model, cuts)
    tokens = tokens_per_device(model, cuts)
    activations = tokens * (model.hidden_size * float(kept_bytes(model.dtype)))
    border = _border_seconds(cuts, wiring, activations)
    # The loss in f32, a number per token: the largest logit; then two sums that travel together.
    loss = transfer_seconds("all_reduce", 4.0 * tokens, wiring.tensor)
    loss = loss + transfer_seconds("all_reduce", 8.0 * tokens, wiring.tensor)
    compute = last.forward + last.backward
    # The embedding has no product that its exchange could run beside.
    hidden = smallest(_hidden_seconds(chip, cuts, wiring, activations), compute)
    return Cost(first.forward + first.backward, border), Cost(compute, border + loss - hidden, hidden=hidden)


def _border_seconds(cuts: Cuts, wiring: Wiring, nbytes: Num) -> Num:
    """Where tensor ranks go from parts of sums to sums, and back: one way; with sequence parallelism both."""

    def pieces() -> Num:
        gather = transfer_seconds("all_gather", nbytes, wiring.tensor)
        return gather + transfer_seconds("reduce_scatter", nbytes, wiring.tensor)

    return either(cuts.sequence_parallel > 0, pieces, lambda: transfer_seconds("all_reduce", nbytes, wiring.tensor))


def _hidden_seconds(chip: Chip, cuts: Cuts, wiring: Wiring, nbytes: Num) -> Num:
    """How much of `_border_seconds` runs beside the products, piece by piece; what a message takes that has no bytes
    stays.
    """
    overlap = family_of(chip.name).tensor_overlap
    if overlap == 0:
        return 0.0

    def moving() -> Num:
        return _border_seconds(cuts, wiring, nbytes) - _border_seconds(cuts, wiring, 0.0)

    return either(cuts.sequence_parallel > 0, lambda: overlap * moving(), lambda: 0.0)


def shared_seconds(model: ModelShape, cuts: Cuts, wiring: Wiring, layers: Num) -> tuple[Num, Num]:
    """Gradients of weights that devices of one replica share, once a step: between tensor ranks, between stages.

    With sequence parallelism each tensor rank has seen a part of the rows of norms and of the biases behind sums, of
    which every rank holds all. The first and the last stage have a copy each of their part of the token table.
    """

    def rows() -> Num:
        return transfer_seconds("all_reduce", GRADIENT_BYTES * 6.0 * model.hidden_size * layers, wiring.tensor)

    def table() -> Num:
        return transfer_seconds(
            "all_reduce", GRADIENT_BYTES * model.embedding_parameters / cuts.tensor, wiring.pipeline
        )

    return either(cuts.sequence_parallel > 0, rows, lambda: 0.0), either(cuts.pipeline > 1, table, lambda: 0.0)


def send_seconds(model: ModelShape, cuts: Cuts, wiring: Wiring) -> Num:
    """One micro batch's activations from a stage to the next (or its gradients back); tensor ranks send a part each."""
    nbytes = tokens_per_device(model, cuts) * (model.hidden_size * kept_bytes(model.dtype)) / cuts.tensor
    return transfer_seconds("send_recv", nbytes, wiring.pipeline)


def data_seconds(
    model: ModelShape, cuts: Cuts, wiring: Wiring, weights: Weights, layers: Num = 1, alone: Num = False
) -> Num:
    """To make a stage's gradients equal on all replicas, and to share split weights; without any overlap.

    Args:
        model: what is trained.
        cuts: how it is cut.
        wiring: its `data` links are used.
        weights: of the stage on one device (`memory.stage_weights`).
        layers: of the stage.
        alone: there is no pipeline, so that split gradients are reduced after every micro batch, and split weights
            gathered for each of its passes, layer by layer; behind a pipeline both happen once a step.
    """
    replicas = cuts.replicas
    # Experts have fewer replicas, but their ring has the same links at its widest, and its volume is nearly the same.
    count = weights.dense + weights.experts * (replicas > cuts.expert)
    links = crowded(wiring.data, cuts.devices)

    def split() -> Num:
        pieces = choose(alone, layers, 1.0)
        scatter = pieces * transfer_seconds("reduce_scatter", count * GRADIENT_BYTES / pieces, links)
        gather = pieces * transfer_seconds("all_gather", count * kept_bytes(model.dtype) / pieces, links)
        often = choose(alone & (cuts.zero_stage == 3), 2 * cuts.micro_batches, 1)
        return choose(alone, cuts.micro_batches, 1) * scatter + often * gather

    whole = either(cuts.zero_stage == 0, lambda: transfer_seconds("all_reduce", count * GRADIENT_BYTES, links), split)
    return whole * (replicas > 1)


def early_share(cuts: Cuts, weights: Weights) -> Num:
    """Share of a stage's gradients that travel while later ones are still computed: all but the last bucket."""
    bucket = largest(BUCKET, BUCKET_PER_REPLICA * cuts.replicas)
    return 1.0 - smallest(bucket / (weights.dense + weights.experts), 1.0)


def optimizer_seconds(chip: Chip, model: ModelShape, cuts: Cuts, weights: Weights) -> Num:
    """Adam on a stage's weights, which memory alone limits: gradient and weight once, each state read and written.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    replicas, cut = cuts.replicas, cuts.zero_stage > 0
    count = weights.dense / choose(cut, replicas, 1) + weights.experts / choose(cut, replicas // cuts.expert, 1)
    per_weight = GRADIENT_BYTES + kept_bytes(model.dtype) + 2 * optimizer_bytes(model)
    return rates_of(chip, model.dtype).moved(per_weight * count)
