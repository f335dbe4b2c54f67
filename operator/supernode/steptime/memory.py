"""Bytes that one device needs for a training step: weights, gradients, optimizer, activations.

Flows in: chip, model, parallelism. Flows out: bytes on the fullest device. Activations follow Korthikanti et al. 2022,
section 4 (34 s b h + 5 a s^2 b per layer for the plain case), written so that grouped-query attention, gated
feed-forward parts and experts come out of the same sums. Not here: fragmentation of an allocator.
"""

from __future__ import annotations

from supernode.chips import Chip
from supernode.steptime.calibration import family_of
from supernode.steptime.layer import tokens_per_device
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.roofline import dtype_bytes

GRADIENT_BYTES = 4  # gradients are summed in f32


def weights_per_device(model: ModelShape, parallelism: Parallelism) -> tuple[float, float]:
    """Weights of the fullest stage on one device: those that all data ranks share, and those of its experts."""
    layers = stage_layers(model, parallelism)
    experts = model.experts * model.expert_parameters if model.experts > 1 else 0
    shared = model.layer_parameters - experts
    dense = layers * shared + model.embedding_parameters
    return dense / parallelism.tensor, layers * experts / (parallelism.tensor * parallelism.expert)


def stage_layers(model: ModelShape, parallelism: Parallelism) -> int:
    """Layers of the fullest pipeline stage."""
    chunks = parallelism.pipeline * parallelism.interleave
    return parallelism.interleave * -(-model.layers // chunks)


def optimizer_bytes(model: ModelShape) -> int:
    """Bytes of Adam's state per weight: two moments in f32, and a master copy where the weights are narrower."""
    return 8 + (4 if dtype_bytes(model.dtype) < 4 else 0)


def memory_bytes(chip: Chip, model: ModelShape, parallelism: Parallelism) -> int:
    """Bytes needed on the fullest device: the first stage, which holds the most micro batches at once."""
    dense, experts = weights_per_device(model, parallelism)
    replicas = parallelism.data * parallelism.context
    width = dtype_bytes(model.dtype)
    stage = parallelism.zero_stage
    total = float(family_of(chip.name).reserved)
    for weights, shards in ((dense, replicas), (experts, replicas // parallelism.expert)):
        total += weights * width / (shards if stage >= 3 else 1)
        total += weights * GRADIENT_BYTES / (shards if stage >= 2 else 1)
        total += weights * optimizer_bytes(model) / (shards if stage >= 1 else 1)
    return round(total + _activations(chip, model, parallelism))


def _activations(chip: Chip, model: ModelShape, parallelism: Parallelism) -> float:
    """Bytes kept between forward and backward, and the logits."""
    tokens = tokens_per_device(model, parallelism)
    tensor = parallelism.tensor
    shared = tensor if parallelism.sequence_parallel else 1
    width = dtype_bytes(model.dtype)
    hidden = model.hidden_size
    query = model.attention_heads * model.head
    key_value = model.key_value_heads * model.head
    per_token = hidden * (4 * width + 2) / shared  # inputs of two norms, of attention and feed-forward; two masks
    per_token += 2 * width * (query + key_value) / tensor  # queries, keys, values, input of the projection
    wide = (3 if model.gated else 2) * width * model.ffn * model.experts_per_token
    per_token += wide / tensor
    if family_of(chip.name).score_passes and parallelism.recompute == "None":
        per_token += model.attention_heads * model.sequence_length * (2 * width + 1) / tensor
    layers = stage_layers(model, parallelism)
    whole_layer = per_token * tokens
    kept = width * hidden * tokens / shared if parallelism.recompute == "Full" else whole_layer
    in_flight = float(min(parallelism.pipeline, parallelism.micro_batches))
    if parallelism.interleave > 1:
        in_flight *= 1 + (parallelism.pipeline - 1) / (parallelism.pipeline * parallelism.interleave)
    logits = tokens * model.vocabulary_size / tensor * 4 if parallelism.pipeline == 1 else 0.0
    working = whole_layer if parallelism.recompute == "Full" else 0.0
    return kept * layers * in_flight + working + logits
