"""Markdown of any text: as words, as code, and in tables; a text cannot break out of its place."""

import re
from collections.abc import Sequence

from sso_data.core.errors import one_line

Cells = tuple[str, ...]
"""The Markdown of a table's row, a cell each."""

_PUNCTUATION = re.compile(r"[\\`*_\[\]|~$]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", ":": "&#58;"}
"""Of HTML, and of addresses: a colon would make a link of `https://...`."""

_MOST = 200


def inline(text: object) -> str:
    """`text` as plain text for a line or a table cell: without markup and line breaks."""
    line = one_line(text, _MOST)
    line = "".join(_ENTITIES.get(char, char) for char in line)
    return _PUNCTUATION.sub(lambda found: "\\" + found[0], line)


def code(text: object, most: int = _MOST) -> str:
    """`text` as code in a line or a table cell: in backticks that it cannot close, on one line."""
    line = one_line(text, most).replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    marks = "`" * (longest + 1)
    space = " " if longest or not line else ""
    return f"{marks}{space}{line}{space}{marks}"


def table(head: Sequence[str], rows: Sequence[Cells], align: str) -> str:
    """A table of cells that are Markdown; `align` has an `l` or an `r` for each column."""
    rules = tuple("---:" if side == "r" else "---" for side in align)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (tuple(head), rules, *rows))
