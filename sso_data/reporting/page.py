"""The page of a report: one HTML file, or a folder of an index and blocks of rows."""

import base64
import gzip
import hashlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.core.errors import ConfigError
from sso_data.core.jinja import render
from sso_data.core.paths import real_path, templates_dir
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Row
from sso_data.exporting.output import mark_as_ours, new_directory
from sso_data.reporting.data import BLOCK, Read, blocks, details, index, packed, read, tinted
from sso_data.runs.files import make_dir, write_new
from sso_data.runs.tokens import Answers

PAGE, MARK = "index.html", "report.json"
MOST_SINGLE = 5000
"""Rows up to which one file holds a report."""
_END = 16
"""Characters at the end of a block that hold its checksum: those by which the page knows it."""
Add = Callable[[Sequence[Any]], None]
"""Takes the next block: what the page shows of each of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A report: the page, how many rows it shows, and the size of all its files in bytes."""

    page: Path
    rows: int
    size: int


def report(
    run: Path,
    out: Path | None = None,
    *,
    single: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    tokens: Mapping[str, Answers] | None = None,
) -> Reported:
    """Write the report of a run into a new directory `out` (default: RUN-report).

    `single`: one file that holds everything, for at most MOST_SINGLE rows; `tokens`: by row id the
    answers whose tokens can be tinted. The same run gives the
    same bytes. Raises RunError where the run cannot be read or `out` may not be written, and
    ConfigError for a run that is too large for one file.
    """
    found, told = read(run), progress or NullProgress()
    out = out or real_path(run).with_name(f"{real_path(run).name}-report")
    told.phase("reading rows")

    def content(add: Add) -> dict[str, Any]:
        def rows() -> Iterator[Row]:
            done = 0
            for number, block in enumerate(blocks(found)):
                add(_shown(found, number, block, tokens or {}))
                yield from block
                done += len(block)
                told.count(done, len(found.scores), "rows")

        return index(found, rows())

    return write_report(out, content, rows=len(found.scores), single=single, overwrite=overwrite)


class Rows:
    """The blocks of a page: files in `folder`, or inside of the page where that is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._inside: list[str] = []
        self._ends: list[str] = []

    def add(self, block: Sequence[Any]) -> None:
        """Add the next block. Raises RunError where it cannot be written."""
        data = encoded(block)
        if self._folder is None:
            self._inside.append(data)
        else:
            number = len(self._ends)
            write_new(self._folder / f"{number:05}.js", script(number, data).encode())
        self._ends.append(data[-_END:])

    def page(self, content: dict[str, Any]) -> str:
        """Return the HTML of the page that shows these blocks, and no others."""
        return page(content | {"ends": self._ends}, self._inside)


def write_report(
    out: Path,
    content: Callable[[Add], dict[str, Any]],
    *,
    rows: int,
    single: bool,
    overwrite: bool,
) -> Reported:
    """Write a report of `rows` rows into the directory `out`.

    `content` returns what the page knows before a row is opened, and hands over the blocks on its
    way. Raises as `report`.
    """
    if single and rows > MOST_SINGLE:
        raise ConfigError(
            f"--single: there are {rows} rows, and one file holds up to {MOST_SINGLE}; leave "
            "--single out"
        )
    with new_directory(out, overwrite=overwrite, mark=MARK) as new:
        if not single:
            make_dir(new / "data")
        blocks_of = Rows(None if single else new / "data")
        found = content(blocks_of.add)
        write_new(new / PAGE, blocks_of.page(found).encode())
        mark_as_ours(new, {"report": found["name"], "rows": rows}, mark=MARK)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Reported(page=out / PAGE, rows=rows, size=size)


def page(content: dict[str, Any], inside: list[str], *, live: str = "") -> str:
    """Return the HTML of a report; `inside` holds the blocks of a page that is one file.

    `live`: the address that tells how many rows a served run has by now.
    """
    folder = templates_dir() / "report"
    names = ("diff.min.js", *["compare.js"] * ("compared" in content), "page.js")
    scripts = [(folder / name).read_text() for name in names]
    hashes = " ".join(f"'sha256-{_sha256(text)}'" for text in scripts)
    return render(
        "report/page.html.j2",
        title=html.escape(str(content["name"])),
        policy=f"default-src 'none'; img-src data:; connect-src 'self'; base-uri 'none'; "
        f"form-action 'none'; style-src 'sha256-{_sha256(_style(folder))}'; "
        f"script-src {hashes} 'self' file:",
        style=_style(folder),
        scripts=scripts,
        index=encoded(content),
        blocks=inside,
        live=live,
        compared="compared" in content,
    )


def served_block(found: Read, number: int, tokens: Mapping[str, Answers]) -> str:
    """Return the script of one block. Raises RunError where its lines cannot be read."""
    (rows,) = blocks(found, number)
    return script(number, encoded(_shown(found, number, rows, tokens)))


def _shown(
    found: Read, number: int, rows: Sequence[Row], tokens: Mapping[str, Answers]
) -> list[dict[str, Any]]:
    """Return what the page shows of the rows of a block, `tokens` of those that are there."""
    places = range(number * BLOCK, number * BLOCK + len(rows))
    shown = zip(rows, details(found, places, rows), strict=True)
    return [one | tinted(tokens.get(row.id, {})) for row, one in shown]


def script(number: int, data: str) -> str:
    """Return the file that hands a block to the page; pages opened from disk may load scripts."""
    return f'block({number},"{data}");\n'


def encoded(content: Any) -> str:
    """Return JSON, compressed, as base64: no text of a row is ever read as HTML or a script."""
    return base64.b64encode(gzip.compress(packed(content), 6, mtime=0)).decode()


def page_files() -> list[Path]:
    """Return the templates of which a page is made."""
    return sorted((templates_dir() / "report").iterdir())


def _style(folder: Path) -> str:
    return (folder / "page.css").read_text()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
