"""Judges: which of two answers is better; the oracle, and verdicts kept as soon as they come."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sso_data.config.evaluation import FORMS, JudgeConfig
from sso_data.core.errors import ConfigError
from sso_data.core.fingerprints import sampled
from sso_data.core.jinja import Templates
from sso_data.core.paths import public_name
from sso_data.core.progress import Progress
from sso_data.core.records import JsonRow
from sso_data.evaluation.verdicts import Comparison, Judge, NoVerdict, Verdict, preference_of
from sso_data.models.directory import engine_dir, engine_fingerprint
from sso_data.runs.files import make_dir, swap_dir
from sso_data.runs.jsonl import JsonlStore, parsed, read_objects, unsealed
from sso_data.runs.workdir import write_json

JUDGES = "judges"
"""The folder that holds a directory for each judge."""

_IDENTITY_KEYS = {
    "reward": ("engine.dtype", "engine.max_model_len", "views.template_kwargs"),
    "llm": ("temperature", "max_tokens", "structured", "views.template_kwargs"),
}
_NAME_KEY = "judge"
"""The key of the line that names the judge; keys of comparisons hold a slash or are row ids."""


class Oracle:
    """Scores the answer to the last user turn by `world.score`; equal scores are ties.

    A prompt that is no query of the tiny world gets no verdict (`foreign_prompt`).
    """

    name = "oracle"

    def compare(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict | NoVerdict]:
        from sso_data.world import score

        for comparison in comparisons:
            turns = reversed(comparison.messages)
            query = next((turn.content for turn in turns if turn.role == "user"), "")
            try:
                a, b = (score(query, side.text).total for side in (comparison.a, comparison.b))
            except ValueError:
                detail = "the oracle can judge only queries of the tiny world; choose another judge"
                yield NoVerdict(key=comparison.key, reason="foreign_prompt", detail=detail)
            else:
                preference = preference_of(a, b)
                yield Verdict(key=comparison.key, preference=preference, scores=(a, b))

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def open_judge(config: JudgeConfig, progress: Progress | None = None) -> Judge:
    """The judge of a configuration, ready to compare; the caller closes it. Loads its model.

    `progress` is told when something goes wrong and the work goes on. Raises ConfigError
    where no judge is configured or its function cannot be loaded, ModelError or EngineError where
    its model cannot.
    """
    match config.kind:
        case "oracle":
            return Oracle()
        case "rule":
            from sso_data.evaluation.judge_rule import RuleJudge

            return RuleJudge(config.principles)
        case "reward":
            from sso_data.evaluation.judge_reward import RewardJudge

            return RewardJudge(config)
        case "llm":
            from sso_data.evaluation.judge_llm import open_llm

            return open_llm(config, progress)
        case "python":
            from sso_data.evaluation.judge_function import FunctionJudge

            assert config.callable is not None
            return FunctionJudge(config.callable)
        case "none":
            raise ConfigError(f"no judge given: add --judge {FORMS}")


def judge_identity(config: JudgeConfig) -> dict[str, Any]:
    """Everything that decides a judge's verdicts, flat, without loading a model.

    Raises SsoDataError where its model, function or template is not there.
    """
    dumped = config.model_dump(mode="json")
    found: dict[str, Any] = {"kind": config.kind}
    for name in _IDENTITY_KEYS.get(config.kind, ()):
        section, _, key = name.rpartition(".")
        found[name] = dumped[section][key] if section else dumped[key]
    if config.kind == "llm":
        from sso_data.evaluation.judge_llm import TEMPLATE

        templates = Templates(directory=config.templates)
        templates.check()
        found["template"] = templates.fingerprint(TEMPLATE)
    if config.kind == "rule":
        from sso_data.evaluation.judge_rule import checks_fingerprint

        found["checks"] = checks_fingerprint(config.principles)
    if config.kind == "python":
        from sso_data.evaluation.judge_function import function_fingerprint

        assert config.callable is not None
        found["callable"] = config.callable
        found["source"] = function_fingerprint(config.callable)
    elif config.model and config.endpoint:
        found["model"] = f"{config.model}@{config.endpoint}"
    elif config.model:
        directory = engine_dir(config.model, config.loading)
        fingerprint = engine_fingerprint(config.model, directory, config.loading)
        found["model"] = f"{public_name(config.model)}@{fingerprint}"
    return found


def judge_all(
    config: JudgeConfig,
    identity: dict[str, Any],
    comparisons: Sequence[Comparison],
    out: Path,
    progress: Progress,
) -> tuple[str | None, dict[str, Verdict | NoVerdict]]:
    """(the judge's name, verdicts and refusals by key); `identity` is the `judge_identity`.

    Verdicts are kept in `out`/judges, in a directory of this identity, and are not asked for again;
    a comparison that was refused is, by the next call. The judge is opened when there is something
    to ask it. Raises SsoDataError as `open_judge` and `Judge.compare` do.
    """
    text = json.dumps(identity, sort_keys=True)
    directory, earlier = (
        out / JUDGES / f"{identity['kind']}-{hashlib.sha256(one.encode()).hexdigest()[:8]}"
        for one in (text, sampled(text))
    )
    if earlier.is_dir() and not directory.exists():
        swap_dir(earlier, directory)
    make_dir(directory)
    with closing(JsonlStore(directory / "verdicts.jsonl", "key", _said)) as store:
        name = store.lines[_NAME_KEY]["name"] if _NAME_KEY in store.lines else None
        todo = [one for one in comparisons if one.key not in store.lines]
        found: dict[str, Verdict | NoVerdict] = {
            one.key: Verdict.from_json(store.lines[one.key])
            for one in comparisons
            if one.key in store.lines
        }
        if not todo:
            return name, found
        with closing(open_judge(config, progress)) as judge:
            if name is None:
                name = judge.name
                write_json(directory / "judge.json", {"name": name, **identity})
                store.add({"key": _NAME_KEY, "name": name})
            progress.count(len(found), len(comparisons), "verdicts")
            for said in judge.compare(todo):
                if isinstance(said, Verdict):
                    store.add(said.to_json())
                found[said.key] = said
                progress.count(len(found), len(comparisons), "verdicts")
    return name, found


def stored_verdicts(out: Path) -> Iterator[tuple[str, dict[str, Verdict]]]:
    """Yield (judge's name, verdicts by key) of every judge that was asked; nothing is written.

    Raises RunError that names a line which is not one.
    """
    for file in sorted((out / JUDGES).glob("*/verdicts.jsonl")):
        name, found = file.parent.name, dict[str, Verdict]()
        for where, content in read_objects(file):
            said = parsed(_said, unsealed(content, where), where)
            if isinstance(said, Verdict):
                found[said.key] = said
            else:
                name = said
        yield name, found


def _said(line: JsonRow) -> Verdict | str:
    """The verdict of a line of verdicts.jsonl, or the judge's name in the line that holds it."""
    return str(line["name"]) if line["key"] == _NAME_KEY else Verdict.from_json(line)
