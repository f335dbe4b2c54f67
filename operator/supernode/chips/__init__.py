"""What each accelerator can do: figures with their sources, and how to look them up.

In: `catalogue.toml`, which lies beside this file, or a user's `chipSpec`. Out: frozen `Chip` values.
Standard library only. How fast a kernel runs on a chip is not here: that is `steptime`.
"""

from supernode.chips.catalogue import find_chip, load_catalogue
from supernode.chips.chip import DTYPES, Chip, Source, chip_from_mapping, chip_to_mapping

__all__ = ["DTYPES", "Chip", "Source", "chip_from_mapping", "chip_to_mapping", "find_chip", "load_catalogue"]
