"""Bytes that one device needs for a training step: weights, gradients, optimizer, activations, workspace.

Flows in: chip, model, cuts. Flows out: bytes, in parts, on the fullest device or on any stage. Activations follow
Korthikanti et al. 2022, section 4 (34 s b h + 5 a s^2 b per layer for the plain case), written so that grouped-query
attention, gated feed-forward parts and experts come out of the same sums. Not here: fragmentation of an allocator.
"""

from __future__ import annotations

from typing import NamedTuple

from supernode.chips import Chip
from supernode.steptime.arithmetic import Num, choose, smallest, split
from supernode.steptime.calibration import family_of
from supernode.steptime.cuts import Cuts, cuts_of
from supernode.steptime.layer import plain_core, tokens_per_device
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.roofline import kept_bytes

GRADIENT_BYTES = 4  # gradients are summed in f32


class Weights(NamedTuple):
    """Weights on one device: those that all data and context ranks share, and those of its experts."""

    dense: Num
    experts: Num = 0.0


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
        weights: in the model's dtype.
        gradients: in f32.
        optimizer: Adam's state.
        activations: kept between forward and backward, of all micro batches in flight.
        workspace: what exists for a moment: a layer that is recomputed, the logits.
        reserved: what the runtime and communication buffers take (`family.Family.reserved`).
    """

    weights: Num
    gradients: Num
    optimizer: Num
    activations: Num
    workspace: Num
    reserved: Num

    @property
    def total(self) -> Num:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace + self.reserved


def memory_bytes(chip: Chip, model: ModelShape, parallelism: Parallelism) -> int:
    """Bytes needed on the fullest device: the first stage, which holds the most micro batches at once."""
    return round(float(memory_of(chip, model, cuts_of(parallelism)).total))


def memory_of(chip: Chip, model: ModelShape, cuts: Cuts) -> Memory:
    """Bytes on the fullest device, for one cut or a batch, not rounded."""
    layers = stage_layers(model, cuts)
    # Spare room in the first stage is used: it holds a layer less, or the second stage one micro batch less.
    spare = (layers * cuts.pipeline >= model.layers + 2) & (cuts.pipeline > 1)
    kept = in_flight(cuts, 0)
    kept = kept * (1 - spare * smallest(1 / layers, 1 / kept))
    return stage_memory(chip, model, cuts, stage_weights(model, cuts, layers, edge=True), layers * kept)


def stage_layers(model: ModelShape, cuts: Cuts) -> Num:
    """Layers of the fullest of equal pipeline stages."""
    return cuts.interleave * split(model.layers, cuts.pipeline * cuts.interleave)


def stage_weights(model: ModelShape, cuts: Cuts, layers: Num, *, edge: bool) -> Weights:
    """Weights of a stage of so many layers on one device; `edge`: the first or the last stage, with the token table."""
    experts = model.experts * model.expert_parameters if model.experts > 1 else 0
    dense = layers * (model.layer_parameters - experts) + model.embedding_parameters * edge
    return Weights(dense / cuts.tensor, layers * experts / (cuts.tensor * cuts.expert))


def in_flight(cuts: Cuts, stage: Num) -> Num:
    """Micro batches whose activations a stage (0 = the first) holds at most; with chunks, in parts of a micro batch."""
    after = cuts.pipeline - 1 - stage
    # 1F1B: one for each stage from here on. Interleaved: 2 chunks for each stage after it, and P for each other chunk.
    chunks = choose(
        cuts.interleave > 1, (2 * after + 1 + (cuts.interleave - 1) * cuts.pipeline) / cuts.interleave, after + 1
    )
    return smallest(chunks, cuts.micro_batches)


def stage_memory(chip: Chip, model: ModelShape, cuts: Cuts, weights: Weights, layer_batches: Num) -> Memory:
    """Bytes on one device of a stage.

    Args:
        chip: of the stage.
        model: what is trained.
        cuts: how it is cut.
        weights: of the stage (`stage_weights`).
        layer_batches: its layers, times the micro batches it holds of each (`in_flight`).
    """
    width = kept_bytes(model.dtype)
    stage, replicas = cuts.zero_stage, cuts.replicas
    # Behind a pipeline the gathered weights are kept for the whole step (`predict`), so only stage 3 alone saves them.
    unsplit = (stage < 3) | (cuts.pipeline > 1)
    held: Num = 0.0
    gradients: Num = 0.0
    optimizer: Num = 0.0
    for count, shards in ((weights.dense, replicas), (weights.experts, replicas // cuts.expert)):
        held = held + count * width / choose(unsplit, 1, shards)
        gradients = gradients + count * GRADIENT_BYTES / choose(stage >= 2, shards, 1)
        optimizer = optimizer + count * optimizer_bytes(model) / choose(stage >= 1, shards, 1)
    kept, layer = _layer_activations(chip, model, cuts)
    tokens = tokens_per_device(model, cuts)
    logits = tokens * model.vocabulary_size / cuts.tensor * 4 * (cuts.pipeline == 1)
    workspace = layer * cuts.full + logits
    return Memory(held, gradients, optimizer, kept * layer_batches, workspace, float(family_of(chip.name).reserved))


def optimizer_bytes(model: ModelShape) -> int:
    """Bytes of Adam's state per weight: two moments in f32, and a master copy where the weights are narrower."""
    return 8 + (4 if kept_bytes(model.dtype) < 4 else 0)


def _layer_activations(chip: Chip, model: ModelShape, cuts: Cuts) -> tuple[Num, Num]:
    """Bytes of one layer and one micro batch: kept between forward and backward, and without recomputation."""
    tokens = tokens_per_device(model, cuts)
    tensor = cuts.tensor
    shared = 1 + (tensor - 1) * cuts.sequence_parallel
    width = kept_bytes(model.dtype)
    hidden = model.hidden_size
    query = model.attention_heads * model.head
    key_value = model.key_value_heads * model.head
    plain = plain_core(chip, cuts)
    dropout = 2 * plain  # two masks; models since fused attention have none
    per_token = hidden * (4 * width + dropout) / shared  # inputs of two norms, of attention and of feed-forward
    per_token = per_token + 2 * width * (query + key_value) / tensor  # queries, keys, values, input of the projection
    wide = (3 if model.gated else 2) * width * model.ffn * model.experts_per_token
    per_token = per_token + wide / tensor
    if model.experts > 1:  # what goes to the experts and comes back, of each visit
        per_token = per_token + 2 * width * hidden * model.experts_per_token / shared
    scores = plain * (model.attention_heads * model.sequence_length * (2 * width + 1) / tensor)
    whole = (per_token + scores) * tokens
    thin = (per_token + scores * (1 - cuts.selective)) * tokens
    return choose(cuts.full > 0, width * hidden * tokens / shared, thin), whole
