"""The order of an evaluation: both models answer, the judge compares, the numbers are written."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sso_data.config.evaluation import EvalConfig
from sso_data.config.run import RunConfig
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.progress import Progress as RunListener
from sso_data.core.records import Prompt, Row, content_hash
from sso_data.evaluation.answers import Answer, NoAnswer, answer_all, answer_of
from sso_data.evaluation.book import Book
from sso_data.evaluation.eval_dir import (
    AGAINST,
    MODEL,
    RESULT,
    identity_of,
    open_eval_dir,
    read_setup,
    write_json,
)
from sso_data.evaluation.exports import export_all
from sso_data.evaluation.judges import (
    Answered,
    Comparison,
    NoVerdict,
    Verdict,
    judge_identity,
    open_judge,
    rate_of,
)
from sso_data.evaluation.judges.pairs import signal_comparison
from sso_data.evaluation.judging import directory_of, judge_all
from sso_data.evaluation.result import Evaluation, failures_of, side_of, steering_of, wins_of
from sso_data.generation.generate import Setup, generate, lazy_engine, prepare
from sso_data.prompts import BadRow, Candidate, read_prompts
from sso_data.runs.journal import read_rows
from sso_data.runs.run import read_failures
from sso_data.runs.steering import Occurrences
from sso_data.templating.chat_template import today

Said = Mapping[str, Verdict | NoVerdict]


class Listener(RunListener, Protocol):
    """Who is told how an evaluation goes on: a run's listener that counts other things, too."""

    def written(self, done: int, total: int, what: str = "pairs") -> None:
        """So many of the pairs, answers or verdicts are there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What an evaluation needs, all of it checked before any model is loaded."""

    config: EvalConfig
    out: Path
    model: Setup
    against: Setup
    judge: Mapping[str, Any]
    prompts: Sequence[Prompt]

    @property
    def ids(self) -> list[str]:
        return [prompt.id for prompt in self.prompts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What both models said, by prompt, and the model's rows with their log-probs."""

    rows: Sequence[Row]
    model: Mapping[str, Answer | NoAnswer]
    against: Mapping[str, Answer | NoAnswer]

    def both(self, ids: Iterable[str]) -> list[tuple[str, Answer, Answer]]:
        """(id, the model's answer, the other's) of the prompts that both answered."""
        found = ((identity, self.model[identity], self.against[identity]) for identity in ids)
        return [
            (identity, mine, theirs)
            for identity, mine, theirs in found
            if isinstance(mine, Answer) and isinstance(theirs, Answer)
        ]


def evaluate(
    model: str,
    against: str,
    config: EvalConfig,
    out: Path,
    listener: Listener,
    *,
    overwrite: bool = False,
) -> Evaluation:
    """Let both models answer the held-out prompts, and the judge compare their plain answers.

    Everything that was answered or judged is kept in `out`: the same call goes on from there. The
    model's run has good and bad views, too: from it comes whether steering still works. A LoRA
    adapter of `config.generate.engine` is part of `model` alone. Raises SsoDataError.
    """
    started = time.monotonic()
    listener.phase("checking the models, the prompts and the judge")
    plan = _plan(model, against, config, out, overwrite=overwrite)
    identity = identity_of(plan.model, plan.against)
    details = {
        "model": model,
        "against": against,
        "date": plan.model.identity["views.date"],
        "config": config.model_dump(mode="json"),
    }
    with open_eval_dir(out, identity, details, overwrite=overwrite):
        answers = _answers(plan, listener)
        said, judge = _said(plan, answers, listener)
        listener.phase("writing the results")
        exported = export_all(
            out, (plan.model.config, plan.against.config), answers.rows, answers.against
        )
        found = _evaluation(plan, answers, said, judge)
        found = replace(
            found,
            notes=exported.notes,
            commands=exported.commands,
            seconds=time.monotonic() - started,
        )
        write_json(out / RESULT, found.to_json())
    return found


def _plan(model: str, against: str, config: EvalConfig, out: Path, *, overwrite: bool) -> _Plan:
    """Check everything; raises SsoDataError for whatever is wrong."""
    if not against:
        raise ConfigError("no model to compare with: add --against DIRECTORY_OR_HUB_ID")
    there = None if overwrite else read_setup(out)
    date = config.generate.views.date or (there["date"] if there else today())
    run = config.run_config(model)
    run = run.model_copy(update={"views": run.views.model_copy(update={"date": date})})
    plain = run.engine.model_copy(update={"adapter": None})
    setup = prepare(run)
    other = prepare(run.model_copy(update={"model": against, "engine": plain}))
    return _Plan(
        config=config,
        out=out,
        model=setup,
        against=other,
        judge=judge_identity(config.judge),
        prompts=list(_prompts(read_prompts(config.prompts, run.source))),
    )


def _prompts(candidates: Iterable[Candidate | BadRow]) -> Iterable[Prompt]:
    """Every prompt under the id that a run gives it; malformed ones too, so that none is lost."""
    name = Occurrences().next
    for candidate in candidates:
        yield Prompt(id=name(content_hash(candidate.messages)), messages=candidate.messages)


def _answers(plan: _Plan, listener: Listener) -> _Answers:
    """Both models' answers: those that are there, and the rest made now."""
    run, ids = plan.out / MODEL, set(plan.ids)
    config: RunConfig = plan.model.config
    listener.phase(f"answers of {config.model}")
    generate(plan.config.prompts, run, config, listener)
    rows = [row for row in read_rows(run) if row.id in ids]
    _refuse_strangers(plan.out, run, ids)
    mine: dict[str, Answer | NoAnswer] = {
        failure.id: NoAnswer(reason=failure.reason, detail=failure.detail)
        for failure in read_failures(run).values()
    }
    for row in rows:
        said = row.responses["plain"]
        mine[row.id] = Answer(
            text=said.text, num_tokens=said.num_tokens, finish_reason=said.finish_reason
        )
    return _Answers(rows=rows, model=mine, against=_of_the_other(plan, listener))


def _refuse_strangers(out: Path, run: Path, ids: set[str]) -> None:
    """RunError where answers to other prompts lie, too: the numbers would be of other prompts."""
    strangers = sum(row.id not in ids for row in read_rows(run))
    if strangers:
        raise RunError(
            f"{out}: holds answers to {strangers} prompts that are not among these; more prompts "
            "may be added, none taken away: use another --out"
        )


def _of_the_other(plan: _Plan, listener: Listener) -> dict[str, Answer | NoAnswer]:
    listener.phase(f"answers of {plan.against.config.model}")
    with (
        closing(Book(plan.out / AGAINST / "answers.jsonl", "id")) as book,
        lazy_engine(plan.against, listener, lambda info: None) as engine,
    ):
        for done in answer_all(plan.prompts, plan.against, engine, book):
            listener.written(done, len(plan.prompts), "answers")
        return {identity: answer_of(line) for identity, line in book.lines.items()}


def _said(plan: _Plan, answers: _Answers, listener: Listener) -> tuple[Said, str | None]:
    """(verdicts by key, the judge's name); without a judge there are none."""
    judge = plan.config.judge
    if judge.kind == "none":
        return {}, None
    comparisons = _comparisons(plan, answers)
    listener.phase(f"asking the judge ({judge.kind})")
    name, said = judge_all(
        comparisons,
        partial(open_judge, judge, tell=listener.warn),
        directory_of(plan.out, dict(plan.judge)),
        dict(plan.judge),
        partial(listener.written, what="verdicts"),
    )
    return said, name


def _comparisons(plan: _Plan, answers: _Answers) -> list[Comparison]:
    """The model's plain answers (a) against the other's (b), then its y+ against its y-."""
    messages = {prompt.id: prompt.messages for prompt in plan.prompts}
    found = [
        Comparison(
            key=identity, messages=messages[identity], a=_answered(mine), b=_answered(theirs)
        )
        for identity, mine, theirs in answers.both(plan.ids)
    ]
    return found + [signal_comparison(row) for row in answers.rows if plan.config.signal]


def _answered(answer: Answer) -> Answered:
    return Answered(text=answer.text, num_tokens=answer.num_tokens)


def _evaluation(plan: _Plan, answers: _Answers, said: Said, judge: str | None) -> Evaluation:
    """All numbers."""
    ids = plan.ids
    both = answers.both(ids)
    verdicts = [one for i in ids if isinstance(one := said.get(i), Verdict)]
    keys = [f"{row.id}/signal" for row in answers.rows]
    signal = [one for key in keys if isinstance(one := said.get(key), Verdict)]
    refused = [one for key in keys if isinstance(one := said.get(key), NoVerdict)]
    by_key = {
        i: Comparison(key=i, messages=(), a=_answered(mine), b=_answered(theirs))
        for i, mine, theirs in both
    }
    sides = ((plan.model, 0, [a for _, a, _ in both]), (plan.against, 1, [b for *_, b in both]))
    first, second = (
        side_of(setup.policy.name, setup.policy.fingerprint, said_by, verdicts, which)
        for setup, which, said_by in sides
    )
    return Evaluation(
        model=first,
        against=second,
        judge=judge,
        judge_identity=plan.judge,
        prompts=len(ids),
        judged=len(verdicts) if judge else len(both),
        failed=failures_of(ids, answers.model, answers.against, said),
        wins=wins_of(by_key, verdicts) if judge else None,
        steering=steering_of(answers.rows),
        signal=rate_of([one.preference for one in signal])
        if judge and plan.config.signal
        else None,
        signal_failed=dict(sorted(Counter(one.reason for one in refused).items())),
        seconds=0.0,
    )
