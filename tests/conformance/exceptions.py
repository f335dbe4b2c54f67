"""Where the embedded server answers differently from kube-apiserver, and why that is accepted.

A difference that stands here is allowed; one that stands here and does not occur any more fails the suite.
`scenario` and `path` are shell patterns; `path` is a JSON pointer into the answer (`/body/...`, `/status`,
`/warnings`) and covers what is below it. `step` is the index of the request, None for every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Accepted:
    """One accepted difference."""

    scenario: str
    step: int | None
    path: str
    reason: str

    def covers(self, scenario: str, step: int, difference: str) -> bool:
        """Whether it explains a difference (as `normal.differences` words it)."""
        where = difference.partition(": ")[0]
        here = fnmatchcase(scenario, self.scenario) and self.step in (None, step)
        return here and (fnmatchcase(where, self.path) or fnmatchcase(where, f"{self.path}/*"))


_ACCOUNT = "the real engine runs without the ServiceAccount admission plugin, which writes the account's name"
_PROTO = "the real server turns an empty list into null on its way through etcd"
_CHECKS = "checked less deeply: nothing in a local cluster acts on it"

_CEL = "cel-python reads expressions without types: it words syntax errors itself and finds wrong fields when they run"
_GO = "a Go dump of the value, or of what the server calls it inside"
_ACCESSOR = "a wrong type is said once, not again by the printer of `scale`"
_DIRECTIVE = "the real server answers 500 to a malformed strategic patch; ours says what is wrong with it (400)"

EXCEPTIONS: tuple[Accepted, ...] = (
    Accepted("*", None, "/body*/spec/serviceAccount*", _ACCOUNT),
    Accepted("create", 5, "/body*/message", "says the longest length first"),
    Accepted("read", 12, "/body/message", "protobuf is read but not written, so it is not offered"),
    Accepted("kind-v1-limitranges", None, "/body*/spec/limits", _PROTO),
    Accepted(
        "kind-v1-persistentvolumeclaims", None, "/body*/metadata/finalizers", "nothing here would take it off again"
    ),
    Accepted("kind-apps-v1-controllerrevisions", None, "/body*/message", "worded by the schema, not by the kind"),
    Accepted("kind-batch-v1-jobs", 3, "/body/*", _CHECKS),
    Accepted("kind-discovery*", None, "/body*", _PROTO),
    Accepted("pod-defaults", 6, "/body*/message", "the schema lists the choices in alphabetical order"),
    Accepted("kind-rbac*roles", None, "/body*/rules", _PROTO),
    Accepted("kind-rbac*roles", None, "/body*/managedFields", _PROTO),
    Accepted("pod-life", None, "/body*/message", "the real message ends with a Go dump of both specs"),
    Accepted(
        "nodes", None, "/body*/taints", "a cordoned node is tainted at once; a real cluster's node controller does it"
    ),
    Accepted(
        "patch-json", 20, "*", "a patch to another kind is refused for that (400), not for what then fails to decode"
    ),
    Accepted("crd-definitions", 19, "/body*/message", "the regular expression library words its own errors"),
    Accepted("crd-definitions", 20, "*", _CEL),
    Accepted("crd-definitions", 21, "/body*/message", _CEL),
    Accepted("crd-definitions", 22, "/body/*", _GO),
    Accepted("crd-definitions", 23, "/body/*", "the paths of `scale` are judged by version, and in other words"),
    *(Accepted("custom-objects", step, "/body/*", _ACCESSOR) for step in (12, 13, 14, 17)),
    Accepted("custom-objects", 41, "/warnings", "another version's fields are not looked at once it is refused"),
    Accepted("custom-changes", 11, "/body/*", _ACCESSOR),
    *(Accepted("patch-strategic", step, "*", _DIRECTIVE) for step in (5, 10, 18)),
    *(Accepted("patch-strategic", step, "/body*/message", _GO) for step in (15, 16, 17)),
    Accepted("patch-apply", 14, "*", "the name is compared before the fields"),
    Accepted(
        "scales", 7, "/body/metadata/managedFields", "no replicas are owned, where the real server forgets the owner"
    ),
    Accepted("event-views", 10, "/body/metadata/managedFields", "the owner of the other form's fields is kept"),
    Accepted("garbage", 14, "/body/metadata/managedFields", "owners taken off by the collector leave their manager"),
)
