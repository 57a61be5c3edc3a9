"""Engines that continue and score token ids: vLLM and transformers, inline or in a subprocess."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, SsoDataError, described
from sso_data.engines.environment import prepare_environment
from sso_data.engines.interface import Engine

__all__ = ["resolve_name", "start_engine"]


def resolve_name(config: EngineConfig) -> Literal["vllm", "transformers"]:
    """The engine that `config.name` means here: `auto` is vLLM where it is installed."""
    if config.name != "auto":
        return config.name
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def start_engine(
    model_path: Path, config: EngineConfig, tell: Callable[[str], None] = lambda line: None
) -> Engine:
    """Start an engine for the model in the directory `model_path`.

    One in a child process is restarted when it dies; `tell` is given one line then. Takes
    seconds to minutes. Raises EngineError or ModelError, one line each.
    """
    if config.isolation == "inline":
        return start_inline(model_path, config)
    from sso_data.engines.child import ChildEngine
    from sso_data.engines.restarting import RestartingEngine

    return RestartingEngine(lambda changed: ChildEngine(model_path, changed), config, tell=tell)


def start_inline(model_path: Path, config: EngineConfig) -> Engine:
    """Start the engine in this process; only here are torch, transformers or vLLM imported.

    Raises EngineError or ModelError.
    """
    prepare_environment(config)
    try:
        if resolve_name(config) == "vllm":
            from sso_data.engines.vllm import VllmEngine

            return VllmEngine(model_path, config)
        from sso_data.engines.transformers import TransformersEngine

        return TransformersEngine(model_path, config)
    except SsoDataError:
        raise
    except Exception as error:  # whatever a library raises on a broken model
        raise EngineError(f"{model_path}: the engine cannot start: {described(error)}") from error
