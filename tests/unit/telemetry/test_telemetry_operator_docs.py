"""Metrics and flags of the operator, and the pages that document them, agree both ways."""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from supernode.commands import operator
from supernode.telemetry import logs
from supernode.telemetry.metrics import OPERATOR_METRICS, OperatorMetrics

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "operator.md").read_text()


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    page = (DOCS / "metrics.md").read_text().split("## Emulator")[0]
    documented = {
        name: (kind.strip(), tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(supernode_\w+)` \| (\w+) \|[^|]+\|([^|]*)\|", page, re.MULTILINE)
    }
    table = {
        metric.name + ("_total" if metric.kind == "counter" else ""): (metric.kind, metric.labels)
        for metric in OPERATOR_METRICS
    }
    assert documented == table


def test_every_metric_is_really_measured() -> None:
    room = Path(__file__).parents[3] / "operator" / "supernode" / "handlers"
    code = "".join(path.read_text() for path in room.glob("*.py"))
    assert [metric.name for metric in OPERATOR_METRICS if f'"{metric.name}"' not in code] == []


def test_every_flag_is_documented_and_every_documented_one_exists() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    operator.configure(parser)
    flags = {option for action in parser._actions for option in action.option_strings}
    assert flags == set(re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE))


def test_metrics_live_on_the_registry_that_is_passed_in() -> None:
    first, second = OperatorMetrics(CollectorRegistry()), OperatorMetrics(CollectorRegistry())
    first.count("supernode_placements", "dcu")
    first.gauge("supernode_pool_devices", 8, "dcu", "free")
    first.observe("supernode_cycle_seconds", 0.01)
    assert 'supernode_placements_total{pool="dcu"} 1.0' in first.text().decode()
    assert 'supernode_placements_total{pool="dcu"}' not in second.text().decode()
    first.clear("supernode_pool_devices")
    assert "dcu" not in re.sub("placements.*", "", first.text().decode())


@pytest.fixture
def root_logger() -> object:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_of_the_log_is_json_with_the_ids_it_is_about(root_logger: object) -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    with logs.bound(cycle="7"), logs.bound(job="a/b"):
        logging.getLogger("x").info("placed %d workers", 4)
    logging.getLogger("x").info("later")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["cycle"], first["job"], first["level"]) == ("placed 4 workers", "7", "a/b", "info")
    assert "job" not in second
