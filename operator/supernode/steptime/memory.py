"""Bytes that one device needs for a training step: weights, gradients, optimizer, activations, workspace.

Flows in: chip, model, cuts. Flows out: bytes on the fullest device. Activations follow Korthikanti et al. 2022,
section 4 (34 s b h + 5 a s^2 b per layer for the plain case), written so that grouped-query attention, gated
feed-forward parts and experts come out of the same sums. Not here: fragmentation of an allocator.
"""

from __future__ import annotations

from supernode.chips import Chip
from supernode.steptime.arithmetic import Num, choose, smallest, split
from supernode.steptime.calibration import family_of
from supernode.steptime.cuts import Cuts, cuts_of
from supernode.steptime.layer import tokens_per_device
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.roofline import dtype_bytes

GRADIENT_BYTES = 4  # gradients are summed in f32


def memory_bytes(chip: Chip, model: ModelShape, parallelism: Parallelism) -> int:
    """Bytes needed on the fullest device: the first stage, which holds the most micro batches at once."""
    return round(float(memory_of(chip, model, cuts_of(parallelism))))


def memory_of(chip: Chip, model: ModelShape, cuts: Cuts) -> Num:
    """`memory_bytes` for one cut or a batch, not rounded."""
    dense, experts = weights_per_device(model, cuts)
    width = dtype_bytes(model.dtype)
    stage, replicas = cuts.zero_stage, cuts.replicas
    total: Num = float(family_of(chip.name).reserved)
    # Behind a pipeline the gathered weights are kept for the whole step (`predict`), so only stage 3 alone saves them.
    unsplit = (stage < 3) | (cuts.pipeline > 1)
    for weights, shards in ((dense, replicas), (experts, replicas // cuts.expert)):
        total = total + weights * width / choose(unsplit, 1, shards)
        total = total + weights * GRADIENT_BYTES / choose(stage >= 2, shards, 1)
        total = total + weights * optimizer_bytes(model) / choose(stage >= 1, shards, 1)
    return total + _activations(chip, model, cuts)


def weights_per_device(model: ModelShape, cuts: Cuts) -> tuple[Num, Num]:
    """Weights of the fullest stage on one device: those that all data ranks share, and those of its experts."""
    layers = stage_layers(model, cuts)
    experts = model.experts * model.expert_parameters if model.experts > 1 else 0
    dense = layers * (model.layer_parameters - experts) + model.embedding_parameters
    return dense / cuts.tensor, layers * experts / (cuts.tensor * cuts.expert)


def stage_layers(model: ModelShape, cuts: Cuts) -> Num:
    """Layers of the fullest pipeline stage."""
    return cuts.interleave * split(model.layers, cuts.pipeline * cuts.interleave)


def optimizer_bytes(model: ModelShape) -> int:
    """Bytes of Adam's state per weight: two moments in f32, and a master copy where the weights are narrower."""
    return 8 + (4 if dtype_bytes(model.dtype) < 4 else 0)


def _activations(chip: Chip, model: ModelShape, cuts: Cuts) -> Num:
    """Bytes kept between forward and backward, and the logits."""
    tokens = tokens_per_device(model, cuts)
    tensor = cuts.tensor
    shared = 1 + (tensor - 1) * cuts.sequence_parallel
    width = dtype_bytes(model.dtype)
    hidden = model.hidden_size
    query = model.attention_heads * model.head
    key_value = model.key_value_heads * model.head
    dropout = 2 if family_of(chip.name).score_passes else 0  # two masks; models since fused attention have none
    per_token = hidden * (4 * width + dropout) / shared  # inputs of two norms, of attention and of feed-forward
    per_token = per_token + 2 * width * (query + key_value) / tensor  # queries, keys, values, input of the projection
    wide = (3 if model.gated else 2) * width * model.ffn * model.experts_per_token
    per_token = per_token + wide / tensor
    scores: Num = 0.0
    if family_of(chip.name).score_passes:
        scores = model.attention_heads * model.sequence_length * (2 * width + 1) / tensor
    layers = stage_layers(model, cuts)
    whole_layer = (per_token + scores) * tokens
    thin_layer = (per_token + scores * (1 - cuts.selective)) * tokens
    kept = choose(cuts.full > 0, width * hidden * tokens / shared, thin_layer)
    # Spare room in the first stage is used: it holds a layer less, or the second stage one micro batch less.
    spare = (layers * cuts.pipeline >= model.layers + 2) & (cuts.pipeline > 1)
    in_flight = smallest(cuts.pipeline, cuts.micro_batches)
    in_flight = in_flight * (1 - spare * smallest(1 / layers, 1 / in_flight))
    extra = (cuts.interleave > 1) * (cuts.pipeline - 1) / (cuts.pipeline * cuts.interleave)
    logits = tokens * model.vocabulary_size / tensor * 4 * (cuts.pipeline == 1)
    return kept * layers * in_flight * (1 + extra) + whole_layer * cuts.full + logits
