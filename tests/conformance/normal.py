"""Answers with everything taken out that differs from run to run: uids, times, versions, generated names, addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_AGE = re.compile(r"\d+[sd]")
_CLUSTER_IP = re.compile(r"10(\.\d+){3}")
_VERSIONS = frozenset({"resourceVersion"})
_ADDRESSES = frozenset({"clusterIP", "clusterIPs"})
_HASHES = frozenset({"storageVersionHash"})  # of names that hold the scenario's own namespace


class Normal:
    """Normalises the answers of one scenario.

    Args:
        namespace: the scenario's own, written as NAMESPACE.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def text(self, value: str) -> str:
        """A string."""
        value = _TIME.sub("TIME", _UID.sub("UID", value.replace(self._namespace, "NAMESPACE")))
        value = re.sub(r"(resource version: )\d+( \(\d+\))?", r"\1N", value)
        value = re.sub(r"(ResourceVersion in record )\(\d+\)", r"\1(N)", value)
        # What a patch left of an object is said in the server's own order of fields.
        value = re.sub(r'(Invalid value: "\{).*(\}": )', r"\1...\2", value, flags=re.S)
        # What a decoder says about text that it cannot read is its own; that it refuses, and which kind, is not.
        value = re.sub(
            r"(json: cannot unmarshal|json parse error: |illegal base64 data|converting |"
            r'error (?:encoding|decoding) patch: |no kind ").*',
            r"\1 ...",
            value,
            flags=re.S,
        )
        return re.sub(r"(gen-|Bad_Name-)[a-z0-9]{5}\b", r"\1RANDOM", value)

    def _cell(self, value: Any) -> Any:
        if isinstance(value, str) and _AGE.fullmatch(value):
            return "AGE"
        return "ADDRESS" if isinstance(value, str) and _CLUSTER_IP.fullmatch(value) else value

    def value(self, value: Any, key: str = "") -> Any:
        """Any JSON value; `key` is what it stands under."""
        if isinstance(value, Mapping):
            return {self.text(name): self.value(each, name) for name, each in value.items()}
        if isinstance(value, list):
            if key == "cells":
                value = [self._cell(each) for each in value]
            if key == "managedFields":
                value = sorted(
                    value, key=lambda each: (each["manager"], each["operation"], each.get("subresource", ""))
                )
            return [self.value(each, key) for each in value]
        if isinstance(value, str):
            if key in _VERSIONS and value.isdigit():
                return "VERSION"
            if key in _ADDRESSES and re.match(r"10\.", value):
                return "ADDRESS"
            return "HASH" if key in _HASHES else self.text(value)
        return value


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two JSON values differ: `path: left != right`, deepest first seen."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in sorted(left.keys() | right.keys()):
            where = f"{path}/{key}"
            if key not in left:
                found.append(f"{where}: absent != {_short(right[key])}")
            elif key not in right:
                found.append(f"{where}: {_short(left[key])} != absent")
            else:
                found += differences(left[key], right[key], where)
        return found
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            each
            for index, pair in enumerate(zip(left, right, strict=True))
            for each in differences(*pair, f"{path}/{index}")
        ]
    return [] if left == right and type(left) is type(right) else [f"{path}: {_short(left)} != {_short(right)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 400 else text[:400] + "..."
