"""A picture of the wiring with a gang in it, as SVG text.

Flows in: a snapshot and, if there is one, a placement. Flows out: a standalone SVG document: domains as boxes inside
each other, nodes as rows of devices: green = this gang, grey = held by others, white = free, red = not healthy or not
ready. Not here: writing files.
"""

from __future__ import annotations

from html import escape
from typing import Final

from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.topology import Topology

_CELL: Final = 12  # pixels of one device
_GAP: Final = 4
_TEXT: Final = 14  # pixels of one line of text
#: Nodes drawn in full; of larger clusters only domains with the gang in them are.
MOST_DRAWN: Final = 512
_COLOURS: Final = {"mine": "#2e8b57", "held": "#b0b0b0", "free": "#ffffff", "ill": "#e06666"}

# Height, width and elements of a part, drawn at (0, 0).
_Part = tuple[int, int, list[str]]


def picture(snapshot: Snapshot, placement: Placement | None) -> str:
    """The SVG document."""
    mine = {} if placement is None else dict(zip(placement.nodes, placement.masks().tolist(), strict=True))
    row_of = {name: row for row, name in enumerate(snapshot.node_names)}
    used = {row_of[name] for name in mine if name in row_of}
    parts: list[_Part] = []
    inside: set[int] = set()
    for topology in snapshot.topologies:
        rows = topology.node_rows.tolist()
        inside.update(rows)
        tops = range(len(topology.domain_names[0]))
        boxes = [_domain(snapshot, topology, 0, d, mine, used) for d in tops]
        parts.append(_stack(topology.name, [box for box in boxes if box], bold=True))
    loose = [row for row in range(len(snapshot.node_names)) if row not in inside]
    if loose:
        shown = [row for row in loose if len(loose) <= MOST_DRAWN or row in used]
        parts.append(_stack("outside all groups", [_node(snapshot, row, mine) for row in shown], bold=True))
    height, width, elements = _stack(_title(placement), parts, bold=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="{_TEXT - 3}">\n' + "\n".join(elements) + "\n</svg>\n"
    )


def _title(placement: Placement | None) -> str:
    if placement is None:
        return "not placed"
    text = f"{placement.key}: {placement.node_of.size} workers on {len(placement.nodes)} nodes of {placement.pool}"
    return text if placement.predicted is None else f"{text}, {placement.predicted.seconds:.4g} s a step"


def _domain(
    snapshot: Snapshot, topology: Topology, level: int, domain: int, mine: dict[str, int], used: set[int]
) -> _Part | None:
    """One domain with all in it; None if it is left out."""
    start, end = topology.starts[level][domain : domain + 2].tolist()
    rows = topology.node_rows[start:end].tolist()
    if len(snapshot.node_names) > MOST_DRAWN and not used.intersection(rows):
        return None
    label = f"{topology.levels[level].name} {topology.domain_names[level][domain]}"
    if level + 1 == len(topology.levels):
        return _stack(label, [_node(snapshot, row, mine) for row in rows])
    children = sorted(set(topology.node_domain[start:end, level + 1].tolist()))
    parts = [_domain(snapshot, topology, level + 1, child, mine, used) for child in children]
    return _stack(label, [part for part in parts if part])


def _node(snapshot: Snapshot, row: int, mine: dict[str, int]) -> _Part:
    name = snapshot.node_names[row]
    healthy, free = int(snapshot.device_all[row]), int(snapshot.device_free[row])
    own = mine.get(name, 0)
    elements = [_text(_GAP, _TEXT - 3, name)]
    left = 8 * max(len(name), 1) + _GAP
    for device in range((healthy | own).bit_length()):
        bit = 1 << device
        kind = "mine" if own & bit else "ill" if not healthy & bit or not snapshot.usable[row] else ""
        kind = kind or ("free" if free & bit else "held")
        elements.append(
            f'<rect x="{left}" y="1" width="{_CELL}" height="{_CELL}" fill="{_COLOURS[kind]}" stroke="#555">'
            f"<title>{escape(name)} device {device}: {kind}</title></rect>"
        )
        left += _CELL + 1
    return _TEXT, left + _GAP, elements


def _stack(label: str, parts: list[_Part], *, bold: bool = False) -> _Part:
    """Parts under each other in a box with a label."""
    height, width = _TEXT + _GAP, 8 * len(label) + 2 * _GAP
    elements = [_text(_GAP, _TEXT - 2, label, bold=bold)]
    for part_height, part_width, inner in parts:
        elements.append(f'<g transform="translate({_GAP * 2},{height})">')
        elements += inner
        elements.append("</g>")
        height += part_height + _GAP
        width = max(width, part_width + 4 * _GAP)
    frame = f'<rect x="0" y="0" width="{width}" height="{height}" fill="none" stroke="#999" rx="3"/>'
    return height, width, [frame, *elements]


def _text(x: int, y: int, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}"{weight}>{escape(text)}</text>'
