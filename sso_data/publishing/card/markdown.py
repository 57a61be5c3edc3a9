"""Markdown that data cannot break, and a page of which only our part is written anew."""

import re
from collections.abc import Sequence

from sso_data.core.errors import InputError, one_line

Cells = tuple[str, ...]
"""The Markdown of a table's row, a cell each."""

START = "<!-- sso-data: start (up to the end mark, written anew by every push) -->"
END = "<!-- sso-data: end -->"

_START = re.compile(r"^<!-- sso-data: start.*-->[ \t]*\r?$", re.MULTILINE)
_END = re.compile(r"^<!-- sso-data: end -->[ \t]*\r?$", re.MULTILINE)
_PUNCTUATION = re.compile(r"[\\`*_\[\]|~$]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", ":": "&#58;"}
"""Of HTML, and of addresses: a colon would make a link of `https://...`."""

_MOST = 200


def inline(text: object) -> str:
    """`text` as words of a line or a table cell: nothing in it is markup, no line breaks."""
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


def outside_marks(page: str) -> str:
    """What others wrote: the page without our part."""
    place = _marked(page)
    return page if place is None else page[: place[0]] + page[place[1] :]


def put_between_marks(page: str, ours: str) -> str:
    """The page with `ours` in the place of our part, or after the rest where there is none yet."""
    block = f"{START}\n{ours.strip()}\n{END}"
    place = _marked(page)
    if place is not None:
        return page[: place[0]] + block + page[place[1] :]
    rest = page.rstrip()
    return f"{rest}\n\n{block}\n" if rest else f"{block}\n"


def _marked(page: str) -> tuple[int, int] | None:
    """Where our part starts and ends, marks included; InputError where one mark is missing."""
    starts, ends = list(_START.finditer(page)), list(_END.finditer(page))
    if not starts and not ends:
        return None
    if len(starts) != 1 or len(ends) != 1 or starts[0].start() > ends[0].start():
        raise InputError(
            f"README.md: needs the line {START!r} once and {END!r} once after it; put the marks "
            "back, or remove both and what stands between them"
        )
    return starts[0].start(), ends[0].end()
