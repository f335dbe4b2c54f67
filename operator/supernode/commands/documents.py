"""Answers for programs: values as JSON or YAML. The emulator's image has no YAML: it is loaded when it is asked for."""

from __future__ import annotations

import json
from typing import Final

from supernode.errors import InputError

#: What `-o` takes.
FORMATS: Final = ("table", "json", "yaml")


def document(facts: object, form: str) -> str:
    """Values as JSON or YAML, in ASCII: control characters are written out.

    Raises:
        InputError: YAML is asked for, and not installed.
    """
    if form == "yaml":
        try:
            import yaml
        except ImportError as exc:
            raise InputError(f"yaml needs the package PyYAML, json does not ({exc})", field="--output") from exc
        return str(yaml.safe_dump(facts, sort_keys=False, allow_unicode=False)).rstrip("\n")
    return json.dumps(facts, indent=2).replace("\x7f", "\\u007f")
