"""Completions by an OpenAI-compatible server; busy, cut off and slow requests are retried."""

import asyncio
import importlib.util
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sso_data.chat.interface import Completion, CompletionRequest, without_thinking
from sso_data.config.section import EndpointSection
from sso_data.core.backoff import seconds_to_wait
from sso_data.core.errors import ConfigError, EngineError, one_line
from sso_data.engines.interface import Refused

PATIENCE_SECONDS = 600.0
FIRST_WAIT_SECONDS = 0.5
TRIES = 4
STEP_SECONDS = 0.2
CLOSE_SECONDS = 5.0

_BUSY = 429
_RETRIED = frozenset((408, 409, 425, _BUSY))
_HOPELESS = frozenset((401, 403, 404))
_BAD_REQUEST = (400, 422)
_CONNECT_SECONDS = 20.0
_TELLING_HEADERS = ("OS", "Arch", "Runtime", "Runtime-Version", "Lang", "Package-Version", "Async")
_OPTIONAL = ("temperature", "top_p", "seed")
_HOLDS_TO_SCHEMA = re.compile(
    r"response_format|json_schema|guided|structured|grammar|xgrammar", re.IGNORECASE
)


class EndpointCompletions:
    """The model named `model` at the endpoint of a configuration section.

    Requests are sent from a thread of its own; `step` and signals never wait for the network.

    A request that the server is too busy for (429), fails at (5xx), cuts off or does not answer in
    time is retried: after the time that the server names, else after 0.5, 1, 2 ... 30 seconds,
    minus a random share of up to a half. A request that failed `TRIES` times while others were
    answered is refused. When nothing was answered for `patience` seconds, `step` raises
    EngineError. Raises ConfigError without the client library, or for a key that is not one.
    """

    def __init__(
        self,
        model: str,
        section: EndpointSection,
        *,
        tell: Callable[[str], None] = lambda line: None,
        patience: float = PATIENCE_SECONDS,
        first_wait: float = FIRST_WAIT_SECONDS,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise ConfigError("an endpoint needs the openai client: pip install 'sso-data[openai]'")
        from openai import AsyncOpenAI, Omit, Timeout

        assert section.endpoint is not None
        self._name, self._url, self._tell = model, section.endpoint, tell
        self._key_env, self._in_flight = section.api_key_env, section.endpoint_in_flight
        self._patience, self._first_wait = patience, first_wait
        self._key = os.environ.get(self._key_env, "").strip()
        key = self._key or "none"
        if not key.isascii() or not key.isprintable():
            raise ConfigError(
                f"environment variable {self._key_env}: not a usable key (printable ASCII); set it "
                "to the endpoint's key"
            )
        self._open: set[str] = set()
        self._results: queue.SimpleQueue[Completion | Refused | EngineError | str] = (
            queue.SimpleQueue()
        )
        self._dialect = _Dialect()
        self._answered = 0
        self._last_answer = time.monotonic()
        self._has_told = False
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(self._in_flight)
        timeout = section.endpoint_timeout
        silent: dict[str, Any] = {f"X-Stainless-{name}": Omit() for name in _TELLING_HEADERS}
        self._client = AsyncOpenAI(
            base_url=self._url,
            api_key=key,
            max_retries=0,
            timeout=Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout)),
            default_headers={**silent, "User-Agent": "sso-data"},
        )
        self._thread = threading.Thread(target=self._serve, name="sso-data endpoint", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        return f"{self._name}@{self._url}"

    @property
    def max_in_flight(self) -> int:
        return self._in_flight

    def submit(self, requests: Sequence[CompletionRequest]) -> None:
        for request in requests:
            if request.key in self._open:
                raise ValueError("two unanswered requests have the same key")
            if not self._open:
                self._last_answer = time.monotonic()
            self._open.add(request.key)
            asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)

    def step(self) -> list[Completion | Refused]:
        results: list[Completion | Refused] = []
        timeout = STEP_SECONDS if self._open else 0.0
        while True:
            try:
                found = self._results.get(block=timeout > 0, timeout=timeout)
            except queue.Empty:
                break
            if isinstance(found, EngineError):
                raise found
            if isinstance(found, str):
                self._tell(found)
            else:
                results.append(found)
                timeout = 0.0
        self._open.difference_update(result.key for result in results)
        return results

    def close(self) -> None:
        """Cancel open requests; a server that holds a connection is given up after five seconds."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._client.close())
        finally:
            self._loop.close()

    async def _answer(self, request: CompletionRequest) -> None:
        """Put the one answer to a request into the results."""
        try:
            async with self._slots:
                self._results.put(await self._ask(request))
        except EngineError as error:
            self._results.put(error)
        except Exception as error:  # noqa: BLE001 - every request gets an answer
            self._results.put(Refused(key=request.key, detail=self._shown(error)))

    async def _ask(self, request: CompletionRequest) -> Completion | Refused:
        """Send the request until it is answered or refused.

        Raises EngineError when, as far as can be known, no request will be answered.
        """
        since, answered_before, tries = time.monotonic(), self._answered, 0
        while True:
            sent = self._dialect.body(request, self._name)
            try:
                reply = await self._client.chat.completions.create(**sent)
                choice = reply.choices[0]
                text, finish = choice.message.content, choice.finish_reason
                is_filtered = finish == "content_filter" or (
                    text is None and choice.message.refusal
                )
                ended: Any = "length" if finish == "length" else "stop"
                answer = without_thinking(request.key, text or "", ended)
            except Exception as error:  # noqa: BLE001 - a malformed reply raises anything
                if self._dialect.learns(error, sent):
                    continue
                tries += 1
                others_are_answered = self._answered > answered_before
                if self._is_refused(error, tries, since, others_are_answered):
                    return Refused(key=request.key, detail=self._shown(error))
                headers = getattr(getattr(error, "response", None), "headers", {})
                after = headers.get("retry-after")
                await asyncio.sleep(seconds_to_wait(after, tries, self._first_wait))
                continue
            self._answered += 1
            self._last_answer = time.monotonic()
            self._has_told = False
            if is_filtered:
                return Refused(key=request.key, detail="the endpoint's content filter refused it")
            return answer

    def _is_refused(
        self, error: Exception, tries: int, since: float, others_are_answered: bool
    ) -> bool:
        """Return True when this request cannot be answered, False when it is to be retried.

        Raises EngineError when, as far as can be known, no request will be answered.
        """
        from openai import APIConnectionError, APIStatusError

        url, shown = self._url, self._shown(error)
        status = getattr(error, "status_code", None)
        if status in _HOPELESS or getattr(error, "code", None) == "insufficient_quota":
            remedy = "check its address and model name"
            if status == _BUSY:
                remedy = "the quota is used up"
            elif status in (401, 403):
                remedy = f"check the key in the environment variable {self._key_env}"
            raise EngineError(f"{url}: {shown}; {remedy}")
        if status is not None and status < 500 and status not in _RETRIED:
            return True
        if tries >= TRIES and status != _BUSY:
            if others_are_answered:
                return True
            if not isinstance(error, APIConnectionError | APIStatusError):
                raise EngineError(
                    f"{url}: does not answer like an OpenAI-compatible server ({shown}); check its "
                    "address"
                )
        silent = time.monotonic() - max(self._last_answer, since)
        if silent > self._patience:
            raise EngineError(
                f"{url}: no answer for {silent:.0f} s ({shown}); restart the server, then run the "
                "same command again to continue"
            )
        if not self._has_told:
            self._has_told = True
            self._results.put(f"{url}: {shown}; retrying")
        return False

    def _shown(self, error: Exception) -> str:
        """The error as one short line without the key."""
        text = str(error) or type(error).__name__
        if self._key:
            text = text.replace(self._key, "<key>")
        return one_line(text, 200)


class _Dialect:
    """The parameters that a server accepts: at first all that a request can have.

    Newer models want `max_completion_tokens` in place of `max_tokens`; some take no temperature,
    seed or schema.
    """

    def __init__(self) -> None:
        self._left_out: set[str] = set()
        self._limit = "max_tokens"

    def body(self, request: CompletionRequest, model: str) -> dict[str, Any]:
        """Return the arguments of a chat completion."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [message.to_json() for message in request.messages],
            self._limit: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % 2**31,
        }
        if request.schema is not None:
            schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def learns(self, error: Exception, sent: Mapping[str, Any]) -> bool:
        """Return True when the refusal of `sent` names something to leave out from now on."""
        if getattr(error, "status_code", None) not in _BAD_REQUEST:
            return False
        text = f"{getattr(error, 'param', None)} {error}"
        if "max_completion_tokens" in text and "max_tokens" in sent:
            self._limit = "max_completion_tokens"
            return True
        named = [name for name in _OPTIONAL if name in sent and re.search(rf"\b{name}\b", text)]
        if "response_format" in sent and _HOLDS_TO_SCHEMA.search(text):
            named.append("response_format")
        self._left_out.update(named)
        return bool(named)
