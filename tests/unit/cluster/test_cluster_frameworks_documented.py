"""docs/frameworks.md and the code agree both ways: every framework, every variable, every example value."""

import re
from pathlib import Path

from supernode.cluster.rendezvous import Gang, frameworks, variables

PAGE = (Path(__file__).parents[3] / "docs" / "frameworks.md").read_text(encoding="utf-8")


def documented() -> dict[str, dict[str, str]]:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    rows = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
    return {section.splitlines()[0]: dict(rows.findall(section)) for section in sections}


def test_the_page_says_what_the_operator_sets() -> None:
    gang = Gang(job="gpt", namespace="team-a", workers=2, devices=8)
    assert documented() == {name: dict(variables(name, gang, 1)) for name in frameworks()}
