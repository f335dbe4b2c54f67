"""The order in which a pipeline stage works on its micro batches: one forward, one backward (1F1B).

A stage starts with as many forward passes as there are stages after it, then does one forward and one backward in turn,
and ends with the backward passes that are left: no more activations are kept than there are stages. Narayanan et al.,
"Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", SC 2021, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

Pass = Literal["forward", "backward"]


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> Iterator[tuple[Pass, int]]:
    """The passes of a stage in order, each with the number of its micro batch.

    Args:
        stage: counted from 0, the first one has the embedding.
        stages: of the pipeline.
        micro_batches: of one step.
    """
    ahead = min(stages - 1 - stage, micro_batches)
    for number in range(ahead):
        yield "forward", number
    for number in range(micro_batches):
        if number + ahead < micro_batches:
            yield "forward", number + ahead
        yield "backward", number


def even_stages(layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each stage; the first ones have one more where they do not divide."""
    each, more = divmod(layers, stages)
    return tuple(each + (stage < more) for stage in range(stages))
