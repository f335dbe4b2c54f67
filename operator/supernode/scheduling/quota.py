"""What a namespace is guaranteed of a pool and may hold of it at most, in devices and in effective compute.

Each unit that a quota is stated in counts by itself: whoever is above what it is guaranteed in one of them borrows, and
whoever is above in none of them is within its guarantee. Not here: who holds what (`snapshot`), what a place promises
(`promise`), and who gives way (`preempt`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amount:
    """Devices, and effective compute in MFLOP/s (10^6)."""

    devices: int = 0
    compute: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.devices + other.devices, self.compute + other.compute)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.devices - other.devices, self.compute - other.compute)


@dataclass(frozen=True, slots=True)
class Quota:
    """What one namespace may hold of a pool.

    Attributes:
        namespace: whose.
        guaranteed: accelerators that it can always get back (`preempt`), and its weight in the order of gangs; 0 =
            none, or stated in compute alone.
        limit: accelerators that it may hold at most; None = all.
        guaranteed_compute: the same as `guaranteed` in effective compute, MFLOP/s; 0 = not stated.
        limit_compute: effective compute that it may hold at most, MFLOP/s; None = any.
    """

    namespace: str
    guaranteed: int = 0
    limit: int | None = None
    guaranteed_compute: int = 0
    limit_compute: int | None = None

    @property
    def guarantees(self) -> bool:
        """Whether it is guaranteed anything."""
        return bool(self.guaranteed or self.guaranteed_compute)

    def within(self, held: Amount) -> bool:
        """Whether somebody who holds so much has no more than is guaranteed, in any unit that this is stated in."""
        if self.guaranteed_compute and held.compute > self.guaranteed_compute:
            return False
        return held.devices <= self.guaranteed if self.guaranteed or not self.guaranteed_compute else True

    def borrowed(self, held: Amount) -> Amount:
        """What somebody who holds so much holds beyond the guarantee; 0 in a unit that this is not stated in.

        Where nothing is guaranteed, every device is borrowed.
        """
        in_devices = bool(self.guaranteed or not self.guaranteed_compute)
        return Amount(
            max(0, held.devices - self.guaranteed) if in_devices else 0,
            max(0, held.compute - self.guaranteed_compute) if self.guaranteed_compute else 0,
        )


#: Of a namespace that the pool does not name.
NO_QUOTA = Quota("")
