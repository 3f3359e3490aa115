"""Tables as text and as HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

WIDTH = 110
"""Characters in a line of text."""
NARROWEST = 12

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings, and rows of as many cells."""


def as_text(headings: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Write a table with aligned columns; empty columns are left out, and the widest ones wrap where it is too wide."""
    headings, rows = _without_empty(headings, rows)
    lines = [headings, *rows]
    columns = list(zip(*lines, strict=True))
    longest = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    widths = _fitted([max(map(len, column)) for column in columns], longest, len(indent))
    return "\n".join(text for line in lines for text in _wrapped(line, widths, indent))


def _without_empty(headings, rows):
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    return [headings[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _fitted(widths: list[int], longest: list[int], indent: int) -> list[int]:
    """Take from the widest columns what is too much, but do not break words."""
    widths = list(widths)
    while sum(widths) + 2 * (len(widths) - 1) + indent > WIDTH:
        spare = [width - max(word + 1, NARROWEST) for width, word in zip(widths, longest, strict=True)]
        if max(spare) <= 0:
            break
        widths[max((i for i in range(len(widths)) if spare[i] > 0), key=widths.__getitem__)] -= 1
    return widths


def _wrapped(cells: Sequence[str], widths: Sequence[int], indent: str):
    columns = [_fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for i in range(max(len(column) for column in columns)):
        parts = [(column[i] if i < len(column) else "").ljust(w) for column, w in zip(columns, widths, strict=True)]
        yield (indent + "  ".join(parts)).rstrip()


def _fold(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, subsequent_indent=" ", break_on_hyphens=False) or [""]


_STYLE = "text-align:left;vertical-align:top;padding:0.1em 1em 0.1em 0"


def as_html(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table as HTML."""
    headings, rows = _without_empty(headings, rows)
    cells = lambda tag, row: "".join(f'<{tag} style="{_STYLE}">{html.escape(cell)}</{tag}>' for cell in row)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', headings)}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(text: str, tag: str = "p") -> str:
    """Write a text as HTML."""
    return f"<{tag}>{html.escape(text)}</{tag}>"
