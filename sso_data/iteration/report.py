"""What an iteration leaves for people and scripts: rounds.jsonl, rounds.png, report.html."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sso_data.core.jinja import render
from sso_data.iteration.plots import draw
from sso_data.iteration.rounds import MODEL, Work
from sso_data.iteration.table import shown, totals
from sso_data.runs.files import remove_tree, write_atomic
from sso_data.runs.journal import to_line

if TYPE_CHECKING:
    from sso_data.iteration.run import Iterated

LINES, PLOT, PAGE = "rounds.jsonl", "rounds.png", "report.html"


def write_report(work: Work, done: "Iterated") -> bool:
    """Write the three files; says whether the picture could be drawn (it takes matplotlib)."""
    out = work.folder.path
    write_atomic(out / LINES, b"".join(to_line(dict(line)) for line in done.lines))
    picture = draw(done.lines)
    if picture:
        write_atomic(out / PLOT, picture)
    else:
        remove_tree(out / PLOT)
    text = render(
        "iterate_report.html.j2",
        title=work.config.title or "Iteration",
        reproduces=list(work.config.reproduces),
        verdict=done.verdict,
        stopped=done.stop is not None,
        rounds=[line["round"] for line in done.lines],
        table=shown(done.lines),
        totals=totals_of(done),
        lineage=_lineage(work),
        judge=_judge(work),
        picture=_embedded(picture),
        losses=_losses(work),
        settings=_settings(work),
    )
    write_atomic(out / PAGE, f"{text}\n".encode())
    return picture is not None


def totals_of(done: "Iterated") -> str:
    """The books over all rounds, one line."""
    found = totals(done.lines)
    dropped = [
        f" + {count} {name.removeprefix('dropped.')}"
        for name, count in found.items()
        if name.startswith("dropped.")
    ]
    return (
        f"{len(done.lines)} rounds: prompts {found['prompts']} = rows {found['rows']} + failed "
        f"{found['failed']}; rows {found['rows']} = kept {found['kept']}{''.join(dropped)}"
    )


def _lineage(work: Work) -> list[dict[str, Any]]:
    """Of each finished round: its policy, its data and the model that came out."""
    return [
        {
            "round": one["round"],
            "policy": one["policy"]["fingerprint"],
            "source": one["source"],
            "data": one["data"],
            "model": one["model"]["fingerprint"],
        }
        for one in work.folder.finished
    ]


def _judge(work: Work) -> str:
    judged = work.folder.round(1).step("judged")
    return str(judged["name"]) if judged else "none"


def _embedded(picture: bytes | None) -> str:
    """A picture as a data address, so that the page needs no other file."""
    if not picture:
        return ""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _losses(work: Work) -> list[tuple[int, str]]:
    """(round, loss.png) of the trainings that drew one."""
    numbers = [one["round"] for one in work.folder.finished]
    files = [(number, work.folder.round(number).path / MODEL / "loss.png") for number in numbers]
    return [(number, _embedded(file.read_bytes())) for number, file in files if file.is_file()]


def _settings(work: Work) -> list[tuple[str, str]]:
    """What decides the result, as (key, value): the identity of the iteration."""
    identity = work.folder.manifest["identity"]
    return [(key, str(value)) for key, value in sorted(identity.items())]


def report_files(out: Path) -> list[Path]:
    """The files that are there."""
    return [file for name in (PAGE, LINES, PLOT) if (file := out / name).is_file()]
