"""The CRDs: structural, described, bounded, the same as the files, and every field documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernode import generate
from supernode.api import KINDS, ConditionType, crds
from supernode.api.crd import crd
from supernode.cli import main

ROOT = Path(__file__).parents[3]
# Held a second time, by hand: what users meet.
NAMES = {
    "AcceleratorPool": ("acceleratorpools", "apool", "Cluster"),
    "SuperNodeGroup": ("supernodegroups", "sng", "Cluster"),
    "TrainingJob": ("trainingjobs", "tjob", "Namespaced"),
}
JOB_COLUMNS = ["State", "Ready", "Pool", "Domain", "MFU", "Age"]


def _schema(kind: str) -> dict[str, Any]:
    (found,) = (item for item in crds() if item["spec"]["names"]["kind"] == kind)
    schema: dict[str, Any] = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            yield from _walk(node[keyword], f"{path}[]")


def test_names_scopes_and_columns() -> None:
    found = {}
    for item in crds():
        names = item["spec"]["names"]
        found[names["kind"]] = (names["plural"], names["shortNames"][0], item["spec"]["scope"])
        assert item["metadata"]["name"] == f"{names['plural']}.supernode.dev"
    assert found == NAMES
    columns = crd(KINDS[2])["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == JOB_COLUMNS


@pytest.mark.parametrize("kind", NAMES)
def test_schemas_are_structural_and_described(kind: str) -> None:
    for path, node in _walk(_schema(kind)):
        assert "type" in node, path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "title"} & set(node), path
        if "." in path and not path.startswith((".metadata", ".apiVersion", ".kind")) and not path.endswith("[]"):
            assert node.get("description", "").endswith("."), path


@pytest.mark.parametrize("kind", NAMES)
def test_everything_that_users_write_is_bounded(kind: str) -> None:
    for path, node in _walk(_schema(kind)["properties"]["spec"], ".spec"):
        bound = {"array": "maxItems", "string": "maxLength", "integer": "maximum", "number": "maximum"}.get(
            node["type"]
        )
        if bound and "enum" not in node and ".template.metadata." not in path:
            assert bound in node, path


def test_the_status_has_no_defaults() -> None:
    for kind in NAMES:
        for path, node in _walk(_schema(kind)["properties"]["status"], ".status"):
            assert "default" not in node, path


def test_every_condition_type_is_documented() -> None:
    described = " ".join(
        _schema(kind)["properties"]["status"]["properties"]["conditions"]["description"] for kind in NAMES
    )
    for condition in ConditionType:
        assert condition in described


def test_the_files_are_up_to_date() -> None:
    assert generate.main(["--check"]) == 0


def test_check_names_what_is_stale_missing_or_left_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--check", "--root", str(tmp_path)]) == 0
    stale = tmp_path / "crds/supernode.dev_trainingjobs.yaml"
    stale.write_text(stale.read_text() + "# edited by hand\n")
    (tmp_path / "docs/names.md").unlink()
    (tmp_path / "charts/supernode/crds/old.yaml").write_text("x: y\n")
    capsys.readouterr()
    assert generate.main(["--check", "--root", str(tmp_path)]) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        "crds/supernode.dev_trainingjobs.yaml",
        "docs/names.md",
        "charts/supernode/crds/old.yaml",
    ]
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--check", "--root", str(tmp_path)]) == 0


def test_every_field_is_in_the_reference_and_nothing_else() -> None:
    fields = {
        path.removeprefix(".").removesuffix("[]")
        for kind in NAMES
        for section in ("spec", "status")
        for path, _ in _walk(_schema(kind)["properties"][section])
        if path
    }
    listed = re.findall(r"^- `([^`]+)`\?? \(", generate.api_reference(), re.MULTILINE)
    assert {path.removesuffix("[]") for path in listed} == fields


def test_every_name_is_in_the_list_of_names() -> None:
    from supernode import names

    text = generate.names_reference((ROOT / "operator/supernode/names.py").read_text())
    for constant, value in vars(names).items():
        if constant.startswith(("LABEL_", "ANNOTATION_", "ENV_", "PORT_")):
            assert f"| `{value}` | " in text, constant
    assert "noqa" not in text


def test_the_command_prints_what_can_be_applied(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == crds()
    assert main(["crds", "tjob"]) == 0
    (only,) = yaml.safe_load_all(capsys.readouterr().out)
    assert only["spec"]["names"]["kind"] == "TrainingJob"
