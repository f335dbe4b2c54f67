"""How objects are asked for where a server has a shorter form of them than JSON. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supernode.cluster.kinds import Json


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the objects of one kind.

    `accept`, `accept_stream`: what is asked for; the server may send JSON all the same. `page`, `event`: read a list
    and an event of a watch in it as if they had come in JSON; ValueError where it is none.
    """

    accept: str
    accept_stream: str
    page: Callable[[bytes], Json]
    event: Callable[[bytes], Json]
