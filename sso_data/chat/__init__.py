"""Chat models: messages to text, by an engine on this machine or by an OpenAI-compatible server."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from sso_data.chat.endpoint import EndpointCompletions
from sso_data.chat.engine import EngineCompletions
from sso_data.chat.interface import Completions
from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.config.section import EndpointSection
from sso_data.engines import start_engine
from sso_data.models.directory import model_fingerprint, resolve_model
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today


@contextmanager
def open_chat(
    model: str,
    section: EndpointSection,
    engine: EngineConfig,
    views: ViewsConfig,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Completions]:
    """Open a chat model: at the section's endpoint where it names one, else in an engine here.

    It is closed with the context. An engine takes seconds to minutes to start. `tell` is given one
    line when something goes wrong and the work goes on. Raises ConfigError, ModelError or
    EngineError.
    """
    if section.endpoint:
        with closing(EndpointCompletions(model, section, tell=tell)) as completions:
            yield completions
        return
    trusted = engine.trust_remote_code
    directory = resolve_model(model, engine.revision, trust_remote_code=trusted)
    tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
    template = ChatTemplate(tokenizer, views, today=today())
    name = f"{model}@{model_fingerprint(directory)}"
    with closing(start_engine(directory, engine, tell=tell)) as started:
        yield EngineCompletions(started, template, model=name)
