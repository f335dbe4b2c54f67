"""Answers for programs: values as JSON or YAML. Apart from `terminal`, since the emulator's image has no YAML."""

from __future__ import annotations

import json
from typing import Final

import yaml

#: What `-o` takes.
FORMATS: Final = ("table", "json", "yaml")


def document(facts: object, form: str) -> str:
    """Values as JSON or YAML, in ASCII: control characters are written out."""
    if form == "yaml":
        return str(yaml.safe_dump(facts, sort_keys=False, allow_unicode=False)).rstrip("\n")
    return json.dumps(facts, indent=2).replace("\x7f", "\\u007f")
