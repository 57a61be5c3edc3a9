"""One round: its slice, rows, measurements and training, each step done once and kept.

The steps of a round, by the names of their marks in round.json:

    sliced       prompts.jsonl (or pairs.jsonl) is written
    generated    run/ is finished and filtered
    generator    generator/ is trained, generator-run/ finished (only with a generator)
    measured     lengths, closeness and gaps are known
    judged       the judge has spoken (only with a judge)
    trained      model/ is finished
    evaluated    eval/ is finished (only with held-out prompts)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sso_data.config.iteration import IterateConfig
from sso_data.config.run import RunConfig
from sso_data.core.errors import RunError
from sso_data.core.progress import Progress as GenerateListener
from sso_data.core.records import JsonRow, Row
from sso_data.evaluation.judges import judge_identity
from sso_data.evaluation.judges.pairs import signal_comparison
from sso_data.generation.generate import generate
from sso_data.iteration.identity import fingerprint_at
from sso_data.iteration.judging import ToJudge, asked_of_labelled, judge_round
from sso_data.iteration.measure import load_run, means_of_pairs, numbers_of, sample
from sso_data.iteration.plans import generate_config, generator_config, train_config
from sso_data.iteration.slices import Slice, write_slice
from sso_data.iteration.state import IterationDir, PolicyAt, RoundDir
from sso_data.iteration.stopping import Stop, before_training
from sso_data.iteration.table import line_of
from sso_data.iteration.training import Train, Training, is_trained, training_facts
from sso_data.models.directory import resolve_model
from sso_data.prompts.preferences import read_preferences
from sso_data.runs.run import require_run

RUN, MODEL, GENERATOR, GENERATOR_RUN = "run", "model", "generator", "generator-run"
PROMPTS, PAIRS = "prompts.jsonl", "pairs.jsonl"


class Listener(GenerateListener, Protocol):
    """Who is told how a step goes on."""

    def note(self, text: str) -> None: ...

    def written(self, done: int, total: int, what: str = "pairs") -> None: ...


Stage = Callable[[str], AbstractContextManager[Listener]]
"""Opens a step by its heading, such as `round 2 of 3: generating`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What all rounds share; a slice has `rows` rows."""

    config: IterateConfig
    folder: IterationDir
    stage: Stage
    train: Train
    rows: int

    def heading(self, number: int, what: str) -> str:
        return f"round {number} of {self.config.rounds}: {what}"


def make_round(work: Work, number: int, policy: PolicyAt) -> Stop | None:
    """Do, or go on with, a round; says why where its rows are not worth training on.

    Raises SsoDataError; the same call continues then.
    """
    place = work.folder.round(number)
    _agree(place, policy)
    _slice(work, place)
    if work.config.labelled:
        source = place.path / PAIRS
        _count_labelled(place)
    else:
        source = _generate(work, place, policy)
    if stop := _judged(work, place):
        return stop
    out = _train(work, place, policy, source)
    work.folder.finish_round(
        {
            "round": number,
            "policy": policy.to_json(),
            "data": place.step("trained")["data"],
            "source": str(source.relative_to(work.folder.path)),
            "model": out.to_json(),
        }
    )
    return None


def lines_until(folder: IterationDir, number: int) -> list[dict[str, Any]]:
    """The lines of the table up to a round."""
    return [line_of(folder.round(one)) for one in range(1, number + 1)]


def _agree(place: RoundDir, policy: PolicyAt) -> None:
    """RunError where the round was begun with another policy; a moved one is noted."""
    there = place.facts.get("policy")
    if there and there["fingerprint"] != policy.fingerprint:
        raise RunError(
            f"{place.path}: was begun with the policy {there['fingerprint']}, and {policy.path} is "
            f"{policy.fingerprint}; put that model back, or delete this directory to do the round "
            "anew"
        )
    if there != policy.to_json():
        place.facts["policy"] = policy.to_json()
        place.save()


def _slice(work: Work, place: RoundDir) -> None:
    """The round's rows of the source, in a file of its own."""
    if place.step("sliced"):
        return
    before = work.folder.round(place.number - 1).step("sliced") if place.number > 1 else None
    file = place.path / (PAIRS if work.config.labelled else PROMPTS)
    with work.stage(work.heading(place.number, f"taking {work.rows} rows")):
        taken = write_slice(
            work.config,
            place.number,
            work.rows,
            file,
            before=Slice(**before) if before else None,
        )
    place.mark("sliced", taken.to_json())


