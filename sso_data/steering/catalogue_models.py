"""The one model that a command about principles asks: here, or at an endpoint."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sso_data.chat import EngineCompletions, open_endpoint, open_model
from sso_data.chat.interface import Completions
from sso_data.config.run import RunConfig
from sso_data.core.errors import ConfigError
from sso_data.steering.models import endpoint_of, open_writer_of


@contextmanager
def asked_model(config: RunConfig, tell: Callable[[str], None]) -> Iterator[Completions]:
    """The model that writes, at an endpoint or here, else the policy; closed with the context."""
    if config.steering.endpoint:
        with open_endpoint(endpoint_of(config.steering), tell=tell) as endpoint:
            yield endpoint
    elif config.steering.principle_model:
        with open_writer_of(config, tell=tell) as writer:
            yield writer
    elif config.model:
        with open_model(config.model, config.engine, config.views, tell=tell) as model:
            yield model
    else:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or --endpoint URL")


def control_test(model: Completions) -> Callable[[str], bool]:
    """Whether a text holds a control token of the model, as far as it is known."""
    if isinstance(model, EngineCompletions):
        return model.holds_control
    return lambda text: False
