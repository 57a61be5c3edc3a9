"""What a judge says of an evaluation's answers: asked once for each, kept as soon as it is said."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sso_data.core.records import JsonRow
from sso_data.evaluation.book import Book
from sso_data.evaluation.eval_dir import JUDGES, write_json
from sso_data.evaluation.judges import Comparison, Judge, NoVerdict, Verdict
from sso_data.runs.files import make_dir

Report = Callable[[int, int], None]
"""Told (verdicts there are, of how many)."""


def directory_of(out: Path, identity: dict[str, Any]) -> Path:
    """Where one judge's verdicts lie; another one, or the same asked otherwise, has its own."""
    text = json.dumps(identity, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return out / JUDGES / f"{identity['kind']}-{digest}"


def judge_all(
    comparisons: Sequence[Comparison],
    open_judge: Callable[[], Judge],
    place: Path,
    identity: dict[str, Any],
    report: Report,
) -> tuple[str | None, dict[str, Verdict | NoVerdict]]:
    """(the judge's name, verdicts and refusals by key).

    Verdicts are kept in `place`; a comparison that was refused is asked about again when the same
    is called once more. The judge is opened when something is left to ask it.
    """
    make_dir(place)
    with closing(Book(place / "verdicts.jsonl", "key")) as book:
        name = book.lines[_NAME]["name"] if _NAME in book.lines else None
        todo = [one for one in comparisons if one.key not in book.lines]
        there = len(comparisons) - len(todo)
        refused: dict[str, NoVerdict] = {}
        if todo:
            with closing(open_judge()) as judge:
                if name is None:
                    name = judge.name
                    write_json(place / "judge.json", {"name": name, **identity})
                    book.add({"key": _NAME, "name": name})

                def keep(said: Verdict | NoVerdict) -> None:
                    if isinstance(said, Verdict):
                        book.add(_line(said))
                    else:
                        refused[said.key] = said

                judge.compare(
                    todo,
                    on_verdict=keep,
                    on_progress=lambda done, _: report(there + done, len(comparisons)),
                )
        kept = {
            one.key: _verdict(book.lines[one.key]) for one in comparisons if one.key in book.lines
        }
    return name, {**kept, **refused}


_NAME = "judge"
"""The key of the line that names the judge; comparisons have a slash in theirs."""


def _line(verdict: Verdict) -> JsonRow:
    line: JsonRow = {"key": verdict.key, "preference": verdict.preference}
    if verdict.scores is not None:
        line["scores"] = list(verdict.scores)
    if verdict.orders is not None:
        line["orders"] = list(verdict.orders)
    return line | ({"detail": verdict.detail} if verdict.detail else {})


def _verdict(line: JsonRow) -> Verdict:
    return Verdict(
        key=line["key"],
        preference=line["preference"],
        scores=_pair(line.get("scores")),
        orders=_pair(line.get("orders")),
        detail=line.get("detail", ""),
    )


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])
