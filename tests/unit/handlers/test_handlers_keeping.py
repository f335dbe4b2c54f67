"""The sentence of a gang from which nodes are kept for others: for whom, how many devices, and nothing of cordons."""

from __future__ import annotations

from tests.unit.scheduling.clusters import a_gang, a_state, held

from supernode.handlers.keeping import kept_sentence
from supernode.handlers.nomination import Nomination


def for_whom(key: str, *victims: str, nodes: tuple[str, ...] = ("dcu-0", "dcu-1")) -> Nomination:
    return Nomination(key, 9, frozenset(nodes), tuple((victim, "uid", 0, 0) for victim in victims), {})


def test_who_gave_way_within_one_namespace() -> None:
    assert kept_sentence(a_state().snapshot(), a_gang("a/low"), [for_whom("a/high", "a/low")]) == (
        "needs 2 workers x 2 devices (4) and would fit, but 4 devices on 2 nodes are kept for a/high, "
        "which it gave way to"
    )


def test_no_gang_of_another_namespace_is_named() -> None:
    keepers = [for_whom("b/high", "b/x"), for_whom("c/high", "a/low", nodes=("dcu-3", "elsewhere"))]
    assert kept_sentence(a_state().snapshot(), a_gang("a/low"), keepers).endswith(
        "but 6 devices on 3 nodes are kept for 2 gangs of other namespaces, which it gave way to"
    )


def test_what_is_missing_besides() -> None:
    state = a_state()
    state.claim("b/gpt", held("b/gpt", ("dcu-2", (0, 1)), ("dcu-3", (0, 1))), {})
    said = kept_sentence(state.snapshot(), a_gang("a/late", 4), [for_whom("b/high", nodes=("dcu-0",))])
    assert (
        "4 more are missing; a gang of another namespace holds 4; 2 devices on 1 node are kept for a gang of " in said
    )
    assert "gave way" not in said
    assert "cordons" not in said
