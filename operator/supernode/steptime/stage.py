"""Seconds of one pipeline stage: what any number of layers, the output layer, gradients and updates cost on one chip.

Flows in: chip, model, cuts, wiring, and how many layers. Flows out: seconds of one micro batch, of the sends between
stages, of the gradient reduction and of the optimizer. `predict` adds up equal stages from these; stages over
different chips take the same pieces with their own chip, layers and wiring. Not here: the order of micro batches.
"""

from __future__ import annotations

from typing import NamedTuple

from supernode.chips import Chip
from supernode.steptime.arithmetic import Num, choose, either, largest, smallest
from supernode.steptime.calibration import BUCKET, BUCKET_PER_REPLICA, family_of
from supernode.steptime.collectives import crowded, transfer_seconds
from supernode.steptime.cuts import Cuts
from supernode.steptime.layer import layer_passes, output_passes, tokens_per_device
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

    def pieces() -> Num:
        gather = transfer_seconds("all_gather", activations, wiring.tensor)
        # Behind attention and behind the feed-forward part, where tokens that visit several experts travel so often.
        return (1 + model.experts_per_token) * (gather + transfer_seconds("reduce_scatter", activations, wiring.tensor))

    tensor = passes * either(
        cuts.sequence_parallel > 0, pieces, lambda: 2 * transfer_seconds("all_reduce", activations, wiring.tensor)
    )
    overlap = family_of(chip.name).tensor_overlap * cuts.sequence_parallel
    hidden = smallest(overlap * tensor, compute)
    key_value = 2.0 * tokens * cuts.context * (model.key_value_heads * model.head * width) / cuts.tensor
    gather = transfer_seconds("all_gather", key_value, wiring.context)
    context = passes * gather + transfer_seconds("reduce_scatter", key_value, wiring.context)
    expert: Num = 0.0
    if model.experts > 1:
        visits = activations * model.experts_per_token / (1 + (cuts.tensor - 1) * cuts.sequence_parallel)
        expert = passes * 2 * transfer_seconds("all_to_all", visits, wiring.expert)
    return Cost(compute, tensor - hidden, context, expert, hidden)


def output_cost(chip: Chip, model: ModelShape, cuts: Cuts) -> Cost:
    """What stands around the layers, one micro batch: embedding, last norm, logits and loss.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    output = output_passes(chip, model, cuts)
    return Cost(output.forward + output.backward)


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
