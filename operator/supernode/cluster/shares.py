"""Shares of a card, as Hygon's device plugins count them, for a pool whose devices are emulated.

A container asks for a part of each of its devices by two resources beside the devices themselves: percent of the
compute units, and memory in MiB. On hardware the device plugin sees to it. In an emulated pool no plugin counts these
resources, so they are taken out of the pod and handed to the sidecar as variables. Flows in: a worker's container.
Flows out: variables of the sidecar. Not here: what the sidecar makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from supernode import names
from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.quantity import parse_resource

#: Resource, current and older name -> variable of the sidecar, and the largest value.
_VARIABLES: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "hygon.com/hcucores": (names.ENV_DEVICE_CORES, 100),
        "hygon.com/dcucores": (names.ENV_DEVICE_CORES, 100),
        "hygon.com/hcumem": (names.ENV_DEVICE_MEMORY, 1 << 30),
        "hygon.com/dcumem": (names.ENV_DEVICE_MEMORY, 1 << 30),
    }
)


def variables_of(container: Json) -> dict[str, str]:
    """The sidecar's variables for the share that a container asks for; empty where it has whole devices.

    Raises:
        InputError: a share that is none; names the field.
    """
    resources = container.get("resources") or {}
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    found: dict[str, str] = {}
    for name, (variable, most) in _VARIABLES.items():
        if name in amounts:
            field = f"spec.template.spec.containers[0].resources.{name}"
            amount = parse_resource(name, amounts[name], field=field)
            if not 1 <= amount <= most:
                raise InputError(f"must be a whole number from 1 to {most}, not {amount}", field=field)
            found.setdefault(variable, str(amount))
    return found


def take_out(container: Json) -> None:
    """Remove the shares from a container's requests and limits, in place."""
    resources = container.get("resources") or {}
    for side in ("requests", "limits"):
        amounts = resources.get(side)
        if amounts:
            resources[side] = {name: amount for name, amount in amounts.items() if name not in _VARIABLES}


def leave_out(spec: Json, request: dict[str, int]) -> None:
    """Take the shares out of what a worker with this pod spec needs of its node.

    Raises:
        InputError: a share that is none; refused here, where the job is read.
    """
    variables_of((spec.get("containers") or [{}])[0])
    for name in _VARIABLES:
        request.pop(name, None)
