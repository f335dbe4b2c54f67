"""`supernode crds`: the custom resource definitions as YAML, ready for `kubectl apply -f -`."""

from __future__ import annotations

import argparse

import yaml

from supernode.api import KINDS
from supernode.api.crd import crd


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    names = sorted(name for kind in KINDS for name in (kind.plural, kind.short))
    parser.add_argument("kind", nargs="*", choices=[*names, []], metavar="KIND", help=f"only these: {', '.join(names)}")


def run(args: argparse.Namespace) -> int:
    """Print the CRDs asked for, or all."""
    wanted = set(args.kind)
    for kind in KINDS:
        if not wanted or wanted & {kind.plural, kind.short}:
            print(f"---\n{to_yaml(crd(kind))}", end="")
    return 0


def to_yaml(document: object) -> str:
    """One YAML document in a stable form: keys in the order given, lines of at most 120 characters."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes equal lists and mappings out in full instead of by reference."""

    def ignore_aliases(self, data: object) -> bool:
        """Never use anchors."""
        del data
        return True
