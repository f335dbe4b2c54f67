"""Sampling on grids, pooling of regions, choosing among boxes.

Flows in: images (batch, channels, *sizes) and where to look. Flows out: samples. Not here: resizing (`resize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.onnx_backend.call import Call, Lowering, known

_MODES: Final = {"bilinear": "linear", "bicubic": "cubic"}


def _grid_sample(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    mode = call.get("mode", "bilinear" if call.version < 20 else "linear")
    found = call.launch(
        "grid_sample",
        call.array(0),
        call.array(1),
        mode=_MODES.get(mode, mode),
        fill=call.get("padding_mode", "zeros"),
        align=bool(call.get("align_corners", 0)),
    )
    return call.out(found)


def _affine_grid(call: Call) -> Any:
    theta = call.array(0)
    if theta.dtype not in FLOATS:
        return NotImplemented
    batch, _, *sizes = call.ints(1) or []
    align = bool(call.get("align_corners", 0))
    lines = []
    for size in sizes:
        if align:
            lines.append(np.linspace(-1, 1, size) if size > 1 else np.zeros(size))
        else:
            lines.append((2 * np.arange(size) + 1) / size - 1)
    # The last number of a place is the one along the first axis; then a 1 for the shift.
    mesh = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(sizes)], axis=-1)
    points = call.constant(mesh.reshape(-1, len(sizes) + 1), call.dtype)
    found = call.launch("matmul", points.reshape([1, *points.shape]), theta, transpose_b=True)
    return call.out(found.reshape([batch, *sizes, len(sizes)]))


def _roi_align(call: Call) -> Any:
    x, regions = call.array(0), call.array(1)
    if x.dtype not in FLOATS or regions.dtype not in FLOATS:
        return NotImplemented
    half = call.version >= 16 and call.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    found = call.launch(
        "pool_regions",
        x,
        regions,
        call.array(2),
        size=[int(call.get("output_height", 1)), int(call.get("output_width", 1))],
        scale=float(call.get("spatial_scale", 1.0)),
        samples=int(call.get("sampling_ratio", 0)),
        mode="mean" if call.get("mode", "avg") == "avg" else "max",
        half_pixel=half,
    )
    return call.out(found)


def _non_max_suppression(call: Call) -> Any:
    if not call.computes(*FLOATS, "i64"):
        return NotImplemented
    boxes, scores = call.array(0), call.array(1)
    limit = max(int(call.scalar(2, 0)), 0)
    found = call.launch(
        "suppress_overlaps",
        boxes,
        scores,
        limit=min(limit, boxes.shape[1]),
        overlap=float(call.scalar(3, 0.0)),
        score=float(call.scalar(4)) if call.has(4) else None,
        centers=bool(call.get("center_point_box", 0)),
    )
    # How many boxes are kept only the data says: the host looks, and joins their numbers.
    kept = found.numpy()
    batch, class_, place = np.nonzero(kept >= 0)
    return known(np.stack([batch, class_, kept[batch, class_, place]], axis=1).astype(np.int64))


OPERATORS: Final[Mapping[str, Lowering]] = {
    "GridSample": _grid_sample,
    "AffineGrid": _affine_grid,
    "RoiAlign": _roi_align,
    "NonMaxSuppression": _non_max_suppression,
}
