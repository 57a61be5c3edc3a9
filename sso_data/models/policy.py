"""The policy: a model as rows name it, with its chat template."""

from dataclasses import dataclass

from sso_data.templating.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The model as rows name it, and its chat template."""

    name: str
    fingerprint: str
    template: ChatTemplate
