"""One round: its slice, rows, measurements and training, each step done once and kept.

The steps of a round, by their names in round.json:

    sliced       prompts.jsonl (or pairs.jsonl) is written
    generated    run/ is finished and filtered
    generator    generator/ is trained, generator-run/ finished (only with a generator)
    measured     lengths, closeness and gaps are known
    judged       the judge has been asked (only with a judge)
    trained      model/ is finished
    evaluated    eval/ is finished (only with held-out prompts)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sso_data.config.iteration import IterateConfig
from sso_data.config.migration import FORMAT, upgraded
from sso_data.config.run import FilterConfig, RunConfig
from sso_data.core.errors import RunError, SsoDataError
from sso_data.core.fingerprints import same
from sso_data.core.progress import Progress
from sso_data.core.records import JsonRow, Row
from sso_data.evaluation.judges import judge_identity
from sso_data.evaluation.run import evaluate
from sso_data.evaluation.verdicts import signal_comparison
from sso_data.generation.generate import generate
from sso_data.iteration.measure import (
    CountTokens,
    ToJudge,
    judge_round,
    labelled_comparison,
    load_run,
    means_of_pairs,
    numbers_of,
    sample,
)
from sso_data.iteration.plans import (
    eval_config,
    fingerprint_at,
    generate_config,
    generator_config,
    train_config,
)
from sso_data.iteration.slices import Slice, write_slice
from sso_data.iteration.state import IterationDir, PolicyAt, RoundDir
from sso_data.iteration.stopping import Stop, before_training
from sso_data.iteration.table import line_of
from sso_data.iteration.training import (
    Train,
    Training,
    is_trained,
    launcher_of,
    training_facts,
)
from sso_data.models.directory import resolve_model
from sso_data.prompts import layouts_in
from sso_data.prompts.preferences import read_preferences
from sso_data.runs.checksums import changed, recorded_in, sha256_of
from sso_data.runs.pairs import CHECKSUMS
from sso_data.runs.run import require_run
from sso_data.templating.chat_template import load_tokenizer

RUN, MODEL, GENERATOR, GENERATOR_RUN, EVAL = "run", "model", "generator", "generator-run", "eval"
PROMPTS, PAIRS = "prompts.jsonl", "pairs.jsonl"


@dataclass(frozen=True, kw_only=True)
class Work:
    """State that all rounds share; a slice has `rows` rows."""

    config: IterateConfig
    folder: IterationDir
    progress: Progress
    train: Train
    rows: int

    def begin(self, number: int, what: str) -> None:
        """Report that a step of a round begins."""
        self.progress.note(f"round {number} of {self.config.rounds}: {what}")

    @cached_property
    def count_tokens(self) -> CountTokens:
        """Counts tokens as the first policy does; those of later rounds have its tokenizer."""
        train = self.config.train
        trusted = train.trust_remote_code
        directory = resolve_model(self.config.model, train.revision, trust_remote_code=trusted)
        tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
        return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def make_round(work: Work, number: int, policy: PolicyAt) -> Stop | None:
    """Do or continue a round; returns a Stop if its rows should not be trained on, else None.

    Raises SsoDataError; the same call continues then.
    """
    place = work.folder.round(number)
    there = place.facts.get("policy")
    if there and not same(there["fingerprint"], policy.fingerprint):
        raise RunError(
            f"{place.path}: was started from policy {there['fingerprint']}, but {policy.path} is "
            f"{policy.fingerprint} now; restore that model, or delete this directory to repeat the "
            "round"
        )
    if there != policy.to_json():  # new, or the model was moved
        place.facts["policy"] = policy.to_json()
        place.save()
    _slice(work, place)
    if work.config.labelled:
        source = place.path / PAIRS
        if not place.step("generated"):  # all labelled pairs are kept
            rows = place.step("sliced")["rows"]
            account = {"prompts": rows, "rows": rows, "failed": 0, "kept": rows, "dropped": {}}
            place.mark("generated", account)
    else:
        source = _generate(work, place, policy)
    measure(work, place)
    lines = [line_of(work.folder.round(one)) for one in range(1, number + 1)]
    if stop := before_training(lines, work.config.stop):
        return stop
    _train(work, place, policy, source)
    trained = place.step("trained")
    out = PolicyAt(path=str(place.path / MODEL), fingerprint=trained["model"])
    work.folder.finish_round(
        {
            "round": number,
            "policy": policy.to_json(),
            "data": trained["data"],
            "source": str(source.relative_to(work.folder.path)),
            "model": out.to_json(),
        }
    )
    return None


def _slice(work: Work, place: RoundDir) -> None:
    """Write the round's rows of the source into a file of its own.

    Raises RunError where it is not the one that was written.
    """
    file = place.path / (PAIRS if work.config.labelled else PROMPTS)
    if there := place.step("sliced"):
        if changed(place.path, recorded_in(there, CHECKSUMS)):
            raise RunError(
                f"{file}: is not as the round wrote it; restore it from a copy, or delete "
                f"{place.path} to repeat the round"
            )
        return
    before = work.folder.round(place.number - 1).step("sliced") if place.number > 1 else None
    work.begin(place.number, f"taking {work.rows} rows")
    taken = write_slice(
        work.config,
        place.number,
        work.rows,
        file,
        before=Slice.from_json(before) if before else None,
    )
    place.mark("sliced", taken.to_json() | {CHECKSUMS: {file.name: sha256_of([file])[file]}})


def _generate(work: Work, place: RoundDir, policy: PolicyAt) -> Path:
    """Make the rows of a round; returns the run whose pairs are trained on."""
    config = generate_config(work.config, place.number, policy)
    run = place.path / RUN
    _make_run(work, place, config, run, "generated", "generating")
    if not work.config.generator or not place.step("generated")["kept"]:
        return run
    generator = place.path / GENERATOR
    if not place.step("generator"):
        config_of_it = generator_config(work.config, place.number, policy)
        training = Training(
            source=run,
            out=generator,
            config=config_of_it,
            launcher=launcher_of(work.config, config_of_it),
            threads=work.config.generate.engine.threads,
        )
        _run_training(work, place, training, "training the generator")
        at = PolicyAt(path=str(generator), fingerprint=fingerprint_at(generator))
        place.mark("generator", training_facts(generator) | at.to_json())
    at = PolicyAt(path=str(generator), fingerprint=place.step("generator")["fingerprint"])
    config = generate_config(work.config, place.number, at, purpose="generate by the generator")
    pairs = place.path / GENERATOR_RUN
    _make_run(work, place, config, pairs, "generated_by_generator", "generating with the generator")
    return pairs


def _make_run(
    work: Work, place: RoundDir, config: RunConfig, run: Path, mark: str, what: str
) -> None:
    """Make or continue one run; its engine is closed when this returns."""
    if place.step(mark):
        return
    work.begin(place.number, what)
    people = layouts_in(work.config.prompts, work.config.generate.source)[1]
    summary = generate(str(place.path / PROMPTS), run, config, work.progress, people=people)
    manifest = require_run(run)
    device = manifest["engine"]["device"]
    if config.engine.isolation == "inline" and not device.startswith("cpu"):
        work.progress.warn(
            f"the engine ran inside this process, which keeps some of the memory of {device} while "
            "training runs; set generate.engine.isolation=subprocess"
        )
    account, decision, why = summary.account, summary.decision, summary.explanation
    if why.is_few or why.effect.is_missing:
        work.progress.warn(why.text(prefix="generate."))
    if account.prompts != work.rows:
        raise RunError(
            f"{run}: has {account.prompts} prompts, but its slice has {work.rows}; delete "
            f"{place.path} to repeat the round"
        )
    place.mark(
        mark,
        {
            "prompts": account.prompts,
            "samples": account.samples,
            "rows": account.rows,
            "failed": account.failed,
            "kept": len(decision.kept),
            "dropped": {reason: n for reason, n in decision.dropped.items() if n},
            **({"not_asked": decision.not_asked} if decision.not_asked else {}),
            "effect": why.effect.verdict,
            "to_keep": why.next_step(prefix="generate.") if why.is_few else None,
            "model": manifest["identity"]["model"],
        },
    )


def measure(work: Work, place: RoundDir) -> None:
    """The numbers of a round; those of the judge are made again for another judge.

    Raises SsoDataError where the judge fails.
    """
    if not place.step("measured"):
        place.mark("measured", _measured(work, place))
    held_out = work.config.held_out
    if held_out.judge.kind == "none":
        return
    wanted = {"judge": judge_identity(held_out.judge), "most": held_out.judged_rows}
    there = place.step("judged")
    if there and same({key: there.get(key) for key in wanted}, wanted):
        return
    work.begin(place.number, "judging")
    asked = _labelled_asked(work, place) if work.config.labelled else _asked(work, place)
    found = judge_round(held_out.judge, asked, place.path, work.progress)
    if found["refused"]:
        work.progress.warn(f"no verdict for some pairs: {found['refused']}")
    place.mark("judged", found | wanted)


def _measured(work: Work, place: RoundDir) -> dict[str, Any]:
    """Numbers of the run that is trained on; lengths of y0 are those of the policy itself."""
    if work.config.labelled:
        return means_of_pairs(_labelled_rows(place), work.count_tokens)
    config = work.config.generate.filter
    own = numbers_of(load_run(place.path / RUN, config))
    pairs_run = _pairs_run(place)
    if pairs_run.name == RUN:
        return own
    pairs = numbers_of(load_run(pairs_run, config))
    for group in ("all", "kept"):
        pairs[group]["tokens_original"] = own[group]["tokens_original"]
    pairs["intervals"]["tokens_original"] = own["intervals"]["tokens_original"]
    return pairs


def _pairs_run(place: RoundDir) -> Path:
    """The run whose pairs are trained on."""
    return place.path / (GENERATOR_RUN if place.step("generated_by_generator") else RUN)


def _asked(work: Work, place: RoundDir) -> ToJudge:
    most, config = work.config.held_out.judged_rows, work.config.generate.filter
    pairs = sample(load_run(_pairs_run(place), config), most, and_kept=True)
    own = _own_answers(place, config, most)
    first: dict[str, Row] | None = None
    if work.config.slices.order == "same":
        first = {row.id: row for row in _own_answers(work.folder.round(1), config, most)}
    asked = [(signal_comparison(row), is_kept, for_all) for row, is_kept, for_all in pairs]
    return ToJudge(pairs=asked, own=own, first=first)


def _own_answers(place: RoundDir, config: FilterConfig, most: int | None) -> list[Row]:
    """Rows of the policy's own run that stand for all, and have its own answer."""
    return [row for row, *_ in sample(load_run(place.path / RUN, config), most)]


