"""How fast a card and its host exchange data: PCI Express, by generation and lanes.

Flows in: a chip's `host_link`, such as `gen4 x16`. Flows out: bytes/s of payload in one direction. Figures of the PCI
Express Base Specification: the transfer rate of a lane, 128b/130b encoding (8b/10b before generation 3), and packets of
256 bytes with 24 bytes around them (framing, a header with a 64-bit address, checksum). Not here: when copies run.
"""

from __future__ import annotations

import re
from typing import Final

#: Where the sheet does not say: what the cards of the catalogue have that do.
USUAL: Final = "gen4 x16"
#: generation -> bits/s of one lane that carry bytes.
_LANE: Final = {1: 2.5e9 * 0.8, 2: 5e9 * 0.8, 3: 8e9 * 128 / 130, 4: 16e9 * 128 / 130, 5: 32e9 * 128 / 130}
_PAYLOAD: Final = 256 / (256 + 24)


def host_bandwidth(host_link: str) -> float:
    """Bytes/s of payload in one direction; of the usual link where nothing, or nothing readable, is said."""
    found = re.search(r"gen\s*(\d)\D+(\d+)", host_link.lower())
    if found is None or int(found[1]) not in _LANE:
        found = re.search(r"gen\s*(\d)\D+(\d+)", USUAL)
    generation, lanes = (int(found[1]), int(found[2])) if found is not None else (4, 16)
    return _LANE[generation] * lanes / 8 * _PAYLOAD
