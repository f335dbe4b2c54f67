"""What a TrainingJob says about the training itself: the model's shape and how it is cut over the devices.

`steptime` predicts from the same words; the rules that cross this and the rest of the job stand in `job_rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from supernode.api.document import Spec
from supernode.api.rules import Rule

# Bounds keep every product of sizes inside CEL's 64-bit integers: 2^10 x 2^10 x 2^20 x 2^10.
Degree = Annotated[int, Field(ge=1, le=1024)]
Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Dtype = Literal["f64", "f32", "tf32", "bf16", "f16", "fp8", "int8"]


class ModelSpec(Spec):
    """Shape of the transformer that is trained; the step time is predicted from it."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule[Any](
            field=".attentionHeads",
            cel="has(self.headSize) || self.hiddenSize % self.attentionHeads == 0",
            message="must divide hiddenSize, unless headSize is given",
            numbers="'hiddenSize %d is not a multiple of attentionHeads %d; give headSize or other numbers'"
            ".format([self.hiddenSize, self.attentionHeads])",
            holds=lambda model: model.head_size is not None or model.hidden_size % model.attention_heads == 0,
            explain=lambda model: (
                f"hiddenSize {model.hidden_size} is not a multiple of attentionHeads "
                f"{model.attention_heads}; give headSize or other numbers"
            ),
        ),
        Rule[Any](
            field=".kvHeads",
            cel="!has(self.kvHeads) || self.attentionHeads % self.kvHeads == 0",
            message="must divide attentionHeads",
            numbers="'attentionHeads %d can not be shared by kvHeads %d'.format([self.attentionHeads, self.kvHeads])",
            holds=lambda model: model.kv_heads is None or model.attention_heads % model.kv_heads == 0,
            explain=lambda model: (
                f"attentionHeads {model.attention_heads} can not be shared by kvHeads {model.kv_heads}"
            ),
        ),
        Rule[Any](
            field=".expertsPerToken",
            cel="self.expertsPerToken <= self.experts",
            message="must be at most experts",
            numbers="'a token can not visit %d of %d experts'.format([self.expertsPerToken, self.experts])",
            holds=lambda model: model.experts_per_token <= model.experts,
            explain=lambda model: f"a token can not visit {model.experts_per_token} of {model.experts} experts",
        ),
    )

    layers: Annotated[int, Field(ge=1, le=100_000)] = Field(description="Transformer layers.")
    hidden_size: Size = Field(description="Width of the residual stream.")
    attention_heads: Size = Field(description="Query heads of the attention.")
    vocabulary_size: Size = Field(description="Rows of the embedding.")
    sequence_length: Size = Field(description="Tokens of one sample.")
    dtype: Dtype = Field(
        default="bf16",
        description="Number format of weights and activations: f64, f32, tf32, bf16, f16, fp8 or int8.",
    )
    feed_forward_size: Size | None = Field(
        default=None, description="Inner width of the feed-forward part. Default: 4 x hiddenSize."
    )
    kv_heads: Size | None = Field(
        default=None, description="Key and value heads (grouped-query attention). Default: attentionHeads."
    )
    head_size: Size | None = Field(default=None, description="Width of a head. Default: hiddenSize / attentionHeads.")
    gated: bool = Field(default=False, description="The feed-forward part has three matrices (SwiGLU) instead of two.")
    experts: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=1, description="Experts per layer (mixture of experts); 1 is a dense model."
    )
    experts_per_token: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=1, description="Experts that each token visits."
    )


class ParallelismSpec(Spec):
    """How model and batch are cut: tensor x pipeline x data x context = workers x acceleratorsPerWorker."""

    tensor: Degree = Field(default=1, description="Devices that share each matrix; best inside a node or super-node.")
    pipeline: Degree = Field(default=1, description="Pipeline stages, each a run of layers.")
    data: Annotated[int, Field(ge=1, le=2**20)] | None = Field(
        default=None,
        description="Replicas that see different samples. Default: what is left of the accelerators, "
        "so that it follows when the number of workers changes.",
    )
    context: Degree = Field(default=1, description="Devices that share one sequence.")
    expert: Degree = Field(
        default=1, description="Devices that share the experts of a layer; taken from the data and context ranks."
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=2**20)] = Field(
        default=1, description="Samples of one replica that go through the pipeline together."
    )
    global_batch_size: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="Samples of one step over all replicas. Default: one micro batch per replica."
    )
    interleave: Degree = Field(default=1, description="Model chunks per pipeline stage; 1 is the plain schedule.")
    sequence_parallel: bool = Field(
        default=False, description="Split activations outside the matrices over the tensor ranks too."
    )
    recompute: Literal["None", "Selective", "Full"] = Field(
        default="None",
        description="Activations computed again in the backward pass instead of kept: None, Selective (the attention's "
        "core) or Full (each layer).",
    )
    zero_stage: int = Field(
        default=0,
        ge=0,
        le=3,
        description="What is split over the data ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too.",
    )