def _labelled_asked(work: Work, place: RoundDir) -> ToJudge:
    """Labelled pairs spread over the slice."""
    total, most = place.step("sliced")["rows"], work.config.held_out.judged_rows
    chosen = set(np.linspace(0, total - 1, min(total, most or total)).round().astype(int).tolist())
    comparisons = [
        labelled_comparison(row, number, f"{PAIRS}:{number + 1}", work.count_tokens)
        for number, row in enumerate(_labelled_rows(place))
        if number in chosen
    ]
    return ToJudge(pairs=[(comparison, True, True) for comparison in comparisons])


def _labelled_rows(place: RoundDir) -> Iterator[JsonRow]:
    return read_preferences(str(place.path / PAIRS))


def _train(work: Work, place: RoundDir, policy: PolicyAt, source: Path) -> None:
    """Train the policy (or a reward model) on the round's pairs."""
    if place.step("trained"):
        return
    config = train_config(work.config, place.number, policy)
    training = Training(
        source=source,
        out=place.path / MODEL,
        config=config,
        launcher=launcher_of(work.config, config),
        threads=work.config.generate.engine.threads,
    )
    _run_training(work, place, training, "training")
    facts = training_facts(training.out)
    if not same(facts["from"], policy.fingerprint):
        raise RunError(
            f"{training.out}: was trained from {facts['from']}, but the round's policy is "
            f"{policy.fingerprint}; delete {place.path} to repeat the round"
        )
    place.mark("trained", facts | {"model": fingerprint_at(training.out)})


