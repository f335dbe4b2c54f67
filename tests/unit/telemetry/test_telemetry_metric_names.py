"""Names, units and help of all metrics, as Prometheus' conventions and its `promtool check metrics` have them.

The rules are held here by themselves: https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from supernode.emulator.metrics import METRICS
from supernode.telemetry.metrics import OPERATOR_METRICS, OperatorMetrics


class Row(NamedTuple):
    """One metric as it is shown."""

    name: str
    kind: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()


ROWS = [Row(row.name, row.kind, row.unit, row.help, row.labels) for row in OPERATOR_METRICS]
ROWS += [Row(name, row.kind, row.unit, row.help, row.labels) for name, row in METRICS.items()]
# What the table may call a counter without `_total`: prometheus_client adds it.
SHOWN = [row._replace(name=f"{row.name}_total") if row.kind == "counter" else row for row in ROWS]
BASE_UNITS = ("seconds", "bytes", "ratio")
# Scaled units are not base units. TFLOPS stays: people compare it with data sheets and quotas, which say it so.
SCALED = re.compile(
    r"_(?:(?:milli|micro|nano|kilo|mega|giga|tera|kibi|mebi|gibi)\w+|(?:ms|us|ns|minutes|hours|days|percent)(?:_|$))"
)


def faults(row: Row) -> list[str]:
    """What is wrong with a metric."""
    found = []
    if not re.fullmatch(r"supernode_[a-z][a-z0-9_]*", row.name) or "__" in row.name:
        found.append("name")
    if not row.help.strip() or row.help == row.name:
        found.append("help")
    if not row.unit:
        found.append("unit")
    if (row.kind == "counter") != row.name.endswith("_total"):
        found.append("total")
    if row.name.endswith(("_count", "_sum", "_bucket")) or "le" in row.labels:
        found.append("reserved")
    if re.search(r"_(gauge|counter|histogram|summary)(_|$)", row.name):
        found.append("type")
    if SCALED.search(row.name):
        found.append("scaled")
    if row.name.endswith("_info") and row.kind != "gauge":
        found.append("info")
    stem = row.name.removesuffix("_total")
    ending = next((unit for unit in BASE_UNITS if stem.endswith(f"_{unit}")), None)
    if ending != (row.unit if row.unit in BASE_UNITS else None):
        found.append("suffix")
    if any(label != label.lower() or stem.endswith(f"_by_{label}") for label in row.labels):
        found.append("label")
    return found


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row.name)
def test_name_unit_and_help_are_as_prometheus_wants_them(row: Row) -> None:
    assert faults(row) == []


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (Row("supernode_jobs", "counter", "jobs", "Jobs."), "total"),
        (Row("supernode_jobs_total", "gauge", "jobs", "Jobs."), "total"),
        (Row("supernode_wait_milliseconds", "gauge", "seconds", "Wait."), "scaled"),
        (Row("supernode_wait", "gauge", "seconds", "Wait."), "suffix"),
        (Row("supernode_mfu", "gauge", "ratio", "MFU."), "suffix"),
        (Row("supernode_jobs_count", "gauge", "jobs", "Jobs."), "reserved"),
        (Row("supernode_jobs", "gauge", "jobs", ""), "help"),
        (Row("supernode_jobs_gauge", "gauge", "jobs", "Jobs."), "type"),
        (Row("supernode_memory_bytes", "gauge", "", "Memory."), "unit"),
    ],
)
def test_the_check_can_fail(row: Row, fault: str) -> None:
    assert fault in faults(row)


def test_what_is_served_is_what_the_table_says() -> None:
    table = {row.name: (row.kind, row.help) for row in OPERATOR_METRICS}
    metrics = OperatorMetrics(CollectorRegistry())
    for row in OPERATOR_METRICS:
        values = ("x",) * len(row.labels)
        if row.kind == "counter":
            metrics.count(row.name, *values)
        elif row.kind == "gauge":
            metrics.gauge(row.name, 1, *values)
        else:
            metrics.observe(row.name, 1)
    served = {
        family.name: (family.type, family.documentation)
        for family in text_string_to_metric_families(metrics.text().decode())
        if not family.name.endswith("_created") or family.name in table
    }
    assert served == table
