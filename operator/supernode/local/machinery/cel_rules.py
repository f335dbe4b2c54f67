"""CEL rules of a CRD (`x-kubernetes-validations`): compiled once, evaluated on the values they stand at.

Flows in: a rule as JSON; a value, its old value and the schema of both. Flows out: causes. The language is cel-
python's; what Kubernetes adds to it stands in `cel_library`. Values reach a rule as the schema declares them (an
integer in a `number` field is a double, a `date-time` a timestamp), with names that CEL reserves escaped
(`__namespace__`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import celpy
from celpy import celtypes

from supernode.local.machinery import cel_library
from supernode.local.machinery.refusals import DUPLICATE, FORBIDDEN, INVALID, NOT_SUPPORTED, REQUIRED, Cause
from supernode.local.machinery.schema import ANY, Schema

MISSING: Final = object()
REASONS: Final = {
    INVALID: "Invalid value: ",
    FORBIDDEN: "Forbidden: ",
    REQUIRED: "Required value: ",
    DUPLICATE: "Duplicate value: ",
}
_RESERVED: Final = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_IDENTIFIER: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_CHAIN: Final = re.compile(r"\b(?:self|oldSelf)\b((?:\.[A-Za-z_][A-Za-z0-9_]*)*)(\()?")
_MAX_MESSAGE: Final = 2048
# Python's words -> CEL's.
_ZERO_DIVISIONS: Final = {
    "integer modulo by zero": "modulus by zero",
    "integer division or modulo by zero": "division by zero",
}


# Which fields expressions read, as a tree of names; None (at any node): everything below.
Reads = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Rule:
    """One compiled rule; `run` and `say` take the variables and give a CEL value or raise `celpy.CELEvalError`."""

    text: str
    message: str
    reason: str
    field_path: str
    transition: bool
    optional_old: bool
    run: Callable[[dict[str, Any]], Any]
    say: Callable[[dict[str, Any]], Any] | None
    reads: Reads | None

    def cause(self, path: str, variables: dict[str, Any]) -> Cause:
        """Why the value at `path` is refused."""
        message = self.message or f"failed rule: {' '.join(self.text.split())}"
        if self.say is not None:
            try:
                said = self.say(variables)
                if isinstance(said, str) and said.strip() and "\n" not in said.strip() and len(said) <= _MAX_MESSAGE:
                    message = str(said).strip()
            except (celpy.CELEvalError, TypeError, ValueError, KeyError, AttributeError):
                pass  # the plain message says it
        shown = variables["self"] if self.reason == INVALID else None
        if isinstance(shown, (str, int, float)):
            # Simple values are shown, objects and lists are not.
            message = f"{json.dumps(shown)}: {message}"
        return Cause(self.reason, REASONS[self.reason] + message, path + self.field_path)


def compile_rule(facts: Any, path: str, schema: Schema) -> tuple[Rule | None, list[Cause]]:
    """A rule at a value of `schema`, and what is wrong with it (then the rule is None)."""
    if not isinstance(facts, dict) or not str(facts.get("rule", "")).strip():
        return None, [Cause(REQUIRED, "Required value: rule is not specified", f"{path}.rule")]
    causes = []
    reason = facts.get("reason") or INVALID
    if reason not in REASONS:
        listed = ", ".join(f'"{name}"' for name in (DUPLICATE, FORBIDDEN, INVALID, REQUIRED))
        causes.append(
            Cause(NOT_SUPPORTED, f'Unsupported value: "{reason}": supported values: {listed}', f"{path}.reason")
        )
    message = str(facts.get("message") or "").strip()
    if "\n" in message:
        why = f"Invalid value: {json.dumps(message)}: must not contain line breaks"
        causes.append(Cause(INVALID, why, f"{path}.message"))
    text = facts["rule"]
    run = say = None
    try:
        _require_fields(text, schema)
        run = _program(text)
    except ValueError as exc:
        causes.append(Cause(INVALID, f"Invalid value: {_shown(facts)}: compilation failed: {exc}", f"{path}.rule"))
    expression = facts.get("messageExpression")
    if expression:
        try:
            _require_fields(expression, schema)
            say = _program(expression)
        except ValueError as exc:
            why = f"Invalid value: {_shown(facts)}: messageExpression compilation failed: {exc}"
            causes.append(Cause(INVALID, why, f"{path}.messageExpression"))
    if causes or run is None:
        return None, causes
    transition = bool(re.search(r"\boldSelf\b", text))
    optional = bool(facts.get("optionalOldSelf"))
    field_path = facts.get("fieldPath") or ""
    reads = _reads(f"{text} {expression or ''}")
    return Rule(text, message, reason, field_path, transition, optional, run, say, reads), []


def _reads(text: str) -> Reads | None:
    """The fields of self and oldSelf that an expression names, so that nothing else has to be converted."""
    tree: Reads = {}
    for match in _CHAIN.finditer(cel_library.rewrite(text)):
        names = match.group(1).split(".")[1:]
        if match.group(2):
            names = names[:-1]  # the last one is a method
        if not names:
            return None
        node = tree
        for name in names[:-1]:
            below = node.setdefault(name, {})
            if below is None:
                break
            node = below
        else:
            node[names[-1]] = None
    return tree


def _union(trees: list[Reads | None]) -> Reads | None:
    """Everything that any of the trees names."""
    if any(tree is None for tree in trees):
        return None
    names = {name for tree in trees for name in tree or ()}
    return {name: _union([tree[name] for tree in trees if tree is not None and name in tree]) for name in names}


def _shown(facts: dict[str, Any]) -> str:
    """A rule as the real server shows it."""
    shown = {
        "Rule": facts["rule"],
        "Message": facts.get("message", ""),
        "MessageExpression": facts.get("messageExpression", ""),
        "Reason": facts.get("reason"),
        "FieldPath": facts.get("fieldPath", ""),
        "OptionalOldSelf": facts.get("optionalOldSelf"),
    }
    return json.dumps(shown, separators=(",", ":"))


def _require_fields(text: str, schema: Schema) -> None:
    """Refuse an expression that names a field of self which the schema does not declare.

    Raises:
        ValueError: an undefined field.
    """

    def visit(reads: Reads | None, at: Schema) -> None:
        known = {escaped(name): child for name, child in at.properties.items()}
        for name, below in (reads or {}).items():
            child = known.get(name) or at.additional
            if child is None and at.type == "object":
                raise ValueError(f"ERROR: undefined field '{name}' in: {text}")
            if child is not None and not (child.source and child.open):
                visit(below, child)

    visit(_reads(text), schema)


# Levels of the grammar that only pass on the value of their one child.
_PASSING: Final = frozenset(
    ("expr", "conditionalor", "conditionaland", "relation", "addition", "multiplication", "unary")
)


def _collapsed(tree: Any) -> Any:
    """The syntax tree without the levels that do nothing: the interpreter walks every level for every literal."""
    children = getattr(tree, "children", None)
    if children is None:
        return tree
    if len(children) == 1 and tree.data in _PASSING and hasattr(children[0], "children"):
        return _collapsed(children[0])
    tree.children = [_collapsed(child) for child in children]
    return tree


def _program(text: str) -> Callable[[dict[str, Any]], Any]:
    """Compile an expression.

    Raises:
        ValueError: it is not CEL.
    """
    environment = celpy.Environment(runner_class=celpy.InterpretedRunner)
    try:
        tree = environment.compile(cel_library.rewrite(text))
        program = environment.program(_collapsed(tree), functions=cel_library.functions())
    except celpy.CELParseError as exc:
        raise ValueError(f"syntax error: {exc.args[0] if exc.args else exc}".splitlines()[0]) from exc
    run: Callable[[dict[str, Any]], Any] = program.evaluate
    return run


def evaluate(schema: Schema, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
    """Append a cause for every rule of `schema` (not of what is below) that `value` breaks."""
    has_old = old is not MISSING
    needed = [r for r in schema.rules if not r.transition or has_old or r.optional_old]
    if not needed:
        return
    reads = _union([rule.reads for rule in needed])
    variables: dict[str, Any] = {"self": to_cel(schema, value, reads)} | cel_library.VARIABLES
    before = to_cel(schema, old, reads) if has_old else None
    for rule in needed:
        if rule.transition:
            variables["oldSelf"] = cel_library.OptionalValue(before) if rule.optional_old else before
        try:
            result = rule.run(variables)
        except celpy.CELEvalError as exc:
            causes.append(_failed(rule, schema, path, exc))
            continue
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
            causes.append(_failed(rule, schema, path, exc))
            continue
        if isinstance(result, celpy.CELEvalError):
            causes.append(_failed(rule, schema, path, result))
        elif not isinstance(result, (bool, celtypes.BoolType)) or not result:
            causes.append(rule.cause(path, variables))


def _failed(rule: Rule, schema: Schema, path: str, exc: Exception) -> Cause:
    why = str(exc.args[0]) if exc.args else str(exc)
    if len(exc.args) > 2 and isinstance(exc.args[2], tuple) and exc.args[2]:
        why = str(exc.args[2][0])  # what a function of the library said
    why = _ZERO_DIVISIONS.get(why, why)
    kind = schema.type or "object"
    text = " ".join(rule.text.split())
    return Cause(INVALID, f'Invalid value: "{kind}": {why} evaluating rule: {rule.message or text}', path)


def escaped(name: str) -> str | None:
    """The name of a property inside CEL; None when CEL cannot name it."""
    if name in _RESERVED:
        return f"__{name}__"
    text = name.replace("__", "__underscores__") if "__" in name else name
    text = text.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")
    return text if _IDENTIFIER.fullmatch(text) else None


def to_cel(schema: Schema, value: Any, reads: Reads | None = None) -> Any:
    """A JSON value as the CEL value that its schema declares; only what `reads` names, if given."""
    if isinstance(value, dict):
        result = celtypes.MapType()
        properties = schema.properties
        for name, item in value.items():
            child = properties.get(name)
            key = name if child is None else escaped(name)
            if key is None or (reads is not None and key not in reads):
                continue
            below = None if reads is None else reads[key]
            dict.__setitem__(result, _text(key), to_cel(child or schema.additional or ANY, item, below))
        return result
    if isinstance(value, list):
        inner = schema.items or ANY
        return celtypes.ListType([to_cel(inner, item) for item in value])
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, str):
        if schema.format == "date-time" and schema.type == "string":
            return celtypes.TimestampType(value)
        if schema.format == "duration" and schema.type == "string":
            return celtypes.DurationType(value)
        return _text(value)
    if isinstance(value, int):
        return celtypes.DoubleType(value) if schema.type == "number" else _whole(value)
    if isinstance(value, float):
        whole = schema.type == "integer" and value.is_integer()
        return _whole(int(value)) if whole else celtypes.DoubleType(value)
    return None


def _text(value: str) -> Any:
    # Without the conversions of the constructor, which are many times slower.
    return str.__new__(celtypes.StringType, value)


def _whole(value: int) -> Any:
    in_range = -(2**63) <= value < 2**63
    return int.__new__(celtypes.IntType, value) if in_range else celtypes.IntType(value)
