"""The page of a report: one HTML file, or a folder of an index and blocks of rows."""

import base64
import gzip
import hashlib
import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.core.errors import ConfigError
from sso_data.core.jinja import render
from sso_data.core.paths import templates_dir
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Row
from sso_data.exporting.output import mark_as_ours, new_directory
from sso_data.reporting.data import Read, blocks, detail, index, packed, read, tinted
from sso_data.runs.files import make_dir, write_new
from sso_data.runs.tokens import Answers

PAGE, MARK = "index.html", "report.json"
MOST_SINGLE = 5000
"""Rows up to which one file holds a report."""


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
    found = read(run)
    if single and len(found.scores) > MOST_SINGLE:
        raise ConfigError(
            f"--single: {run} has {len(found.scores)} rows, and one file holds up to "
            f"{MOST_SINGLE}; leave --single out"
        )
    out = out or run.resolve().with_name(f"{run.resolve().name}-report")
    with new_directory(out, overwrite=overwrite, mark=MARK) as new:
        if not single:
            make_dir(new / "data")
        inside: list[str] = []
        told = progress or NullProgress()
        told.phase("reading rows")

        def rows() -> Iterator[Row]:
            done = 0
            for number, block in enumerate(blocks(found)):
                data = encoded(
                    [detail(row, found) | tinted((tokens or {}).get(row.id, {})) for row in block]
                )
                if single:
                    inside.append(data)
                else:
                    write_new(new / "data" / f"{number:05}.js", script(number, data).encode())
                yield from block
                done += len(block)
                told.count(done, len(found.scores), "rows")

        content = index(found, rows())
        write_new(new / PAGE, page(content, inside).encode())
        mark_as_ours(new, {"report": content["name"], "rows": len(found.scores)}, mark=MARK)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Reported(page=out / PAGE, rows=len(found.scores), size=size)


def page(content: dict[str, Any], inside: list[str], *, live: str = "") -> str:
    """Return the HTML of a report; `inside` holds the blocks of a page that is one file.

    `live`: the address that tells how many rows a served run has by now.
    """
    folder = templates_dir() / "report"
    scripts = [(folder / name).read_text() for name in ("diff.min.js", "page.js")]
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
    )


def served_block(found: Read, number: int) -> str:
    """Return the script of one block. Raises RunError where its lines cannot be read."""
    (rows,) = blocks(found, number)
    return script(number, encoded([detail(row, found) for row in rows]))


def script(number: int, data: str) -> str:
    """Return the file that hands a block to the page; pages opened from disk may load scripts."""
    return f'block({number},"{data}");\n'


def encoded(content: Any) -> str:
    """Return JSON, compressed, as base64: no text of a row is ever read as HTML or a script."""
    return base64.b64encode(gzip.compress(packed(content), 6, mtime=0)).decode()


def _style(folder: Path) -> str:
    return (folder / "page.css").read_text()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
