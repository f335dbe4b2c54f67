"""What is trained, and how it is cut: a transformer's shape, its parallelism, and the useful FLOPs of a step.

Flows in: plain numbers. Flows out: frozen `ModelShape` and `Parallelism`, and counts (parameters, FLOPs). Not here:
chips, links, seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from supernode.errors import ModelError
from supernode.steptime.roofline import dtype_bytes

RECOMPUTE: Final = ("None", "Selective", "Full")
#: Chunks of a pipeline that may be without a layer: those of the embedding and of the output layer.
SPARE_CHUNKS: Final = 2
_LARGEST: Final = 10**12  # no size of a model or a job is larger; it keeps every product far inside a float


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer, dense or mixture of experts.

    Attributes:
        layers: transformer blocks.
        hidden_size: width of the residual stream.
        attention_heads: query heads.
        vocabulary_size: rows of the embedding, which the output layer shares.
        sequence_length: tokens of one sample.
        dtype: of weights and activations (`roofline.DTYPE_BYTES`).
        feed_forward_size: inner width of the feed-forward part; None = 4 x hidden_size.
        kv_heads: key and value heads (grouped-query attention); None = attention_heads.
        head_size: width of a head; None = hidden_size / attention_heads.
        gated: the feed-forward part has three matrices (SwiGLU) instead of two.
        experts: experts per layer; 1 = dense.
        experts_per_token: experts that each token visits.

    Raises:
        ModelError: a size that is not positive, or sizes that don't divide; names the field.
    """

    layers: int
    hidden_size: int
    attention_heads: int
    vocabulary_size: int
    sequence_length: int
    dtype: str = "bf16"
    feed_forward_size: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    gated: bool = False
    experts: int = 1
    experts_per_token: int = 1

    def __post_init__(self) -> None:
        for name in ("layers", "hidden_size", "attention_heads", "vocabulary_size", "sequence_length"):
            _positive("model", name, getattr(self, name))
        for name in ("feed_forward_size", "kv_heads", "head_size"):
            if getattr(self, name) is not None:
                _positive("model", name, getattr(self, name))
        for name in ("experts", "experts_per_token"):
            _positive("model", name, getattr(self, name))
        dtype_bytes(self.dtype)
        if self.head_size is None and self.hidden_size % self.attention_heads:
            raise ModelError(
                f"hidden size {self.hidden_size} is not a multiple of {self.attention_heads} attention heads; "
                "give headSize or other numbers",
                field="model.attentionHeads",
            )
        if self.attention_heads % self.key_value_heads:
            raise ModelError(
                f"{self.attention_heads} attention heads can't be shared by {self.key_value_heads} key-value heads",
                field="model.kvHeads",
            )
        if self.experts_per_token > self.experts:
            raise ModelError(
                f"a token can't visit {self.experts_per_token} of {self.experts} experts", field="model.expertsPerToken"
            )

    @property
    def ffn(self) -> int:
        """Inner width of the feed-forward part."""
        return 4 * self.hidden_size if self.feed_forward_size is None else self.feed_forward_size

    @property
    def key_value_heads(self) -> int:
        """Key and value heads."""
        return self.attention_heads if self.kv_heads is None else self.kv_heads

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.attention_heads if self.head_size is None else self.head_size

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention: query, key, value and output projections with biases."""
        query = self.attention_heads * self.head
        key_value = 2 * self.key_value_heads * self.head
        return self.hidden_size * (2 * query + key_value) + query + key_value + self.hidden_size

    @property
    def expert_parameters(self) -> int:
        """Weights of one feed-forward part (one expert): two matrices, or three when gated, with biases."""
        matrices = 3 if self.gated else 2
        return matrices * self.hidden_size * self.ffn + (matrices - 1) * self.ffn + self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: attention, all experts, the router where there is one, two layer norms."""
        router = self.hidden_size * self.experts if self.experts > 1 else 0
        return self.attention_parameters + self.experts * self.expert_parameters + router + 4 * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token embedding (shared with the output layer)."""
        return self.vocabulary_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights."""
        positions = self.sequence_length * self.hidden_size
        return self.layers * self.layer_parameters + self.embedding_parameters + positions + 2 * self.hidden_size


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How a model and its batch are cut over devices; the device count is tensor x context x pipeline x data.

    Device ranks count through tensor first, then context, pipeline and data: rank = ((d P + p) C + c) T + t; data ranks
    that share experts come before the pipeline (`wiring.near_experts`).

    Attributes:
        tensor: devices that share each matrix.
        pipeline: stages.
        data: replicas.
        context: devices that share one sequence.
        expert: devices that share the experts of a layer; they are taken from the data (and context) ranks.
        micro_batch_size: samples per replica that go through the pipeline together.
        global_batch_size: samples per step over all replicas; None = one micro batch per replica.
        interleave: model chunks per pipeline stage (1 = plain 1F1B).
        sequence_parallel: activations outside the matrices are split over the tensor ranks too.
        recompute: `None`, `Selective` (the attention core only) or `Full` (each layer from its input).
        zero_stage: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights split over the data ranks.

    Raises:
        ModelError: a size that is not positive, or a batch that can't be split; names the field.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    context: int = 1
    expert: int = 1
    micro_batch_size: int = 1
    global_batch_size: int | None = None
    interleave: int = 1
    sequence_parallel: bool = False
    recompute: str = "None"
    zero_stage: int = 0

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "data", "context", "expert", "micro_batch_size", "interleave"):
            _positive("parallelism", name, getattr(self, name))
        if self.global_batch_size is not None:
            _positive("parallelism", "global_batch_size", self.global_batch_size)
        if self.recompute not in RECOMPUTE:
            raise ModelError(
                f"must be one of {', '.join(RECOMPUTE)}, not {self.recompute!r}", field="parallelism.recompute"
            )
        if self.zero_stage not in (0, 1, 2, 3):
            raise ModelError(f"must be 0, 1, 2 or 3, not {self.zero_stage!r}", field="parallelism.zeroStage")
        if self.batch % (self.data * self.micro_batch_size):
            raise ModelError(
                f"a global batch of {self.batch} can't be split into {self.data} data ranks of micro batches of "
                f"{self.micro_batch_size}; make it a multiple of {self.data * self.micro_batch_size}",
                field="parallelism.globalBatchSize",
            )
        if (self.data * self.context) % self.expert:
            raise ModelError(
                f"{self.expert} expert ranks can't be taken from {self.data} data x {self.context} context ranks",
                field="parallelism.expert",
            )
        if self.interleave > 1 and self.pipeline == 1:
            raise ModelError("interleaving needs at least 2 pipeline stages", field="parallelism.interleave")

    @property
    def devices(self) -> int:
        """Devices of the job."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def batch(self) -> int:
        """Samples per step."""
        return self.data * self.micro_batch_size if self.global_batch_size is None else self.global_batch_size

    @property
    def micro_batches(self) -> int:
        """Micro batches that each pipeline works through in a step."""
        return self.batch // (self.data * self.micro_batch_size)


def check(model: ModelShape, parallelism: Parallelism) -> None:
    """Refuse a cut that the model does not allow.

    Raises:
        ModelError: heads, layers, experts or the sequence don't divide; names the field.
    """
    cuts = (
        (model.attention_heads, "attention heads", parallelism.tensor, "tensor"),
        (model.sequence_length, "tokens of a sequence", parallelism.context, "context"),
        (model.experts, "experts", parallelism.expert, "expert"),
    )
    for size, what, ranks, field in cuts:
        if size % ranks:
            raise ModelError(f"{size} {what} can't be split over {ranks} ranks", field=f"parallelism.{field}")
    chunks = parallelism.pipeline * parallelism.interleave
    if model.layers + SPARE_CHUNKS < chunks:
        raise ModelError(
            f"{model.layers} layers can't fill {parallelism.pipeline} stages x {parallelism.interleave} chunks",
            field="parallelism.interleave" if parallelism.interleave > 1 else "parallelism.pipeline",
        )


def flops_per_step(model: ModelShape, batch: int) -> float:
    """Useful FLOPs of one training step of `batch` samples: forward once, backward twice, nothing recomputed.

    For a dense model with 4h wide feed-forward this is ``72 B L s h^2 (1 + s/(6h) + V/(12 h L))``, formula 7 of
    Korthikanti et al. 2022 (attention counted in full, without the causal half).
    """
    tokens = float(batch) * model.sequence_length
    query = model.attention_heads * model.head
    key_value = 2 * model.key_value_heads * model.head
    projections = 2 * model.hidden_size * (2 * query + key_value)
    core = 2 * 2 * model.sequence_length * query
    matrices = 3 if model.gated else 2
    feed_forward = 2 * matrices * model.hidden_size * model.ffn * model.experts_per_token
    router = 2 * model.hidden_size * model.experts if model.experts > 1 else 0
    logits = 2 * model.hidden_size * model.vocabulary_size
    return 3.0 * tokens * (model.layers * (projections + core + feed_forward + router) + logits)


def _positive(section: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        words = name.split("_")
        field = words[0] + "".join(word.title() for word in words[1:])
        shown = value if not isinstance(value, float) or math.isfinite(value) else str(value)
        raise ModelError(f"must be a whole number from 1 to 10^12, not {shown!r}", field=f"{section}.{field}")
