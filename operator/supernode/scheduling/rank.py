"""The order of scored options: the fastest first, then what each leaves for others, then the name.

Flows in: `Option`s of all pools. Flows out: the same, best first. Not here: scoring them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from supernode.scheduling.score import EQUAL, Option


def rank_options(options: Sequence[Option], with_model: bool) -> list[Option]:
    """Best first. The order of keys: no prediction last; (without a model: the user's order of pools); step time;
    preferred levels missed; largest gang lost per level, from the outside in; room left beside it; pool; name.
    """
    best = max(min(option.template.seconds for option in options), 1e-12)

    alike: dict[tuple[int, int, int], tuple[int, ...]] = {}

    def keys(option: Option) -> tuple[object, ...]:
        template, tree = option.template, option.tree
        first = option.order
        if with_model:
            first = 0 if template.predicted is not None else 1 + option.order
        slower = 0
        if template.seconds > best:
            slower = math.floor(math.log(template.seconds / best) / EQUAL)
        cost: tuple[int, ...] = ()
        if slower == 0 and tree is not None:  # only ties need it
            # Domains of one shape under one parent cost the others the same.
            where = tree.parent(option.level, option.domain) if option.level > 0 else -option.level
            same = (id(template), option.level, where) if option.level >= 0 else (id(template), -1, 0)
            known = alike.get(same)
            if known is None:
                known = alike[same] = _losses(option)
            cost = known
        name = "" if tree is None else tree.topology.name
        return (first, slower, template.missed, cost, option.order, name, option.start, option.level)

    return sorted(options, key=keys)


def _losses(option: Option) -> tuple[int, ...]:
    """Per level from the outside in: by how much the largest gang that still fits shrinks; then the room left."""
    tree = option.tree
    if tree is None:
        return ()
    losses: list[int] = []
    workers = option.workers
    spare = option.template.spare
    domain = option.domain
    for level in range(option.level, -1, -1):
        room = int(tree.caps[level][domain])
        losses.append(_loss(tree.tops.get(level) or tree.top(level), room, 1, room - workers))
        spare += room - workers
        if level:
            domain = tree.parent(level, domain)
    losses.reverse()
    for at, facts in enumerate(option.template.inside, option.level + 1):
        losses.append(_loss(tree.tops.get(at) or tree.top(at), *facts))
    return (*losses, spare)


def _loss(top: tuple[int, int, int], most: int, count: int, left: int) -> int:
    """By how much the largest room of a level shrinks when `count` domains with `most` room are left with `left`."""
    return 0 if most < top[0] or count < top[1] else top[0] - max(top[2], left)
