"""How a run's prompts are steered: by rule as their rows are planned, or by models before that."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from sso_data.chat import Endpoint, EngineCompletions, open_endpoint, open_model
from sso_data.chat.interface import Completions
from sso_data.config.run import RunConfig, SteeringConfig, ViewsConfig
from sso_data.core.jinja import SYSTEM
from sso_data.core.naming import public_name
from sso_data.core.progress import Progress
from sso_data.core.records import JsonRow, Prompt
from sso_data.engines.interface import Engine
from sso_data.models.directory import model_fingerprint, resolve_model
from sso_data.models.policy import Policy
from sso_data.steering.answer_store import SteeringCounts
from sso_data.steering.rules import Rules, Steered
from sso_data.steering.stage import Guide, Models, look_up, steer_all

_BY_RULE = ("choose", "features", "count", "weights", "concision_probability", "paraphrase")
_BY_MODEL = ("principles", "temperature", "max_tokens", "structured", "max_length_ratio")


class LazyEngine:
    """An engine that is started when it is asked for, and again after it was let go."""

    def __init__(self, start: Callable[[], Engine]) -> None:
        self._start = start
        self._engine: Engine | None = None

    def __call__(self) -> Engine:
        """The started engine."""
        if self._engine is None:
            self._engine = self._start()
        return self._engine

    def close(self) -> None:
        """Close it, where it was started."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def identity_of(rules: Rules) -> dict[str, Any]:
    """What decides a run's steering, by dotted name; what has no effect is left out."""
    config, templates = rules.config, rules.templates
    names = list(templates.systems() if config.paraphrase else (SYSTEM,))
    keys = list(_BY_RULE)
    found: dict[str, Any] = {}
    if rules.asks_a_model:
        keys += _BY_MODEL
        names += ["choose.j2"] if config.choose == "policy" else []
        names += ["write.j2"] if config.principles == "written" else []
    if config.principle_model:
        found["steering.writer"] = _writer_fingerprint(config)
    dumped = config.model_dump(mode="json")
    found |= {f"steering.{key}": dumped[key] for key in keys}
    return found | {"templates": templates.fingerprint(*names)}


def steered(
    rules: Rules,
    config: RunConfig,
    policy: Policy,
    engine: LazyEngine,
    guide: Guide | None,
    progress: Progress,
) -> Callable[[Prompt], Steered]:
    """The steering of prompts, by id; models are asked about all of the guide's prompts first.

    Raises EngineError when a model gives no answers any more.
    """
    if not rules.asks_a_model:
        return lambda prompt: rules.by_rule(prompt.id)
    assert guide is not None, "a run that asks a model knows its prompts beforehand"
    tally = guide.tally
    done = tally.prompts

    def on_line(line: JsonRow) -> None:
        nonlocal done
        done += 1
        tally.add(line)

    def on_pass(text: str) -> None:
        nonlocal done
        done = tally.prompts
        progress.phase(text)

    models = _models(config, policy, engine, progress)
    for _ in steer_all(guide, rules, models, on_pass=on_pass, on_line=on_line):
        progress.count(done, guide.total, "prompts steered", stand_ins(tally))
    progress.count(done, guide.total, "prompts steered", stand_ins(tally))
    for warning in warnings_of(tally, config.steering):
        progress.warn(warning)
    return look_up(guide.book, rules)


def _models(config: RunConfig, policy: Policy, engine: LazyEngine, progress: Progress) -> Models:
    """The policy behind the run's engine, and another writer where one is named."""
    name = f"{policy.name}@{policy.fingerprint}"
    steering = config.steering
    other = steering.principle_model

    def open_policy() -> Completions:
        return EngineCompletions(engine(), policy.template, model=name)

    return Models(
        open_policy=open_policy,
        is_control=policy.template.holds_control,
        writer=public_name(other) if other else "policy",
        open_writer=partial(_writer, config, engine, progress) if other else None,
    )


@contextmanager
def _writer(
    config: RunConfig, engine: LazyEngine, progress: Progress
) -> Iterator[Callable[[], Completions]]:
    """A function that opens the model that writes; it is closed with the context.

    One on this machine takes the place of the policy's engine.
    """
    with ExitStack() as stack:

        def start() -> Completions:
            steering = config.steering
            if steering.endpoint:
                endpoint = endpoint_of(steering)
                return stack.enter_context(open_endpoint(endpoint, tell=progress.warn))
            engine.close()
            progress.phase(f"loading {steering.principle_model}")
            return stack.enter_context(open_writer_of(config, tell=progress.warn))

        yield start


def open_writer_of(
    config: RunConfig, tell: Callable[[str], None]
) -> AbstractContextManager[Completions]:
    """The model on this machine that writes, loaded with the engine settings of the policy.

    The policy's adapter and revision are not its.
    """
    own = {"adapter": None, "revision": None}
    engine = config.engine.model_copy(update=own)
    return open_model(str(config.steering.principle_model), engine, ViewsConfig(), tell=tell)


def endpoint_of(config: SteeringConfig) -> Endpoint:
    """The server of a configuration that names one."""
    return Endpoint(
        url=str(config.endpoint),
        model=str(config.principle_model),
        key_env=config.api_key_env,
        in_flight=config.endpoint_in_flight,
        timeout=config.endpoint_timeout,
    )


def summary_of(tally: SteeringCounts) -> list[str]:
    """How the steering by models went, a line for choices and one for texts."""
    found = []
    if tally.choices:
        by_policy = tally.choices - tally.fallbacks
        found.append(
            f"{tally.choices} choices: {by_policy} by the policy, {tally.fallbacks} by rule "
            f"({tally.fallback_share:.1%})"
        )
    if tally.texts:
        written = tally.texts - tally.replaced
        found.append(
            f"{tally.texts} principles: {written} written, {tally.replaced} from the catalogue "
            f"({tally.replaced_share:.1%})"
        )
    return found


def stand_ins(tally: SteeringCounts) -> str:
    """The shares of choices and of texts for which the rule or the catalogue stood in, if any."""
    parts = [
        f"{tally.fallback_share:.0%} of choices by rule" if tally.fallbacks else "",
        f"{tally.replaced_share:.0%} of texts from the catalogue" if tally.replaced else "",
    ]
    return ", ".join(part for part in parts if part)


def warnings_of(tally: SteeringCounts, config: SteeringConfig) -> Iterator[str]:
    """What is wrong with too large a share of choices or of texts."""
    if tally.fallback_share > config.max_fallback_share:
        yield (
            f"the rule chose the features of {tally.fallback_share:.0%} of the prompts; "
            f"{_unusable(tally.choice_reasons)}"
        )
    if tally.replaced_share > config.max_fallback_share:
        yield (
            f"the catalogue gave {tally.replaced_share:.0%} of the principles; "
            f"{_unusable(tally.text_reasons)}"
        )


def _unusable(reasons: Counter[str]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return (
        f"unusable answers: {counts}; see docs/principles.md (a run keeps them in steering.jsonl)"
    )


def _writer_fingerprint(config: SteeringConfig) -> str:
    """Who the writing model is: its weights here, or its name at the endpoint."""
    name = str(config.principle_model)
    return f"endpoint:{name}" if config.endpoint else model_fingerprint(resolve_model(name))
