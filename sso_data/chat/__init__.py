"""Chat models: messages to text, by an engine on this machine or by an OpenAI-compatible server."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from sso_data.chat.endpoint import EndpointCompletions
from sso_data.chat.engine import EngineCompletions
from sso_data.chat.interface import Completions
from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.config.section import EndpointSection
from sso_data.core.progress import NullProgress, Progress
from sso_data.engines import start_engine
from sso_data.models.directory import engine_dir, engine_fingerprint
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today


@contextmanager
def open_chat(
    model: str,
    section: EndpointSection,
    engine: EngineConfig,
    views: ViewsConfig,
    *,
    progress: Progress | None = None,
) -> Iterator[Completions]:
    """Open a chat model: at the section's endpoint where it names one, else in an engine here.

    It is closed with the context. An engine takes seconds to minutes to start. `progress` is given
    the plan of several engines, and one line when something goes wrong and the work goes on. Raises
    ConfigError, ModelError or EngineError.
    """
    progress = progress or NullProgress()
    if section.endpoint:
        with closing(EndpointCompletions(model, section, tell=progress.warn)) as completions:
            yield completions
        return
    directory = engine_dir(model, engine)
    tokenizer = load_tokenizer(directory, trust_remote_code=engine.trust_remote_code)
    template = ChatTemplate(tokenizer, views, today=today())
    name = f"{model}@{engine_fingerprint(model, directory, engine)}"
    with closing(start_engine(directory, engine, progress.warn, progress.note)) as started:
        yield EngineCompletions(started, template, model=name)
