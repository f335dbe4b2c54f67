"""The chart's alerts, dashboard and monitors: off by default, and every metric and label in them is one we export.

Labels that Prometheus adds to what it scrapes are held here by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernode.emulator.metrics import METRICS
from supernode.telemetry.metrics import OPERATOR_METRICS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/supernode"
Json = dict[str, Any]
ON = {"metrics": {name: {"create": True} for name in ("serviceMonitor", "podMonitor", "alerts", "dashboard")}}
# Prometheus' own, of the target.
TARGET = {"pod", "namespace"}


def exported() -> dict[str, set[str]]:
    """Every series that can be asked for, with its labels."""
    found: dict[str, set[str]] = {}
    rows = [(row.name, row.kind, row.labels) for row in OPERATOR_METRICS]
    rows += [(name, row.kind, row.labels) for name, row in METRICS.items()]
    for name, kind, labels in rows:
        if kind == "histogram":
            found |= {f"{name}_sum": set(labels), f"{name}_count": set(labels), f"{name}_bucket": {*labels, "le"}}
        else:
            found[f"{name}_total" if kind == "counter" else name] = set(labels)
    return found


def alerts() -> list[Json]:
    groups = yaml.safe_load((CHART / "alerts/supernode.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> Json:
    found: Json = json.loads((CHART / "dashboards/supernode.json").read_text())
    return found


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where, expression, and the text that shows its labels."""
    for rule in alerts():
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"], ""


def wrong(expression: str, shown: str) -> list[str]:
    """Metrics and labels in an expression that nothing exports, and labels that are shown but summed away."""
    series = exported()
    named = re.findall(r"\bsupernode_\w+", expression)
    found = [name for name in named if name not in series]
    known = set().union(*(series.get(name, set()) for name in named), TARGET)
    for name, matchers in re.findall(r"(supernode_\w+)\{([^}]*)\}", expression):
        asked = set(re.findall(r"(\w+)\s*[=!]~?=?\s*\"", matchers))
        found += sorted(asked - series.get(name, set()) - TARGET)
    kept = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    grouped = {label.strip() for part in kept for label in part.split(",") if label.strip()}
    found += sorted(grouped - known)
    said = set(re.findall(r"\$labels\.(\w+)", shown)) | set(re.findall(r"\{\{(\w+)\}\}", shown))
    return found + sorted(said - grouped)


@pytest.mark.parametrize(("where", "expression", "shown"), list(expressions()), ids=lambda value: str(value)[:40])
def test_every_metric_and_label_is_one_we_export(where: str, expression: str, shown: str) -> None:
    assert "supernode_" in expression
    assert wrong(expression, shown) == [], where
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize(
    ("expression", "shown", "found"),
    [
        ("supernode_job_mfu", "", ["supernode_job_mfu"]),
        ("sum(supernode_restarts)", "", ["supernode_restarts"]),
        ('max(supernode_pool_devices{status="free"})', "", ["status"]),
        ("sum by (node) (supernode_pool_devices)", "", ["node"]),
        ("sum(supernode_pool_devices)", "{{ $labels.pool }}", ["pool"]),
    ],
)
def test_the_check_can_fail(expression: str, shown: str, found: list[str]) -> None:
    assert wrong(expression, shown) == found


def test_every_metric_of_the_operator_is_to_be_seen() -> None:
    asked = " ".join(expression for _, expression, _ in expressions())
    unseen = [row.name for row in OPERATOR_METRICS if row.name not in asked]
    # Rates that only somebody who looks for a fault wants.
    assert unseen == [
        "supernode_cycles",
        "supernode_pods_created",
        "supernode_pods_deleted",
        "supernode_watch_restarts",
    ]


def test_every_alert_is_documented_and_every_documented_one_exists() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    documented = dict(re.findall(r"^\| `(Supernode\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert documented == {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "description"}


def test_panels_do_not_overlap_and_are_explained() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["fieldConfig"]["defaults"]["unit"])


def render(values: Json) -> list[Json]:
    helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk")
    text = helm.Chart.load(CHART).render(values, name="supernode", namespace="supernode-system")
    return [obj for path, body in text.items() if path.endswith(".yaml") for obj in yaml.safe_load_all(body) if obj]


@pytest.mark.helm
def test_they_are_off_by_default_and_whole_when_asked_for() -> None:
    monitoring = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"}
    assert not monitoring & {obj["kind"] for obj in render({})}
    values = {"metrics": {**ON["metrics"], "alerts": {"create": True, "labels": {"release": "mine"}}}}
    objects = {obj["kind"]: obj for obj in render(values)}
    assert monitoring <= set(objects)
    (endpoint,) = objects["ServiceMonitor"]["spec"]["endpoints"]
    service = objects["Service"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    wanted = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    # Our `namespace` and `job` are the training job's; without this Prometheus renames them.
    assert endpoint["honorLabels"] is True
    rule = objects["PrometheusRule"]
    assert rule["metadata"]["labels"]["release"] == "mine"
    assert [entry for group in rule["spec"]["groups"] for entry in group["rules"]] == alerts()
    config = objects["ConfigMap"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["supernode.json"]) == dashboard()
    assert objects["PodMonitor"]["spec"]["namespaceSelector"] == {"any": True}


@pytest.mark.helm
def test_a_monitor_without_a_service_is_refused() -> None:
    import helm_python

    with pytest.raises(helm_python.HelmError, match=r"metrics\.serviceMonitor needs metrics\.service"):
        render({"metrics": {"service": False, "serviceMonitor": {"create": True}}})
