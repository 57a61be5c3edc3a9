"""The engine in this process, by its name: vLLM, transformers, or the client of a server."""

import importlib.util
from pathlib import Path
from typing import Literal

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, SsoDataError, described
from sso_data.engines.environment import prepare_environment
from sso_data.engines.interface import Engine


def resolve_name(config: EngineConfig) -> Literal["vllm", "transformers"]:
    """The engine that `config.name` means here: `auto` is vLLM where it is installed.

    Servers are vLLM's.
    """
    if config.servers:
        return "vllm"
    if config.name != "auto":
        return config.name
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def start_server(model_path: Path, config: EngineConfig) -> Engine:
    """Reach the first of `config.servers`. Raises EngineError; EngineDeadError without a server."""
    from sso_data.engines.server import ServerEngine

    return ServerEngine(model_path, config)


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
