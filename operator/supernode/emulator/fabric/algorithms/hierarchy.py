"""Domains first: what leaves a domain has been summed inside it, and every pod carries its part of it across.

Pods are in ring order, so those of one domain follow each other; all domains have the same number of pods. Inside a
domain each pod owns one section after the reduce-scatter; pods at the same place of all domains sum theirs.
"""

from __future__ import annotations

from collections.abc import Callable

from supernode.emulator.fabric.algorithms import ring
from supernode.emulator.fabric.choice import even_sections
from supernode.emulator.fabric.pods import Flat, Pods


def all_reduce(
    pods: Pods, inner: int, total: Flat, result: Flat, op: str, finish: Callable[[Flat, Flat], None]
) -> None:
    """Reduce `total` over all pods, finish each part at its owner, bring all parts together in `result`."""
    domain, place = divmod(pods.me, inner)
    outer = pods.count // inner
    inside = pods.some(range(domain * inner, (domain + 1) * inner))
    across = pods.some(range(place, pods.count, inner))
    sections = even_sections(total.size, inner)
    mine = sections[place]
    parts = even_sections(mine.stop - mine.start, outer)
    ring.reduce_scatter(inside, total, sections, op)
    ring.reduce_scatter(across, total[mine], parts, op)
    finish(total[mine][parts[domain]], result[mine][parts[domain]])
    ring.all_gather(across, result[mine], parts)
    ring.all_gather(inside, result, sections)
