"""The models that steer a run's prompts: what identifies them, and when each is opened."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from sso_data.chat import open_chat
from sso_data.chat.engine import EngineCompletions
from sso_data.chat.interface import Completions
from sso_data.config.run import RunConfig, ViewsConfig
from sso_data.core.errors import ConfigError
from sso_data.core.jinja import SYSTEM
from sso_data.core.paths import public_name
from sso_data.core.progress import Progress
from sso_data.core.records import Prompt
from sso_data.engines.interface import Engine
from sso_data.models.directory import Policy, model_fingerprint, resolve_model
from sso_data.steering.passes import Guide, Models, look_up, steer_all
from sso_data.steering.questions import CHOOSE, WRITE
from sso_data.steering.rules import Rules, Steered

_BY_RULE = (
    *("choose", "features", "count", "weights", "concision_probability"),
    *("paraphrase", "placement"),
)
_BY_MODEL = (
    *("principles", "temperature", "max_tokens", "structured", "max_length_ratio"),
    "checks",
)


class LazyEngine:
    """An engine that is started at the first call, and again after it was closed."""

    def __init__(self, start: Callable[[], Engine]) -> None:
        self._start = start
        self._engine: Engine | None = None

    def __call__(self) -> Engine:
        """Return the started engine."""
        if self._engine is None:
            self._engine = self._start()
        return self._engine

    @property
    def is_started(self) -> bool:
        """True while there is an engine to close."""
        return self._engine is not None

    def close(self) -> None:
        """Close the engine, where it was started."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def identity_of(rules: Rules) -> dict[str, Any]:
    """Return what decides a run's steering, by dotted name, without what has no effect.

    A writer is identified by its weights here, or by its name at the endpoint. Raises ModelError
    where it is not found.
    """
    config, templates = rules.config, rules.templates
    names = list(templates.systems() if config.paraphrase else (SYSTEM,))
    keys = list(_BY_RULE)
    found: dict[str, Any] = {}
    if rules.asks_a_model:
        keys += _BY_MODEL
        names += [CHOOSE] if rules.choose == "policy" else []
        names += [WRITE] if config.principles == "written" else []
    if (name := config.principle_model) and config.endpoint:
        found["steering.writer"] = f"endpoint:{name}"
    elif name:
        found["steering.writer"] = model_fingerprint(resolve_model(name))
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
    """Steer all prompts of the guide with models first, then return the lookup by prompt.

    A model other than the policy that writes on this machine takes the place of the policy's
    engine meanwhile. Raises EngineError when a model can answer nothing any more.
    """
    if not rules.asks_a_model:
        return lambda prompt: rules.by_rule(prompt.id)
    assert guide is not None, "guide is required when a model steers"
    name = f"{policy.name}@{policy.fingerprint}"
    other = config.steering.principle_model

    @contextmanager
    def writer() -> Iterator[Callable[[], Completions]]:
        with ExitStack() as stack:

            def start() -> Completions:
                if not config.steering.endpoint:
                    engine.close()
                    progress.phase(f"loading {other}")
                return stack.enter_context(open_writer(config, progress))

            yield start

    models = Models(
        open_policy=lambda: EngineCompletions(engine(), policy.template, model=name),
        is_control=policy.template.holds_control,
        writer=public_name(other) if other else "policy",
        open_writer=writer if other else None,
    )
    for _ in steer_all(guide, rules, models, progress):
        pass
    for warning in guide.counts.warnings(config.steering.max_fallback_share):
        progress.warn(warning)
    return look_up(guide.store, rules)


def open_writer(config: RunConfig, progress: Progress) -> AbstractContextManager[Completions]:
    """Return the context of the model that writes: `steering.principle_model`, else the policy.

    On this machine it is loaded with the policy's engine settings, but not its adapter and
    revision. Raises ConfigError where neither is named, ModelError or EngineError when entered.
    """
    if config.steering.principle_model:
        engine = config.engine.model_copy(
            update={"adapter": None, "revision": None, "servers": (), "server_model": None}
        )
        model = config.steering.principle_model
        return open_chat(model, config.steering, engine, ViewsConfig(), progress=progress)
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or --endpoint URL")
    return open_chat(config.model, config.steering, config.engine, config.views, progress=progress)
