"""Seconds of one kernel on one device: the larger of arithmetic and memory traffic, plus the launch.

Flows in: a `Chip` (data sheet) and the work of the kernel. Flows out: seconds. The predictor and the emulator's clock
both call this, so a figure is never kept twice. Not here: collectives, and the order of kernels in a step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from supernode.chips import Chip
from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num, largest
from supernode.steptime.calibration import ATTENTION_SHORT, family_of
from supernode.steptime.family import Family

#: Bytes per element; tf32 is stored as f32.
DTYPE_BYTES: Final[dict[str, int]] = {
    "f64": 8,
    "f32": 4,
    "tf32": 4,
    "bf16": 2,
    "f16": 2,
    "fp8": 1,
    "int8": 1,
}


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        ModelError: a dtype that is not in the table.
    """
    size = DTYPE_BYTES.get(dtype)
    if size is None:
        raise ModelError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPE_BYTES)}")
    return size


def kernel_seconds(chip: Chip, *, flops: float, bytes_moved: float, dtype: str) -> float:
    """Seconds of a kernel that is not a matrix product: elementwise, reduction, softmax, normalisation, copy.

    Args:
        chip: data sheet of the device.
        flops: floating-point operations (0 for a copy: then no peak figure is needed).
        bytes_moved: bytes read plus bytes written in device memory.
        dtype: in which the arithmetic runs (`f32` for kernels that accumulate in f32).

    Raises:
        ChipError: the catalogue lacks the peak of that dtype or the memory bandwidth; it says what to write where.
        ModelError: a negative amount of work.
    """
    if flops < 0 or bytes_moved < 0:
        raise ModelError(f"a kernel cannot have {flops:g} FLOPs and {bytes_moved:g} bytes; both must be 0 or more")
    family = family_of(chip.name)
    arithmetic = flops / (chip.peak_flops(dtype) * family.gemm_peak) if flops else 0.0
    memory = bytes_moved / (chip.figure("memory_bandwidth") * family.memory) if bytes_moved else 0.0
    return family.launch + max(arithmetic, memory)


def gemm_efficiency(family: Family, m: float, n: float, k: float) -> float:
    """Share of the peak FLOP/s that an (m, k) x (k, n) product reaches when it is limited by arithmetic."""
    small_m, small_n, small_k = family.gemm_small
    return family.gemm_peak / ((1.0 + small_m / m) * (1.0 + small_n / n) * (1.0 + small_k / k))


def gemm_seconds(chip: Chip, m: int, n: int, k: int, dtype: str, batch: int = 1) -> float:
    """Seconds of `batch` products (m, k) x (k, n) launched as one kernel; an empty product takes the launch only.

    Raises:
        ChipError: the catalogue lacks the peak of that dtype or the memory bandwidth.
        ModelError: a negative size or an unknown dtype.
    """
    if min(m, n, k, batch) < 0:
        raise ModelError(f"a matrix product cannot have the sizes m={m}, n={n}, k={k}, batch={batch}")
    if 0 in (m, n, k, batch):
        return family_of(chip.name).launch
    return float(rates_of(chip, dtype).product(m, n, k, batch))


def attention_seconds(chip: Chip, *, flops: float, bytes_moved: float, dtype: str, length: float) -> float:
    """Seconds of a fused attention kernel, which never writes the scores.

    Args:
        chip: data sheet of the device.
        flops: of its products, without what the mask hides.
        bytes_moved: bytes read plus bytes written in device memory.
        dtype: of queries, keys and values.
        length: keys that a query may see, without the causal mask: on short sequences the kernel is slow.

    Raises:
        ChipError: the catalogue lacks the peak of that dtype or the memory bandwidth.
        ModelError: a negative amount of work, no keys, or an unknown dtype.
    """
    if flops < 0 or bytes_moved < 0 or length <= 0:
        raise ModelError(
            f"attention cannot have {flops:g} FLOPs, {bytes_moved:g} bytes and {length:g} keys; the keys must be above "
            "0, the others 0 or more"
        )
    return float(rates_of(chip, dtype).fused_attention(flops, bytes_moved, length))


class Rates(NamedTuple):
    """What one chip reaches in one dtype, ready for formulas on numbers and on arrays.

    Attributes:
        arithmetic: FLOP/s of a very large matrix product.
        memory: bytes/s of a streaming kernel.
        launch: seconds.
        small: sizes that halve the efficiency of a product (`family.Family.gemm_small`).
        width: bytes per element.
        attention: FLOP/s of a fused attention kernel.
    """

    arithmetic: float
    memory: float
    launch: float
    small: tuple[float, float, float]
    width: int
    attention: float

    def product(self, m: Num, n: Num, k: Num, batch: Num = 1) -> Num:
        """Seconds of `batch` products (m, k) x (k, n) as one kernel; no size is 0.

        The efficiency curve says that a product costs as much as a perfect one of (m + m0)(n + n0)(k + k0): what tiles
        at the edges, the last wave, and filling the pipeline of a tile do on average.
        """
        m0, n0, k0 = self.small
        arithmetic = 2.0 * batch * (m + m0) * (n + n0) * (k + k0) / self.arithmetic
        memory = self.width * batch * (m * k + k * n + m * n) / self.memory
        return self.launch + largest(arithmetic, memory)

    def fused_attention(self, flops: Num, nbytes: Num, length: Num) -> Num:
        """`attention_seconds`, unchecked."""
        return self.launch + largest(flops * (1 + ATTENTION_SHORT / length) / self.attention, nbytes / self.memory)

    def moved(self, nbytes: Num) -> Num:
        """Seconds of a kernel that memory limits."""
        return self.launch + nbytes / self.memory


@lru_cache(maxsize=512)
def rates_of(chip: Chip, dtype: str) -> Rates:
    """The rates of a chip.

    Raises:
        ChipError: the catalogue lacks the peak of that dtype or the memory bandwidth.
        ModelError: an unknown dtype.
    """
    family = family_of(chip.name)
    width = dtype_bytes(dtype)
    peak = chip.peak_flops(dtype)
    return Rates(
        arithmetic=peak * family.gemm_peak,
        memory=chip.figure("memory_bandwidth") * family.memory,
        launch=family.launch,
        small=family.gemm_small,
        width=width,
        attention=peak * (family.gemm_peak if family.attention is None else family.attention),
    )


def kept_bytes(dtype: str) -> int:
    """Bytes per element of what training keeps, sends and adds: fp8 is a format of products only, beside 16 bits.

    Raises:
        ModelError: an unknown dtype.
    """
    return 2 if dtype == "fp8" else dtype_bytes(dtype)


def training_rates(chip: Chip, dtype: str) -> Rates:
    """`rates_of`, but in fp8 only the products of the layers run at its peak.

    Raises:
        ChipError: the catalogue lacks the peak of that dtype (in fp8 also of bf16) or the memory bandwidth.
        ModelError: an unknown dtype.
    """
    rates = rates_of(chip, dtype)
    if dtype != "fp8":
        return rates
    return rates._replace(width=kept_bytes(dtype), attention=rates_of(chip, "bf16").attention)