def _count_labelled(place: RoundDir) -> None:
    """The books of labelled pairs: all of them are kept."""
    if not place.step("generated"):
        rows = place.step("sliced")["rows"]
        books = {"prompts": rows, "rows": rows, "failed": 0, "kept": rows, "dropped": {}}
        place.mark("generated", books)


def _generate(work: Work, place: RoundDir, policy: PolicyAt) -> Path:
    """The rows of a round; returns the run whose pairs are trained on."""
    config = generate_config(work.config, place.number, policy)
    run = place.path / RUN
    _make_run(work, place, config, run, "generated", "generating")
    if not work.config.generator or not place.step("generated")["kept"]:
        return run
    if not place.step("generator"):
        training = Training(
            source=run,
            out=place.path / GENERATOR,
            config=generator_config(work.config, place.number, policy),
            launcher=work.config.launcher,
            threads=work.config.generate.engine.threads,
        )
        _run_training(work, place, training, "training the generator")
        at = _policy_in(training.out)
        place.mark("generator", training_facts(training.out) | at.to_json())
    at = PolicyAt(
        path=str(place.path / GENERATOR), fingerprint=place.step("generator")["fingerprint"]
    )
    config = generate_config(work.config, place.number, at, purpose="generate by the generator")
    pairs = place.path / GENERATOR_RUN
    _make_run(work, place, config, pairs, "generated_by_generator", "the generator generates")
    return pairs


def _make_run(
    work: Work, place: RoundDir, config: RunConfig, run: Path, mark: str, what: str
) -> None:
    """Make or continue one run; its engine is closed when this returns."""
    if place.step(mark):
        return
    with work.stage(work.heading(place.number, what)) as listener:
        summary = generate(str(place.path / PROMPTS), run, config, listener)
        manifest = require_run(run)
        _check_memory(config, manifest["engine"]["device"], listener)
    account, decision = summary.account, summary.decision
    if account.prompts != work.rows:
        raise RunError(
            f"{run}: holds {account.prompts} prompts, and the round took {work.rows}; delete "
            f"{place.path} to do the round anew"
        )
    place.mark(
        mark,
        {
            "prompts": account.prompts,
            "rows": account.rows,
            "failed": account.failed,
            "kept": len(decision.kept),
            "dropped": {reason: n for reason, n in decision.dropped.items() if n},
            "model": manifest["identity"]["model"],
        },
    )


def _check_memory(config: RunConfig, device: str, listener: Listener) -> None:
    """Say when an engine does not give its memory back before something is trained."""
    if config.engine.isolation == "inline" and not device.startswith("cpu"):
        listener.warn(
            f"the engine ran inside this process, which keeps some of the memory of {device} while "
            "training runs; set generate.engine.isolation=subprocess"
        )


def _judged(work: Work, place: RoundDir) -> Stop | None:
    """Measure the round's rows, ask the judge, and say whether they are worth training on."""
    measure(work, place)
    return before_training(lines_until(work.folder, place.number), work.config.stop)


def measure(work: Work, place: RoundDir) -> None:
    """The numbers of a round; the judge's are made anew when another judge is asked for."""
    if not place.step("measured"):
        place.mark("measured", _measured(work, place))
    held_out = work.config.held_out
    if held_out.judge.kind == "none":
        return
    wanted = {"judge": judge_identity(held_out.judge), "most": held_out.judged_rows}
    there = place.step("judged")
    if there and {key: there.get(key) for key in wanted} == wanted:
        return
    with work.stage(work.heading(place.number, "judging")) as listener:
        asked = _labelled_asked(work, place) if work.config.labelled else _asked(work, place)
        found = judge_round(held_out.judge, asked, place.path, listener)
    if found["refused"]:
        with work.stage(work.heading(place.number, "judged")) as listener:
            listener.warn(f"no verdict for some pairs: {found['refused']}")
    place.mark("judged", found | wanted)


