"""Base of all configuration sections, shared field types, and the endpoint of a chat model."""

from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Positive


def plain_url(text: str) -> str:
    """Return the address without a trailing slash.

    Raises ValueError unless `text` is http(s)://host with an optional port and path, and no more.
    """
    try:
        parts = urlsplit(text)
        is_plain = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_plain = False
    if not is_plain or parts.username or parts.query or parts.fragment or not text.isprintable():
        raise ValueError("write an address such as http://host:8000/v1, without a key in it")
    return text.rstrip("/")


class Section(BaseModel):
    """A frozen section that refuses unknown keys; the docstring under a field documents it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True
    )
    page: ClassVar[str] = "docs/configuration.md"

    def idle(self) -> tuple[str, tuple[str, ...]]:
        """Return what makes keys of this section idle, and their names; users may not give them."""
        return "", ()


class EndpointSection(Section):
    """A section whose model may be at an endpoint; `chat.endpoint` reads it."""

    endpoint: Annotated[str, AfterValidator(plain_url)] | None = None
    """Base URL of an OpenAI-compatible server that has the model, e.g. http://host:8000/v1."""
    api_key_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = (
        "OPENAI_API_KEY"
    )
    """Environment variable that holds the endpoint's key; the key itself is never written."""
    endpoint_in_flight: Count = 32
    """Requests sent to the endpoint at once."""
    endpoint_timeout: Seconds = 300.0
    """Seconds after which a request to the endpoint is cancelled and repeated."""
