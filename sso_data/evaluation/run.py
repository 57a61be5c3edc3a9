"""`evaluate`: both models answer, the judge compares the answers, the numbers are written.

The directory of an evaluation:

    setup.json                       its manifest: how the answers are made
    model/, against/answers.jsonl    the model's run, and the other model's plain answers
    judges/KIND-HASH/                verdicts, a directory for each judge
    exports/, commands.sh            for the benchmarks of others
    eval.json                        the result, of the judge that was asked last
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.config.evaluation import EvalConfig
from sso_data.config.migration import defaults_of, with_defaults
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Prompt, Row, content_hash
from sso_data.core.statistics import mean_of
from sso_data.evaluation.answers import Answer, NoAnswer, answer_all, answer_to, stored_answer
from sso_data.evaluation.exports import COMMANDS, EXPORTS, BenchmarkFiles, export_all
from sso_data.evaluation.judges import JUDGES, judge_all, judge_identity
from sso_data.evaluation.result import Evaluation, failures_of, side_of, steering_of, wins_of
from sso_data.evaluation.statistics import consistency_of, rate_of
from sso_data.evaluation.verdicts import Answered, Comparison, NoVerdict, Verdict, signal_comparison
from sso_data.generation.generate import Setup, generate, lazy_engine, prepare
from sso_data.prompts import read_prompts
from sso_data.runs.files import make_dir
from sso_data.runs.journal import load_scores, read_rows
from sso_data.runs.jsonl import JsonlStore
from sso_data.runs.ledger import Ledger
from sso_data.runs.run import read_failures
from sso_data.runs.workdir import (
    WorkKind,
    locked,
    open_workdir,
    read_manifest,
    stored_defaults,
    write_json,
)
from sso_data.templating.chat_template import today

RESULT, MODEL, AGAINST = "eval.json", "model", "against"
_OF_A_MODEL = ("model", "tokenizer", "chat_template")
"""The keys of a run's identity that are the model's own."""

EVALUATION = WorkKind(
    noun="evaluation",
    manifest="setup.json",
    files=(RESULT, COMMANDS, EXPORTS, JUDGES, AGAINST, MODEL),
    is_valid=lambda manifest: isinstance(manifest.get("date"), str),
    how_to_make="make an evaluation with `sso-data eval MODEL --against START --out {path}`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """The inputs of an evaluation, all of them checked before any model is loaded."""

    config: EvalConfig
    out: Path
    model: Setup
    against: Setup
    judge: dict[str, Any]
    prompts: Sequence[Prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """Both models' plain answers by prompt, and the model's rows."""

    rows: Sequence[Row]
    model: Mapping[str, Answer | NoAnswer]
    against: Mapping[str, Answer | NoAnswer]

    def compared(self, prompts: Iterable[Prompt]) -> list[tuple[Prompt, Answer, Answer]]:
        """(prompt, the model's answer, the other's) of the prompts that both answered."""
        found = ((one, self.model[one.id], self.against[one.id]) for one in prompts)
        return [
            (prompt, mine, theirs)
            for prompt, mine, theirs in found
            if isinstance(mine, Answer) and isinstance(theirs, Answer)
        ]


def evaluate(
    model: str,
    against: str,
    config: EvalConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Evaluation:
    """Let both models answer the held-out prompts, and the judge compare their plain answers.

    Everything that was answered or judged is kept in `out`, and the same call continues. The
    model's run has good and bad views too, which show whether steering still works. A LoRA adapter
    of `config.generate.engine` belongs to `model` alone. Raises SsoDataError where a model, the
    prompts, the judge or `out` is not what it should be, or an engine is lost for good.
    """
    started = time.monotonic()
    progress = progress or NullProgress()
    progress.phase("checking the models, the prompts and the judge")
    checked = _checked(model, against, config, out, overwrite=overwrite)
    theirs = {f"against.{key}": checked.against.identity[key] for key in _OF_A_MODEL}
    details = {
        "model": model,
        "against": against,
        "date": checked.model.identity["views.date"],
        "config": checked.config.model_dump(mode="json"),
        "defaults": defaults_of(config),
    }
    make_dir(out)
    with locked(out, "eval", "this evaluation"):
        open_workdir(
            out,
            EVALUATION,
            identity={**checked.model.identity, **theirs},
            details=details,
            overwrite=overwrite,
        )
        answers = _answers(checked, progress)
        judge, verdicts = _verdicts(checked, answers, progress)
        progress.phase("writing the results")
        configs = checked.model.config, checked.against.config
        exported = export_all(out, out / MODEL, configs, answers.rows, answers.against)
        found = _evaluation(checked, answers, verdicts, judge, exported, started)
        write_json(out / RESULT, found.to_json())
    return found


def _checked(
    model: str, against: str, config: EvalConfig, out: Path, *, overwrite: bool
) -> _Checked:
    """Check everything; raises SsoDataError for whatever is wrong."""
    if not against:
        raise ConfigError("no model to compare with: add --against DIRECTORY_OR_HUB_ID")
    manifest = None if overwrite else read_manifest(out, EVALUATION)
    if manifest:
        config = with_defaults(config, stored_defaults(out, EVALUATION))
    date = config.generate.views.date or (manifest["date"] if manifest else today())
    run = config.run_config(model)
    run = run.model_copy(update={"views": run.views.model_copy(update={"date": date})})
    plain = run.engine.model_copy(update={"adapter": None})
    name = Ledger().next_id
    prompts = [  # malformed rows have ids as well, so that they are counted
        Prompt(id=name(content_hash(candidate.messages)), messages=candidate.messages)
        for candidate in read_prompts(config.prompts, run.source)
    ]
    return _Checked(
        out=out,
        model=prepare(run),
        against=prepare(run.model_copy(update={"model": against, "engine": plain})),
        config=config,
        judge=judge_identity(config.judge),
        prompts=prompts,
    )


def _answers(checked: _Checked, progress: Progress) -> _Answers:
    """Both models' answers: what is stored, and the rest made now.

    Raises RunError where answers to other prompts are stored: the numbers would count them.
    """
    run, ids = checked.out / MODEL, {prompt.id for prompt in checked.prompts}
    progress.phase(f"answers of {checked.model.config.model}")
    generate(checked.config.prompts, run, checked.model.config, progress)
    rows = list(read_rows(run))
    others = sum(row.id not in ids for row in rows)
    if others:
        raise RunError(
            f"{checked.out}: holds answers to {others} prompts that are missing from the source; "
            "prompts may be added but not removed: use another --out"
        )
    mine: dict[str, Answer | NoAnswer] = {
        failure.id: NoAnswer(reason=failure.reason, detail=failure.detail)
        for failure in read_failures(run).values()
    }
    mine |= {row.id: answer_to(row.responses["plain"]) for row in rows}
    progress.phase(f"answers of {checked.against.config.model}")
    with (
        closing(JsonlStore(checked.out / AGAINST / "answers.jsonl", "id", stored_answer)) as store,
        lazy_engine(checked.against, progress, lambda info: None) as engine,
    ):
        answer_all(checked.prompts, checked.against, engine, store, progress)
        theirs = {identity: stored_answer(line) for identity, line in store.lines.items()}
    return _Answers(rows=rows, model=mine, against=theirs)


def _verdicts(
    checked: _Checked, answers: _Answers, progress: Progress
) -> tuple[str | None, Mapping[str, Verdict | NoVerdict]]:
    """(the judge's name, verdicts by key); without a judge there are none.

    The model's plain answers (a) are compared with the other's (b), then its y+ with its y-.
    """
    config = checked.config
    if config.judge.kind == "none":
        return None, {}
    features = {row.id: row.steering.features for row in answers.rows}
    comparisons = [
        Comparison(
            key=prompt.id,
            messages=prompt.messages,
            a=Answered(text=mine.text, num_tokens=mine.num_tokens),
            b=Answered(text=theirs.text, num_tokens=theirs.num_tokens),
            principles=features[prompt.id],
        )
        for prompt, mine, theirs in answers.compared(checked.prompts)
    ]
    if config.signal:
        comparisons += [signal_comparison(row) for row in answers.rows]
    progress.phase(f"asking the judge ({config.judge.kind})")
    return judge_all(config.judge, checked.judge, comparisons, checked.out, progress)


def _evaluation(
    checked: _Checked,
    answers: _Answers,
    said: Mapping[str, Verdict | NoVerdict],
    judge: str | None,
    exported: BenchmarkFiles,
    started: float,
) -> Evaluation:
    """All numbers."""
    ids = [prompt.id for prompt in checked.prompts]
    compared = answers.compared(checked.prompts)
    mine, theirs = [one for _, one, _ in compared], [one for *_, one in compared]
    verdicts = [one for key in ids if isinstance(one := said.get(key), Verdict)]
    signal = [said.get(f"{row.id}/signal") for row in answers.rows]
    preferred = [one for one in signal if isinstance(one, Verdict)]
    refused = Counter(one.reason for one in signal if isinstance(one, NoVerdict))
    ours, other = checked.model.policy, checked.against.policy
    chars = {prompt.id: (len(a.text), len(b.text)) for prompt, a, b in compared}
    return Evaluation(
        model=side_of(ours.name, ours.fingerprint, mine, verdicts, 0),
        against=side_of(other.name, other.fingerprint, theirs, verdicts, 1),
        judge=judge,
        judge_identity=checked.judge,
        prompts=len(ids),
        judged=len(verdicts) if judge else len(compared),
        failed=failures_of(ids, answers.model, answers.against, said),
        wins=wins_of(verdicts, chars) if judge else None,
        steering=steering_of(load_scores(checked.out / MODEL, dry=False).rows),
        signal=(
            rate_of([one.preference for one in preferred])
            if judge and checked.config.signal
            else None
        ),
        signal_consistency=consistency_of(preferred),
        signal_failed=dict(sorted(refused.items())),
        score_difference=mean_of(a - b for a, b in (one.scores for one in verdicts if one.scores)),
        tokens_difference=mean_of(a.num_tokens - b.num_tokens for _, a, b in compared),
        notes=exported.notes,
        commands=exported.commands,
        seconds=time.monotonic() - started,
    )
