"""The result of an iteration, and its files: rounds.jsonl and report.html, the rounds compared."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sso_data.core.paths import real_path
from sso_data.core.progress import Progress
from sso_data.iteration.rounds import EVAL, GENERATOR_RUN, MODEL, RUN
from sso_data.iteration.state import ITERATION, LINES, PAGE, PLOT, IterationDir, PolicyAt
from sso_data.iteration.stopping import Line, Stop
from sso_data.iteration.table import line_of, remarks, shown, totals
from sso_data.reporting.compare import Frame, Joined, Runs, contents, joined
from sso_data.reporting.data import Read, read
from sso_data.reporting.page import Reported, Rows, page_files, write_report
from sso_data.runs.files import remove_tree, write_atomic
from sso_data.runs.jsonl import to_line
from sso_data.runs.workdir import require_manifest

_WEIGHTED = (
    ("train_margin_base", "base"),
    ("train_margin_good", "good"),
    ("train_margin_bad", "bad"),
)
_SHARES = ("accuracy_kept", "signal accuracy, kept"), ("accuracy_all", "signal accuracy, all")
_LENGTHS = ("tokens_chosen", "y+"), ("tokens_rejected", "y-"), ("tokens_original", "y0")
_OWN = ("unprompted", "score of y0"), ("unprompted_win_rate", "win rate against the first")
_PANELS = {
    "shares": (*_SHARES, ("steered", "steered"), ("kept_share", "kept")),
    "length (tokens)": _LENGTHS,
    "closeness (nats/token)": (("closeness_chosen", "y+"), ("closeness_rejected", "y-")),
    "gap (nats/token)": (("gap_good", "good"), ("gap_bad", "bad")),
    "margin at the end of training": (*_WEIGHTED, ("train_margin", "reward")),
    "the policy itself": (*_OWN, ("win_rate", "held-out win rate after the round")),
}
"""Curves over the rounds: a key of the lines and a label each, by the title of their panel."""
MOST_EMBEDDED = 1000
"""Prompts whose answers report.html holds; the command `report` shows all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterated:
    """Result of an iteration: a line a round, the last good policy, and the stop, if there was one.

    `new_rounds` were finished by this call. `reward_model`: where one was trained.
    """

    out: Path
    lines: Sequence[Line]
    policy: PolicyAt
    stop: Stop | None
    new_rounds: int
    seconds: float
    reward_model: str | None = None

    @property
    def verdict(self) -> list[str]:
        """The outcome, and what one could change, in a few lines."""
        finished = sum(line.get("train_steps") is not None for line in self.lines)
        made = f"{finished} of {len(self.lines)} rounds finished"
        if self.stop is None:
            policy = f"the policy: {self.policy.path}"
            trained = f"the reward model: {self.reward_model}" if self.reward_model else policy
            return [f"{made}; {trained}", *remarks(self.lines)]
        advice = [f"advice: {text}" for text in self.stop.advice]
        stopped = f"stopped after {made}: {self.stop.reason}"
        return [stopped, *advice, f"the last good policy: {self.policy.path}", *remarks(self.lines)]

    @property
    def account(self) -> str:
        """The accounting over all rounds, one line."""
        found = totals(self.lines)
        dropped = [
            f" + {count} {name.removeprefix('dropped.')}"
            for name, count in found.items()
            if name.startswith("dropped.")
        ]
        samples = found["samples"]
        partial = found.get("not_asked")
        not_asked = f"; of the dropped rows {partial} were not asked for everything"
        times = f" with {samples} samples" if samples != found["prompts"] else ""
        return (
            f"{len(self.lines)} rounds: prompts {found['prompts']}{times} = rows {found['rows']} + "
            f"failed {found['failed']}; rows {found['rows']} = kept {found['kept']}"
            f"{''.join(dropped)}{not_asked if partial else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """The output of `iterate --json`."""
        return {
            "out": str(self.out),
            "rounds": [dict(line) for line in self.lines],
            "policy": self.policy.to_json(),
            "reward_model": self.reward_model,
            "stopped": self.stop.to_json() if self.stop else None,
            "totals": dict(totals(self.lines)),
            "verdict": self.verdict,
            "new_rounds": self.new_rounds,
            "seconds": round(self.seconds, 2),
        }


def read_iteration(out: Path) -> Iterated:
    """Return what an iteration holds by now, without a model; raises RunError."""
    folder = IterationDir(out, ITERATION, require_manifest(out, ITERATION))
    return iterated(folder, new=0, seconds=0.0)


def iterated(folder: IterationDir, *, new: int, seconds: float) -> Iterated:
    """Return the result that iterate.json and the rounds hold; `new` rounds were made now."""
    manifest, finished = folder.manifest, folder.finished
    places = [folder.round(number) for number in range(1, len(finished) + 2)]
    stop = manifest.get("stopped")
    policy = manifest.get("policy") or (finished[-1]["model"] if finished else manifest["first"])
    is_reward = manifest["config"]["train"]["kind"] == "reward" and finished
    return Iterated(
        out=folder.path,
        lines=[line_of(place) for place in places if place.step("generated")],
        policy=PolicyAt(**policy),
        stop=Stop(**stop | {"advice": tuple(stop["advice"])}) if stop else None,
        new_rounds=new,
        seconds=seconds,
        reward_model=str(places[0].path / MODEL) if is_reward else None,
    )


def write_files(done: Iterated) -> None:
    """Write the table over the rounds as lines and, if it is not up to date, as a page.

    Raises RunError.
    """
    write_atomic(done.out / LINES, b"".join(to_line(dict(line)) for line in done.lines))
    remove_tree(done.out / PLOT)
    if _is_current(done.out / PAGE):
        return
    runs, same = _runs(done, MOST_EMBEDDED)
    rows = Rows(None)
    page = rows.page(contents(runs, same, _frame(done, len(runs)), rows.add))
    write_atomic(done.out / PAGE, page.encode())


def _is_current(page: Path) -> bool:
    """Return True for a page that is not older than what it is made of, by the files' times."""
    if not page.is_file():
        return False
    made, made_of = page.stat().st_mtime_ns, [*page.parent.rglob("*"), *page_files()]
    others = (file for file in made_of if file.is_file() and file.suffix != ".lock")
    return all(file.stat().st_mtime_ns <= made for file in others if file.name not in (PAGE, LINES))


def report(
    out: Path,
    to: Path | None,
    *,
    single: bool,
    overwrite: bool,
    progress: Progress | None = None,
) -> Reported:
    """Write the page of an iteration into a new directory (default: OUT-report).

    It holds every answer to the same prompts. Raises as `reporting.page.report`.
    """
    done = read_iteration(out)
    runs, same = _runs(done, None)
    return write_report(
        to or real_path(out).with_name(f"{real_path(out).name}-report"),
        partial(contents, runs, same, _frame(done, len(runs)), progress=progress),
        rows=len(same) * len(same.runs),
        single=single,
        overwrite=overwrite,
    )


def _runs(done: Iterated, most: int | None) -> tuple[Runs, Joined]:
    """Return the rounds' runs that are there, and answers to the same prompts, at most `most`.

    They are those to the held-out prompts, where several rounds answered these.
    """
    runs, held_out = dict[str, Read](), dict[str, Read]()
    for line in done.lines:
        place, name = done.out / f"round-{line['round']}", f"round {line['round']}"
        pairs = GENERATOR_RUN if (place / GENERATOR_RUN / "run.json").is_file() else RUN
        if (place / pairs / "run.json").is_file():
            runs[name] = read(place / pairs)
        if (place / EVAL / "model/run.json").is_file():
            held_out[f"after {name}"] = read(place / EVAL / "model")
    return runs, joined(held_out, most) or joined(runs, most)


def _frame(done: Iterated, runs: int) -> Frame:
    """Return what the page says besides the runs: verdict, table, curves, lineage, settings."""
    folder = IterationDir(done.out, ITERATION, require_manifest(done.out, ITERATION))
    config = folder.manifest["config"]
    judged = folder.round(1).step("judged")
    plots = [(one["round"], folder.round(one["round"]).path / MODEL) for one in folder.finished]
    removed = len(done.lines) - runs
    verdict = [
        *([f"Reproduces: {', '.join(config['reproduces'])}"] if config.get("reproduces") else []),
        *(line.replace(f"{done.out}/", "") for line in done.verdict),
        done.account,
        *([f"Of {removed} rounds there are no rows to show."] if removed else []),
    ]
    rounds = {
        "title": "Rounds",
        "note": "Each column shows the policy that a round began with, and the training on its "
        "rows. Means are over all rows of a round; numbers of a training are means over its last "
        f"logged steps. Judge: {judged['name'] if judged else 'none'}.",
        "heads": ["", *(f"round {line['round']}" for line in done.lines)],
        "rows": [[name, *cells] for name, cells in shown(done.lines)],
    }
    lineage = {
        "title": "Lineage",
        "note": "Fingerprints of models and of training data. The rows of a round carry its number "
        "in their metadata, and the fingerprint of the model that sampled them.",
        "heads": ["round", "began with", "trained on", "data", "result"],
        "rows": [
            [
                *(f"{one['round']}", one["policy"]["fingerprint"], one["source"], one["data"]),
                one["model"]["fingerprint"],
            ]
            for one in folder.finished
        ],
    }
    settings = {
        "title": "What decides the result",
        "heads": ["key", "value"],
        "rows": [[key, str(value)] for key, value in sorted(folder.manifest["identity"].items())],
        "folded": True,
    }
    return Frame(
        name=config.get("title") or "Iteration",
        verdict=verdict,
        is_warning=done.stop is not None,
        tables=[rounds],
        last_tables=[lineage, settings],
        curves=list(_curves(done.lines)),
        pictures=[
            (f"Training of round {number}", f"data:image/png;base64,{encoded}")
            for number, plot in plots
            if (plot / "loss.png").is_file()
            and (encoded := base64.b64encode((plot / "loss.png").read_bytes()).decode())
        ],
    )


def _curves(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """Yield the panels that any round has values for."""
    for title, curves in _PANELS.items():
        found = [
            [label, [[line["round"], line[key]] for line in lines if line.get(key) is not None]]
            for key, label in curves
        ]
        if there := [one for one in found if one[1]]:
            yield {"title": title, "curves": there}


def report_files(out: Path) -> list[Path]:
    """The files of the report that are there."""
    return [file for name in (PAGE, LINES) if (file := out / name).is_file()]
