"""`iterate`: everything checked before the first round, then rounds until they are done or stop.

The same call continues after an interruption: a finished round is never done again.
"""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.config.iteration import IterateConfig
from sso_data.core.errors import ConfigError, RunError
from sso_data.evaluation.judges import judge_identity
from sso_data.generation.generate import prepare
from sso_data.iteration.heldout import evaluated
from sso_data.iteration.identity import fingerprint_at, identity_of
from sso_data.iteration.plans import generate_config, merges_adapters
from sso_data.iteration.report import write_report
from sso_data.iteration.rounds import MODEL, Stage, Work, make_round, measure
from sso_data.iteration.slices import rows_a_round
from sso_data.iteration.state import PolicyAt, open_iteration, read_iteration, refuse_strangers
from sso_data.iteration.stopping import Line, Stop, after_training
from sso_data.iteration.table import line_of, remarks, totals
from sso_data.iteration.training import Train, train_in_a_process


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterated:
    """How an iteration ended: a line a round, the last good policy, and why it stopped, if so.

    `new_rounds` were finished by this call. `reward_model` came out where one was trained.
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
        """What came of it, and what one could change, in a few lines."""
        made = f"{self._finished} of {len(self.lines)} rounds finished"
        if self.stop is None:
            return [f"{made}; {self._result}", *remarks(self.lines)]
        advice = [f"to change: {text}" for text in self.stop.advice]
        stopped = f"stopped after {made}: {self.stop.reason}"
        return [stopped, *advice, f"the last good policy: {self.policy.path}", *remarks(self.lines)]

    @property
    def _finished(self) -> int:
        return sum(1 for line in self.lines if line.get("train_steps") is not None)

    @property
    def _result(self) -> str:
        if self.reward_model:
            return f"the reward model: {self.reward_model}"
        return f"the policy: {self.policy.path}"

    def to_json(self) -> dict[str, Any]:
        """What a script wants to know."""
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


def iterate(
    config: IterateConfig,
    out: Path,
    stage: Stage,
    *,
    overwrite: bool = False,
    train: Train = train_in_a_process,
) -> Iterated:
    """Make the rounds of `config` in `out`, or go on with them.

    `stage` opens each step by its heading; `train` trains. Raises SsoDataError.
    """
    started = time.monotonic()
    refuse_strangers(out)
    there = None if overwrite else read_iteration(out)
    with stage("checking the model, the prompts and the settings") as listener:
        first = _first_policy(config)
        identity = identity_of(config, first.fingerprint)
        done = len(there["rounds"]) if there else 0
        rows = there["slice_rows"] if there else None
        if done < config.rounds:
            _check(config, first)
            rows = rows_a_round(config, rows)
        if merges_adapters(config):
            listener.note(
                "adapters are merged after each training: the next one needs a whole model"
            )
    details = {
        "config": config.model_dump(mode="json"),
        "first": first.to_json(),
        "slice_rows": rows,
    }
    with open_iteration(out, identity=identity, details=details, overwrite=overwrite) as folder:
        work = Work(config=config, folder=folder, stage=stage, train=train, rows=rows or 0)
        good, stop = _rounds(work, first)
        new = len(folder.finished) - done
        return _ended(work, first, good, stop, new=new, started=started)


def _first_policy(config: IterateConfig) -> PolicyAt:
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or model: to --config")
    if not config.labelled and not config.prompts:
        raise ConfigError("no prompts given: name a file, a directory or a dataset on the Hub")
    revision = config.train.revision
    return PolicyAt(path=config.model, fingerprint=fingerprint_at(config.model, revision))


def _check(config: IterateConfig, first: PolicyAt) -> None:
    """What is wrong is found before hours of work: the template, principles, extras, the judge."""
    if not config.labelled:
        prepare(generate_config(config, 1, first))
    parts = [config.train, *([config.generator.train] if config.generator else [])]
    if any(part.lora.enabled for part in parts) and not importlib.util.find_spec("peft"):
        raise ConfigError("train.lora needs peft: pip install 'sso-data[lora]'")
    if config.held_out.judge.kind != "none":
        judge_identity(config.held_out.judge)


def _rounds(work: Work, first: PolicyAt) -> tuple[int, Stop | None]:
    """All rounds; which of them the last good policy came out of, and why there was no other."""
    finished = work.folder.finished
    policy = _policy_after(work, len(finished), first)
    _check_is_there(policy, first)
    for number in range(1, max(work.config.rounds, len(finished)) + 1):
        stop = None
        if number <= len(finished):
            measure(work, work.folder.round(number))
        else:
            stop = make_round(work, number, policy)
        if stop is None:
            policy = _policy_after(work, number, first)
            if work.config.held_out.every_round:
                evaluated(work, work.folder.round(number), policy)
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


def _check_is_there(policy: PolicyAt, first: PolicyAt) -> None:
    """RunError where a policy is needed that is not the one its round trained.

    Those of earlier rounds may be gone: they are large, and nothing needs them any more.
    """
    if policy == first:
        return
    found = fingerprint_at(policy.path)
    if found != policy.fingerprint:
        raise RunError(
            f"{policy.path}: is {found}, and its round trained {policy.fingerprint}; put that "
            "model back, or use --overwrite to start anew"
        )


def _ended(
    work: Work, first: PolicyAt, good: int, stop: Stop | None, *, new: int, started: float
) -> Iterated:
    """The last evaluation, the books, and the table as lines, picture and page."""
    policy = _policy_after(work, good, first)
    _check_is_there(policy, first)
    if policy != first:
        evaluated(work, work.folder.round(good), policy)
    count = len(work.folder.finished)
    places = [work.folder.round(number) for number in range(1, count + 2)]
    lines = [line_of(place) for place in places if place.step("generated")]
    is_reward = work.config.train.kind == "reward" and count
    done = Iterated(
        out=work.folder.path,
        lines=lines,
        policy=policy,
        stop=stop,
        new_rounds=new,
        seconds=time.monotonic() - started,
        reward_model=str(places[0].path / MODEL) if is_reward else None,
    )
    totals(lines)
    work.folder.note(stopped=stop.to_json() if stop else None, policy=policy.to_json())
    with work.stage("writing the report") as listener:
        if not write_report(work, done):
            listener.note("no rounds.png: pip install 'sso-data[train]' draws it")
    return done
