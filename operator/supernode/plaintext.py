"""Text that somebody else wrote, made fit to stand in a status, an event or a line of a log: one line, bounded, plain.

Flows in: termination messages, error texts, reports, whatever a user put into an object. Flows out: text of at most so
many characters, in which nothing acts on who reads it: escape sequences that repaint a terminal, line breaks that
forge a second line, marks that turn the direction of text, and lone surrogates that no UTF-8 can hold are written out
(``\\x1b``, ``\\u202e``, ``\\ud800``).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Unicode's general categories of characters that act instead of being read: control, format, surrogate, and the
# separators of lines and paragraphs.
_ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# White space between words, where it is more than blanks.
_RUNS: Final = re.compile(r" *[\t\n\v\f\r\x85\u2028\u2029][\t\n\v\f\r\x85\u2028\u2029 ]*")
ELLIPSIS: Final = "…"


def plain(text: str, limit: int) -> str:
    """One line of at most `limit` characters; an ellipsis ends one that was cut. White space becomes one blank."""
    # Only so much is looked at: megabytes cost nothing, and of white space nobody misses more.
    words = text[: 8 * limit]
    if not words.isprintable():
        words = escaped(_RUNS.sub(" ", words).strip(" "))
    if len(words) > limit or len(text) > 8 * limit:
        return words[: limit - 1] + ELLIPSIS
    return words


def last_line(text: str, limit: int) -> str:
    """The last line with words in it, plain; of a long one its end, where an error says what it is about."""
    tail = text[-8 * limit :].strip()
    line = tail.splitlines()[-1].strip() if tail else ""
    return plain(line[-limit:], limit)


def escaped(text: str, keep: str = "") -> str:
    """The text with every acting character written out, those of `keep` apart."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _ACTING else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
