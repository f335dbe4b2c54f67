"""What containers have and processes lack, made up for by replacing text: mounts, and names of pods.

In: text (an environment value, an argument, a configuration file), the real directories of mount paths, and a function
that gives addresses to names. Out: the text to use. Pure. These are the two listed differences between the local
cluster and containers (see docs/local-cluster.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
# <hostname>.<subdomain>.<namespace>.svc[.cluster.local][.], not inside a longer name.
_POD_NAME = re.compile(
    rf"(?<![-.\w])({_LABEL})\.({_LABEL})\.({_LABEL})\.svc(?:\.cluster\.local)?(?![-\w]|\.\w)", re.ASCII
)
# $(NAME) is replaced, $$(NAME) stands for the text $(NAME): Kubernetes' rule.
_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z0-9]+)\))")


class PathMap:
    """Replaces mount paths, wherever they stand as whole path prefixes, by real directories.

    Args:
        directories: mount path -> real path.
    """

    def __init__(self, directories: Mapping[str, str]) -> None:
        self._real = {path.rstrip("/"): real for path, real in directories.items() if path.rstrip("/")}
        # The longest first, so that a mount inside a mount wins.
        paths = sorted(self._real, key=len, reverse=True)
        # Not after a character that could belong to a longer path, and only up to the end of a path component.
        self._pattern = re.compile(rf"(?<![\w./~-])({'|'.join(map(re.escape, paths))})(?![\w.~-])") if paths else None

    def apply(self, text: str) -> str:
        """The text with all mount paths replaced."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._real[match.group(1)], text)


def replace_pod_names(text: str, address: Callable[[str, str, str], str]) -> str:
    """Replace pods' DNS names by addresses; `address(hostname, subdomain, namespace)` reserves on first use."""
    if ".svc" not in text:
        return text
    return _POD_NAME.sub(lambda match: address(*match.groups()), text)


def expand_references(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' ``$(NAME)``: known names are replaced, unknown ones stay as they are, ``$$`` escapes."""

    def value(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return variables.get(match.group(2), match.group(0))

    return _REFERENCE.sub(value, text)
