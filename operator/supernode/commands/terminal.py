"""Text for people: tables that fit the terminal, colours where they belong, and nothing raw from the cluster.

Flows in: cells and sentences, trusted or not. Flows out: one string. Everything that goes through a `Sheet` is cleaned
first: an object's name or message can hold escape sequences that would repaint or reprogram a terminal. Widths count
columns, not characters: a Chinese character takes two, a combining accent none. Not here: what is shown.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TextIO

# Longest text of the cluster that one cell or sentence shows, characters.
_LONGEST: Final = 4096
# A flexible column is never cut below this many terminal columns.
_NARROWEST: Final = 8
_ELLIPSIS: Final = "…"


class Colour(StrEnum):
    """SGR parameters; `NONE` leaves the text as it is."""

    NONE = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    BLUE = "34"
    MAGENTA = "35"
    CYAN = "36"


#: For things that must be told apart, such as jobs in a picture or ranks in a log.
ROTATION: Final = (Colour.CYAN, Colour.GREEN, Colour.MAGENTA, Colour.YELLOW, Colour.BLUE)

_STATES: Final[Mapping[str, Colour]] = {
    "Running": Colour.GREEN,
    "Succeeded": Colour.GREEN,
    "Completed": Colour.GREEN,
    "Starting": Colour.CYAN,
    "Pending": Colour.YELLOW,
    "Waiting": Colour.YELLOW,
    "Restarting": Colour.YELLOW,
    "Suspended": Colour.DIM,
    "Failed": Colour.RED,
    "yes": Colour.GREEN,
    "no": Colour.RED,
}


def colour_of(state: str) -> Colour:
    """The colour of a job's state, a pod's phase or a yes and no."""
    return _STATES.get(state, Colour.NONE)


@dataclass(frozen=True, slots=True)
class Mark:
    """A piece of text in a colour."""

    text: str
    colour: Colour = Colour.NONE


Piece = str | Mark


def clean(text: str, *, keep_tabs: bool = False) -> str:
    """The text without anything that a terminal obeys: white space becomes a blank, the rest is written out.

    Control and format characters (escape, bell, C1 controls, marks that turn the direction of text), lone surrogates
    and separators of lines come out as ``\\x1b``, ``\\u202e`` and so on.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, keep_tabs) for character in text)


def _shown(character: str, keep_tabs: bool) -> str:
    if character.isprintable():
        return character
    if character == "\t" and keep_tabs:
        return character
    if character in "\t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width_of(text: str) -> int:
    """Columns that clean text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Clean text in at most `width` columns; an ellipsis stands for what is left out."""
    if width_of(text) <= width:
        return text
    used, kept = 1, []
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + _ELLIPSIS if width > 0 else ""


def wrap(text: str, width: int | None, indent: int = 0) -> list[str]:
    """Lines of at most `width` columns (None: one line), broken at blanks, each indented."""
    margin = " " * indent
    if width is None:
        return [margin + text]
    room = max(width - indent, _NARROWEST)
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and width_of(longer) > room:
            lines.append(margin + line)
            line = word
        else:
            line = longer
    return [*lines, margin + line]


class Sheet:
    """What a command shows, put together line by line.

    Args:
        width: columns of the terminal; None = as wide as it gets.
        colour: whether colours are wanted.
    """

    def __init__(self, width: int | None = None, *, colour: bool = False) -> None:
        self.width = width
        self._colour = colour
        self._lines: list[str] = []

    def line(self, *pieces: Piece) -> None:
        """One line of pieces, cut at the edge of the terminal."""
        room = self.width
        done: list[str] = []
        for piece in pieces:
            text, colour = _parts(piece)
            if room is not None:
                text = cut(text, room)
                room -= width_of(text)
            done.append(self._paint(text, colour))
        self._lines.append("".join(done).rstrip(" "))

    def sentence(self, text: Piece, indent: int = 0) -> None:
        """A sentence over as many lines as it needs."""
        words, colour = _parts(text)
        self._lines += [self._paint(line, colour) for line in wrap(words, self.width, indent)]

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Piece]], *, indent: int = 0) -> None:
        """Left-aligned columns, two blanks apart. Too wide: the widest are cut, then columns left out from the right.

        `header` names the columns; a column whose every cell is empty is left out.
        """
        cells = [[(name, Colour.BOLD) for name in header], *([_parts(cell) for cell in row] for row in rows)]
        kept = [c for c in range(len(header)) if not rows or any(row[c][0] for row in cells[1:])]
        cells = [[row[c] for c in kept] for row in cells]
        room = None if self.width is None else self.width - indent
        widths = fitting([[width_of(text) for text, _ in row] for row in cells], room)
        for row in cells:
            done = [
                self._paint(short := cut(text, width), colour) + " " * (width - width_of(short))
                for (text, colour), width in zip(row, widths, strict=False)
            ]
            self._lines.append((" " * indent + "  ".join(done)).rstrip(" "))

    def blank(self) -> None:
        """An empty line between two parts."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def text(self) -> str:
        """All lines."""
        return "\n".join(self._lines)

    def _paint(self, text: str, colour: Colour) -> str:
        return f"\x1b[{colour.value}m{text}\x1b[0m" if self._colour and colour and text else text


def fitting(sizes: Sequence[Sequence[int]], room: int | None) -> list[int]:
    """Width per column, for cells of these widths, so that a row fits `room`; fewer columns if nothing else helps."""
    widths = [max(column) for column in zip(*sizes, strict=True)]
    if room is None:
        return widths
    least = [min(width, max(head, _NARROWEST)) for width, head in zip(widths, sizes[0], strict=True)]
    while len(least) > 1 and sum(least) + 2 * (len(least) - 1) > room:
        least.pop()
    widths = widths[: len(least)]
    while (over := sum(widths) + 2 * (len(widths) - 1) - room) > 0:
        loose = [c for c in range(len(widths)) if widths[c] > least[c]]
        if not loose:
            return [min(widths[0], max(room, 1))] if len(widths) == 1 else widths
        widest = max(loose, key=lambda c: widths[c])
        second = max((widths[c] for c in loose if c != widest), default=0)
        # Down to the next widest at once, but by no more than is needed.
        widths[widest] -= max(1, min(over, widths[widest] - max(least[widest], second)))
    return widths


def _parts(piece: Piece) -> tuple[str, Colour]:
    mark = piece if isinstance(piece, Mark) else Mark(piece)
    text = mark.text if len(mark.text) <= _LONGEST else mark.text[: _LONGEST - 1] + _ELLIPSIS
    return clean(text), mark.colour


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Only on a terminal that can, and not where NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def sheet_for(stream: TextIO | None = None) -> Sheet:
    """An empty sheet that fits where `stream` (standard output) leads to."""
    stream = sys.stdout if stream is None else stream
    return Sheet(shutil.get_terminal_size().columns if stream.isatty() else None, colour=wants_colour(stream))


def emit(text: str, stream: TextIO | None = None) -> None:
    """Write a line; characters that the stream's encoding lacks are written out."""
    stream = sys.stdout if stream is None else stream
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