def _measured(work: Work, place: RoundDir) -> dict[str, Any]:
    """Numbers of the run that is trained on; lengths of y0 are those of the policy itself."""
    if work.config.labelled:
        return means_of_pairs(_labelled_rows(place), _policy_dir(work, place))
    config = work.config.generate.filter
    own = numbers_of(load_run(place.path / RUN, config))
    pairs_run = _pairs_run(place)
    if pairs_run.name == RUN:
        return own
    pairs = numbers_of(load_run(pairs_run, config))
    for group in ("all", "kept"):
        pairs[group]["tokens_original"] = own[group]["tokens_original"]
    return pairs


def _policy_dir(work: Work, place: RoundDir) -> Path:
    path = place.facts["policy"]["path"]
    revision = work.config.train.revision if path == work.config.model else None
    return resolve_model(path, revision)


def _pairs_run(place: RoundDir) -> Path:
    """The run whose pairs are trained on."""
    return place.path / (GENERATOR_RUN if place.step("generated_by_generator") else RUN)


def _asked(work: Work, place: RoundDir) -> ToJudge:
    most, config = work.config.held_out.judged_rows, work.config.generate.filter
    pairs = sample(load_run(_pairs_run(place), config), most)
    own = [row for row, _ in sample(load_run(place.path / RUN, config), most)]
    first: dict[str, Row] | None = None
    if work.config.slices.order == "same":
        rows = sample(load_run(work.folder.round(1).path / RUN, config), most)
        first = {row.id: row for row, _ in rows}
    return ToJudge(
        pairs=[(signal_comparison(row), kept) for row, kept in pairs], own=own, first=first
    )


def _labelled_asked(work: Work, place: RoundDir) -> ToJudge:
    """Labelled pairs spread over the slice."""
    total, most = place.step("sliced")["rows"], work.config.held_out.judged_rows
    chosen = set(np.linspace(0, total - 1, min(total, most or total)).round().astype(int).tolist())
    return ToJudge(
        pairs=[
            (asked_of_labelled(row, number, f"{PAIRS}:{number + 1}"), True)
            for number, row in enumerate(_labelled_rows(place))
            if number in chosen
        ]
    )


def _labelled_rows(place: RoundDir) -> Iterator[JsonRow]:
    return read_preferences(str(place.path / PAIRS))


def _train(work: Work, place: RoundDir, policy: PolicyAt, source: Path) -> PolicyAt:
    """Train the policy (or a reward model) on the round's pairs."""
    training = Training(
        source=source,
        out=place.path / MODEL,
        config=train_config(work.config, place.number, policy),
        launcher=work.config.launcher,
        threads=work.config.generate.engine.threads,
    )
    if not place.step("trained"):
        _run_training(work, place, training, "training")
        facts = training_facts(training.out)
        if facts["from"] != policy.fingerprint:
            raise RunError(
                f"{training.out}: was trained from {facts['from']}, and the round's policy is "
                f"{policy.fingerprint}; delete {place.path} to do the round anew"
            )
        place.mark("trained", facts | {"model": _policy_in(training.out).fingerprint})
    return PolicyAt(path=str(training.out), fingerprint=place.step("trained")["model"])


def _run_training(work: Work, place: RoundDir, training: Training, what: str) -> None:
    """Run the training, with no listener open: its own process speaks to the terminal."""
    if is_trained(training.out):
        return
    with work.stage(work.heading(place.number, what)):
        pass
    work.train(training)


def _policy_in(folder: Path) -> PolicyAt:
    return PolicyAt(path=str(folder), fingerprint=fingerprint_at(folder))
