"""Chat models that answer messages with text: behind an engine of ours, or behind an API."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from sso_data.chat.endpoint import Endpoint, EndpointCompletions
from sso_data.chat.engine import EngineCompletions
from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.engines import start_engine
from sso_data.models.directory import model_fingerprint, resolve_model
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today

__all__ = ["Endpoint", "EndpointCompletions", "EngineCompletions", "open_endpoint", "open_model"]

Tell = Callable[[str], None]
"""Given one line for a person when something goes wrong and the work goes on."""


@contextmanager
def open_model(
    model: str, config: EngineConfig, views: ViewsConfig, *, tell: Tell = lambda line: None
) -> Iterator[EngineCompletions]:
    """A model directory or Hub id in an engine of its own, which is closed with the context.

    Takes seconds to minutes. Raises ModelError or EngineError.
    """
    trusted = config.trust_remote_code
    directory = resolve_model(model, config.revision, trust_remote_code=trusted)
    tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
    template = ChatTemplate(tokenizer, views, today=today())
    name = f"{model}@{model_fingerprint(directory)}"
    with closing(start_engine(directory, config, tell=tell)) as engine:
        yield EngineCompletions(engine, template, model=name)


@contextmanager
def open_endpoint(
    endpoint: Endpoint, *, tell: Tell = lambda line: None
) -> Iterator[EndpointCompletions]:
    """A model behind an OpenAI-compatible server. Raises ConfigError without the client library."""
    with closing(EndpointCompletions(endpoint, tell=tell)) as completions:
        yield completions
