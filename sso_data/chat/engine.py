"""Completions by an engine here: messages through the chat template to ids, and ids to text."""

import json
from collections.abc import Sequence

from sso_data.chat.interface import Completion, CompletionRequest, without_thinking
from sso_data.engines.interface import Engine, Refused, Result, Sampled, SampleRequest
from sso_data.templating.chat_template import ChatTemplate, Unrenderable

LEAST_TOKENS = 16
"""A prompt that leaves less room for its answer (tokens) is refused."""


class EngineCompletions:
    """Answers with an engine that its owner starts, closes and does not use meanwhile.

    Answers are shorter than `max_tokens` where the context leaves less room.
    """

    def __init__(self, engine: Engine, template: ChatTemplate, *, model: str) -> None:
        self._engine = engine
        self._template = template
        self._model = model
        self._ready: list[Completion | Refused] = []

    @property
    def model(self) -> str:
        return self._model

    @property
    def max_in_flight(self) -> int:
        return self._engine.info.max_in_flight

    def holds_control(self, text: str) -> bool:
        """Return True when `text` holds the text of one of the model's control tokens."""
        return self._template.holds_control(text)

    def submit(self, requests: Sequence[CompletionRequest]) -> None:
        context, thinks = self._engine.info.context_tokens, self._template.facts.opens_thinking
        asked = []
        for request in requests:
            try:
                ids = self._template.ids(request.messages)
            except Unrenderable as error:
                self._ready.append(Refused(key=request.key, detail=str(error)))
                continue
            room = context - len(ids)
            if room < min(LEAST_TOKENS, request.max_tokens):
                detail = f"the question has {len(ids)} tokens, the context {context}"
                self._ready.append(Refused(key=request.key, detail=detail))
                continue
            asked.append(
                SampleRequest(
                    key=request.key,
                    prompt_ids=ids,
                    max_tokens=min(request.max_tokens, room),
                    seed=request.seed,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    schema=None if thinks or request.schema is None else json.dumps(request.schema),
                )
            )
        if asked:
            self._engine.submit(asked)

    def step(self) -> list[Completion | Refused]:
        ready, self._ready = self._ready, []
        return ready or [self._answer(result) for result in self._engine.step()]

    def close(self) -> None:
        """Do nothing: the owner closes the engine."""

    def _answer(self, result: Result) -> Completion | Refused:
        if isinstance(result, Refused):
            return result
        assert isinstance(result, Sampled)
        return without_thinking(
            result.key,
            self._template.text(result.token_ids),
            result.finish_reason,
            opens_thinking=self._template.facts.opens_thinking,
        )
