"""The operators of the device: one table, one module per family, one entry per kernel.

Flows in: a kernel's name with specs and attributes (`TABLE.plan`), then NumPy arrays (`Kernel.run`). Flows out: specs
and cost, then arrays. To add a kernel, add an entry to the `KERNELS` of a family's module; the client, the sidecar and
the reference page know it from then on. Not here: devices, memory, time (`runtime`).
"""

from typing import Final

from supernode.emulator.kernels import (
    activation,
    attention,
    convolution,
    creation,
    detection,
    dropout,
    einsum,
    elementwise,
    embedding,
    experts,
    foreign,
    formats,
    fourier,
    functions,
    fused,
    gating,
    indexing,
    layout,
    linear_algebra,
    loss,
    matmul,
    normalise,
    normalise_axes,
    norms,
    optimizer,
    ordering,
    pointwise,
    pooling,
    quantise,
    quantised,
    rearrange,
    recurrent,
    reduce,
    resample,
    rotary,
    scaling,
    scan,
    scatter,
    sharded_loss,
    spectral,
)
from supernode.emulator.kernels.table import REQUIRED, Cost, Gemm, Kernel, Plan, Spec, Table, describe

TABLE: Final = Table(
    {
        "elementwise": elementwise.KERNELS,
        "functions": functions.KERNELS,
        "activation": activation.KERNELS,
        "reduce": reduce.KERNELS,
        "scan": scan.KERNELS,
        "matmul": matmul.KERNELS,
        "normalise": normalise.KERNELS,
        "attention": attention.KERNELS,
        "fused": fused.KERNELS,
        "convolution": convolution.KERNELS,
        "loss": loss.KERNELS,
        "sharded loss": sharded_loss.KERNELS,
        "embedding": embedding.KERNELS,
        "rotary": rotary.KERNELS,
        "dropout": dropout.KERNELS,
        "experts": (*gating.KERNELS, *experts.KERNELS),
        "quantise": quantise.KERNELS,
        "optimizer": optimizer.KERNELS,
        "scaling": scaling.KERNELS,
        "layout": layout.KERNELS,
        "rearrange": rearrange.KERNELS,
        "indexing": indexing.KERNELS,
        "ordering": ordering.KERNELS,
        "linear algebra": (*linear_algebra.KERNELS, *norms.KERNELS),
        "fourier": fourier.KERNELS,
        "creation": creation.KERNELS,
        "pointwise": pointwise.KERNELS,
        "pooling": pooling.KERNELS,
        "normalise axes": normalise_axes.KERNELS,
        "recurrent": recurrent.KERNELS,
        "resample": resample.KERNELS,
        "einsum": einsum.KERNELS,
        "spectral": spectral.KERNELS,
        "quantised": quantised.KERNELS,
        "scatter": scatter.KERNELS,
        "formats": formats.KERNELS,
        "detection": detection.KERNELS,
        "foreign": foreign.KERNELS,
    }
)

__all__ = ["REQUIRED", "TABLE", "Cost", "Gemm", "Kernel", "Plan", "Spec", "Table", "describe"]