def _run_training(work: Work, place: RoundDir, training: Training, what: str) -> None:
    if is_trained(training.out):
        return
    work.begin(place.number, what)
    try:
        work.train(training)
    except SsoDataError:
        if not is_trained(training.out):
            raise
        # It has ended, and changed nothing: `after_training` stops for that.
    size = sum(file.stat().st_size for file in training.out.glob("*.safetensors")) / 1e9
    work.progress.note(
        f"{training.out}: {size:.3g} GB; engines load it in generate.engine.dtype="
        f"{work.config.generate.engine.dtype} (auto: bfloat16 on a GPU, float32 on a CPU)"
    )


def evaluate_policy(work: Work, place: RoundDir, policy: PolicyAt) -> None:
    """Compare the policy that came out of a round with the first one, on held-out prompts if any.

    A finished evaluation is not done again; another judge is asked about the answers that are
    there. Raises SsoDataError as `evaluate`.
    """
    if work.config.held_out.prompts is None:
        return
    config = eval_config(work.config)
    dumped = config.model_dump(mode="json")
    judge = {"judge": dumped.pop("judge")}
    answers = {"schema_version": FORMAT, "model": policy.fingerprint, "config": dumped}
    done, begun = place.step("evaluated"), place.facts.get("evaluating")
    if done and _same(upgraded(done["of"], "evaluation"), answers | judge):
        return
    overwrite = begun is not None and not _same(upgraded(begun, "evaluation"), answers)
    if begun != answers:
        place.facts["evaluating"] = answers
        place.save()
    work.begin(place.number, "held-out prompts")
    found = evaluate(
        policy.path,
        work.config.model,
        config,
        place.path / EVAL,
        work.progress,
        overwrite=overwrite,
    )
    wins = found.wins
    numbers: dict[str, Any] = {
        "win_rate": wins.rate.value if wins else None,
        "win_rate_length_controlled": wins.length_controlled.value if wins else None,
        "held_out_accuracy": found.signal.value if found.signal else None,
        "held_out_steered": found.steering.passing(work.config.generate.filter.steering_test),
        "held_out_score": found.model.score,
        "held_out_score_first": found.against.score,
        "held_out_tokens": found.model.mean_tokens,
        "held_out_tokens_first": found.against.mean_tokens,
    }
    rounded: dict[str, Any] = {
        name: None if value is None else round(float(value), 6) for name, value in numbers.items()
    }
    rounded |= {
        "win_rate_interval": [wins.rate.low, wins.rate.high] if wins else None,
        "held_out_score_difference": found.score_difference and found.score_difference.to_json(),
        "held_out_tokens_difference": found.tokens_difference and found.tokens_difference.to_json(),
    }
    place.mark("evaluated", rounded | {"of": answers | judge})


def _same(there: Any, here: Any) -> bool:
    """Equal in every key that both have: a later version may have added keys."""
    if isinstance(there, dict) and isinstance(here, dict):
        return all(_same(there[key], here[key]) for key in there.keys() & here.keys())
    return same(there, here)
