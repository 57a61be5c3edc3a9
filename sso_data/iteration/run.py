"""`iterate`: everything checked before the first round, then rounds until they are done or stop.

The same call continues after an interruption: a finished round is never done again.
"""

import importlib.util
import time
from pathlib import Path

from sso_data.config.iteration import IterateConfig
from sso_data.config.migration import defaults_of, with_defaults
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.fingerprints import same
from sso_data.core.progress import NullProgress, Progress
from sso_data.evaluation.judges import judge_identity
from sso_data.generation.generate import prepare, rules_of
from sso_data.iteration.plans import (
    eval_config,
    fingerprint_at,
    generate_config,
    identity_of,
    merges_adapters,
)
from sso_data.iteration.report import Iterated, iterated, write_files
from sso_data.iteration.rounds import MODEL, Work, evaluate_policy, make_round, measure
from sso_data.iteration.slices import rows_a_round
from sso_data.iteration.state import ITERATION, PolicyAt, open_iteration
from sso_data.iteration.stopping import Stop, after_training
from sso_data.iteration.table import line_of, totals
from sso_data.iteration.training import Train, train_in_a_process
from sso_data.models.checks import check_space, check_trainable
from sso_data.models.directory import resolve_model
from sso_data.prompts import count_prompts
from sso_data.runs.workdir import read_manifest, refuse_other_content, stored_defaults


def iterate(
    config: IterateConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    train: Train = train_in_a_process,
) -> Iterated:
    """Make the rounds of `config` in `out`, or continue them.

    `train` trains the model of a round; by default a process of its own does, whose lines go to
    stderr. Raises ConfigError, InputError, ModelError or RunError where something is to be
    corrected, EngineError or RoundTrainingError where a step failed; the same call continues.
    """
    started = time.monotonic()
    progress = progress or NullProgress()
    refuse_other_content(out, ITERATION)
    there = None if overwrite else read_manifest(out, ITERATION)
    defaults = defaults_of(config)
    if there:
        config = with_defaults(config, stored_defaults(out, ITERATION))
    progress.phase("checking the model, the prompts and the settings")
    done = len(there.get("rounds", [])) if there else 0
    rows = there["slice_rows"] if there else None
    if done < config.rounds:
        _check_without_model(config)
        rows = rows_a_round(config, rows)
    found = fingerprint_at(config.model, config.train.revision, progress)
    first = PolicyAt(path=config.model, fingerprint=found)
    identity = identity_of(config, first.fingerprint)
    if done < config.rounds:
        _check(config, first, out, progress)
    if merges_adapters(config):
        progress.note("adapters are merged after each training: the next round needs a whole model")
    details = {
        "config": config.model_dump(mode="json"),
        "defaults": defaults,
        "first": first.to_json(),
        "slice_rows": rows,
    }
    with open_iteration(out, identity=identity, details=details, overwrite=overwrite) as folder:
        work = Work(config=config, folder=folder, progress=progress, train=train, rows=rows or 0)
        good, stop = _rounds(work, first)
        new = len(folder.finished) - done
        return _ended(work, first, good, stop, new=new, started=started)


def _check_without_model(config: IterateConfig) -> None:
    """Find mistakes that no model is needed for: in names, principles, held-out prompts, extras."""
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or model: to --config")
    if not config.labelled and not config.prompts:
        raise ConfigError("no prompts given: name a file, a directory or a dataset on the Hub")
    if not config.labelled:
        rules_of(generate_config(config, 1, PolicyAt(path=config.model, fingerprint="")))
    if config.held_out.prompts:
        count_prompts(config.held_out.prompts, eval_config(config).source)
    parts = [config.train, *([config.generator.train] if config.generator else [])]
    if any(part.lora.enabled for part in parts) and not importlib.util.find_spec("peft"):
        raise ConfigError("train.lora needs peft: pip install 'sso-data[lora]'")


def _check(config: IterateConfig, first: PolicyAt, out: Path, progress: Progress) -> None:
    """Find mistakes before hours of work: in the model, its template and space, the judge."""
    if not config.labelled:
        prepare(generate_config(config, 1, first))
    trusted = config.train.trust_remote_code
    policy = resolve_model(first.path, config.train.revision, trust_remote_code=trusted)
    check_trainable(policy)
    saved = 4 if config.carry_float32 else 2
    keep = 0 if config.train.lora.enabled else config.train.checkpoints.keep + 1
    if space := check_space(policy, out, saved_bytes=saved, checkpoints=keep):
        progress.warn(space)
    if config.held_out.judge.kind != "none":
        judge_identity(config.held_out.judge)


def _rounds(work: Work, first: PolicyAt) -> tuple[int, Stop | None]:
    """Do all rounds; (the round that the last good policy came out of, why no other was made)."""
    finished = work.folder.finished
    policy = _policy_after(work, len(finished), first)
    policy = _checked(work, policy, first)
    for number in range(1, max(work.config.rounds, len(finished)) + 1):
        stop = None
        if number <= len(finished):
            measure(work, work.folder.round(number))
        else:
            stop = make_round(work, number, policy)
        if stop is None:
            policy = _policy_after(work, number, first)
            if work.config.held_out.every_round:
                evaluate_policy(work, work.folder.round(number), policy)
            stop = after_training(line_of(work.folder.round(number)), work.config)
        if stop:
            return stop.good_until, stop
    return len(work.folder.finished), None


def _policy_after(work: Work, number: int, first: PolicyAt) -> PolicyAt:
    """The policy that came out of a round (0: the first one), as iterate.json has it."""
    if number == 0 or work.config.train.kind == "reward":
        return first
    there = work.folder.finished[number - 1]["model"]
    path = work.folder.round(number).path / MODEL
    return PolicyAt(path=str(path), fingerprint=there["fingerprint"])


def _checked(work: Work, policy: PolicyAt, first: PolicyAt) -> PolicyAt:
    """The policy as it is now; RunError where it is not the one that its round trained.

    Only the newest is checked: those of earlier rounds may be removed, nothing needs them. A
    sampled fingerprint of an earlier version is replaced.
    """
    if policy == first:
        return policy
    found = fingerprint_at(policy.path, progress=work.progress)
    if not same(found, policy.fingerprint):
        raise RunError(
            f"{policy.path}: is {found} now, but its round trained {policy.fingerprint}; restore "
            "that model, or use --overwrite to start over"
        )
    rounds = [
        one | {"model": one["model"] | {"fingerprint": found}}
        if one["model"]["fingerprint"] == policy.fingerprint
        else one
        for one in work.folder.finished
    ]
    work.folder.set(rounds=rounds)
    return PolicyAt(path=policy.path, fingerprint=found)


def _ended(
    work: Work, first: PolicyAt, good: int, stop: Stop | None, *, new: int, started: float
) -> Iterated:
    """The last evaluation, the accounting, and the report."""
    policy = _policy_after(work, good, first)
    policy = _checked(work, policy, first)
    if policy != first:
        evaluate_policy(work, work.folder.round(good), policy)
    work.folder.set(stopped=stop.to_json() if stop else None, policy=policy.to_json())
    done = iterated(work.folder, new=new, seconds=time.monotonic() - started)
    totals(done.lines)  # asserts that nothing was lost
    work.progress.phase("writing the report")
    write_files(done)
    return done
