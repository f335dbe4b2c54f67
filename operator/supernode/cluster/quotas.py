"""Quotas and promised compute between the API's TFLOPS and the scheduler's whole MFLOP/s."""

from __future__ import annotations

from supernode.api.pool import Quota as QuotaModel
from supernode.cluster.kinds import Json
from supernode.scheduling.promise import PER_TFLOPS
from supernode.scheduling.quota import Quota


def quota_of(quota: QuotaModel) -> Quota:
    """A quota as the scheduler sees it."""
    limit = quota.limit_tflops
    return Quota(
        quota.namespace,
        quota.guaranteed,
        quota.limit,
        round(quota.guaranteed_tflops * PER_TFLOPS),
        None if limit is None else round(limit * PER_TFLOPS),
    )


def promised_json(promised: tuple[tuple[str, int], ...]) -> Json:
    """The part of `status.placement` that says what the place promises; empty where that is not known."""
    if not promised:
        return {}
    return {"promised": [{"pool": pool, "tflops": compute / PER_TFLOPS} for pool, compute in promised]}


def promised_of(status: Json) -> tuple[tuple[str, int], ...]:
    """The inverse of `promised_json`.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError: a status that nobody can have written.
    """
    listed = status.get("promised") or []
    return tuple((str(each["pool"]), max(0, round(float(each["tflops"]) * PER_TFLOPS))) for each in listed)
