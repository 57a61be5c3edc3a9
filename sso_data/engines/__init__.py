"""Engines that continue and score token ids: vLLM and transformers, inline or in a subprocess."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from sso_data.config.run import EngineConfig
from sso_data.engines.inline import resolve_name, start_inline, start_server
from sso_data.engines.interface import Engine

__all__ = ["resolve_name", "start_engine"]


def start_engine(
    model_path: Path,
    config: EngineConfig,
    tell: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
) -> Engine:
    """Start the engines for the model in the directory `model_path`, which work as one.

    Those in child processes are restarted when they die; `tell` is given one line then, and `note`
    the plan, where there is more than one engine or a GPU without room. Takes seconds to minutes.
    Raises ConfigError, EngineError or ModelError, one line each.
    """
    from sso_data.engines.child import ChildEngine
    from sso_data.engines.devices import plan_with_patience
    from sso_data.engines.fleet import Fleet

    if config.cluster:
        from sso_data.engines.cluster import Cluster

        cluster = Cluster(model_path, config, resolve_name(config), tell=tell)
        note(cluster.text)
        names = [f"engine {number}" for number in range(1, cluster.count + 1)]
        places = [cluster.start] * cluster.count
        return Fleet(places, cluster.config, names=names, tell=tell, room=cluster.room)
    if config.servers:

        def reach(changed: EngineConfig, url: str) -> ChildEngine:
            own = changed.model_copy(update={"servers": (url,)})
            return ChildEngine(model_path, own, start=start_server)

        reached = [partial(reach, url=url) for url in config.servers]
        return Fleet(reached, config, names=config.servers, tell=tell, together=True)
    plan = plan_with_patience(config, resolve_name(config), model_path)
    if len(plan.names) > 1 or plan.skipped:
        note(plan.text)
    if config.isolation == "inline":
        return start_inline(model_path, config)
    config = config.model_copy(update={"count": len(plan.names)})

    def start(changed: EngineConfig, environment: Mapping[str, str]) -> ChildEngine:
        return ChildEngine(model_path, changed, environment=environment)

    starts = [partial(start, environment=environment) for environment in plan.environments]
    return Fleet(starts, config, names=plan.names, tell=tell)
