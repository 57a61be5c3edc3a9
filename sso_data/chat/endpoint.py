"""Completions by an OpenAI-compatible server: asked again where it is busy, cut off or slow."""

import asyncio
import importlib.util
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from sso_data.chat.dialect import Dialect
from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.chat.thinking import completion
from sso_data.core.errors import ConfigError, EngineError, one_line
from sso_data.engines.interface import Refused

MISSING = "an endpoint needs the openai client: pip install 'sso-data[openai]'"
PATIENCE_SECONDS = 600.0
FIRST_WAIT_SECONDS = 0.5
MOST_WAIT_SECONDS = 30.0
MOST_ASKED_WAIT_SECONDS = 300.0
TRIES = 4
STEP_SECONDS = 0.2
CLOSE_SECONDS = 5.0

_BUSY = 429
_AGAIN = frozenset((408, 409, 425, _BUSY))
_HOPELESS = frozenset((401, 403, 404))
_CONNECT_SECONDS = 20.0
_TELLING_HEADERS = ("OS", "Arch", "Runtime", "Runtime-Version", "Lang", "Package-Version", "Async")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server and the model asked there.

    `url` ends before `/chat/completions`; `key_env` names the variable that holds the key, if the
    server wants one; `in_flight` requests are worked on at once, each for `timeout` seconds.
    """

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    in_flight: int = 32
    timeout: float = 300.0


class EndpointCompletions:
    """Asks from a thread of its own, so that `step` and signals never wait for the network.

    A request that the server is too busy for (429), fails at (5xx), cuts off or leaves open too
    long is made again: after the time that the server names, else after 0.5, 1, 2 ... 30 seconds,
    less up to a half by chance. A request that failed `TRIES` times while others were answered is
    refused. When nothing was answered for `patience` seconds, `step` raises EngineError.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tell: Callable[[str], None] = lambda line: None,
        patience: float = PATIENCE_SECONDS,
        first_wait: float = FIRST_WAIT_SECONDS,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise ConfigError(MISSING)
        self._endpoint, self._tell = endpoint, tell
        self._patience, self._first_wait = patience, first_wait
        self._key = os.environ.get(endpoint.key_env, "").strip()
        self._open: set[str] = set()
        self._results: queue.SimpleQueue[Completion | Refused | EngineError | str] = (
            queue.SimpleQueue()
        )
        self._dialect = Dialect()
        self._answered = 0
        self._last_answer = time.monotonic()
        self._told = False
        self._loop = asyncio.new_event_loop()
        self._client = _client(endpoint, self._key)
        self._slots = asyncio.Semaphore(endpoint.in_flight)
        self._thread = threading.Thread(target=self._serve, name="sso-data endpoint", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        return f"{self._endpoint.model}@{self._endpoint.url}"

    @property
    def max_in_flight(self) -> int:
        return self._endpoint.in_flight

    def submit(self, requests: Sequence[CompletionRequest]) -> None:
        for request in requests:
            if request.key in self._open:
                raise ValueError("two unanswered requests have the same key")
            if not self._open:
                self._last_answer = time.monotonic()
            self._open.add(request.key)
            self._start(self._answer(request))

    def step(self) -> list[Completion | Refused]:
        results: list[Completion | Refused] = []
        timeout = STEP_SECONDS if self._open else 0.0
        while True:
            try:
                found = (
                    self._results.get(timeout=timeout) if timeout else self._results.get_nowait()
                )
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
        """Cut what is under way; a server that does not let go is left after five seconds."""
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

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answer(self, request: CompletionRequest) -> None:
        """Put a request's one answer into the results."""
        try:
            async with self._slots:
                self._results.put(await self._answered_or_refused(request))
        except EngineError as error:
            self._results.put(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request has an answer
            self._results.put(Refused(key=request.key, detail=self._shown(error)))

    async def _answered_or_refused(self, request: CompletionRequest) -> Completion | Refused:
        under_way = _UnderWay(since=time.monotonic(), answered_before=self._answered)
        while True:
            sent = self._dialect.body(request, self._endpoint.model)
            try:
                reply = await self._client.chat.completions.create(**sent)
                return self._taken(request, reply)
            except Exception as error:  # noqa: BLE001 - a bad reply raises anything
                if self._dialect.learns(error, sent):
                    continue
                under_way.tries += 1
                if self._is_refused(error, under_way):
                    return Refused(key=request.key, detail=self._shown(error))
                await asyncio.sleep(self._wait(error, under_way.tries))

    def _taken(self, request: CompletionRequest, reply: Any) -> Completion | Refused:
        """The text of a reply; whatever is not one raises TypeError or the like."""
        choice = reply.choices[0]
        text, finish = choice.message.content, choice.finish_reason
        self._answered += 1
        self._last_answer = time.monotonic()
        self._told = False
        if finish == "content_filter" or (text is None and choice.message.refusal):
            return Refused(key=request.key, detail="the endpoint refused by its content filter")
        return completion(request.key, text or "", "length" if finish == "length" else "stop")

    def _is_refused(self, error: Exception, under_way: "_UnderWay") -> bool:
        """Whether this request cannot be answered; False: it is made again.

        Raises EngineError when no request can be, as far as one can tell.
        """
        status = getattr(error, "status_code", None)
        if status in _HOPELESS or getattr(error, "code", None) == "insufficient_quota":
            raise EngineError(f"{self._endpoint.url}: {self._shown(error)}; {self._remedy(status)}")
        if status is not None and status < 500 and status not in _AGAIN:
            return True
        others_are_answered = self._answered > under_way.answered_before
        if under_way.tries >= TRIES and status != _BUSY:
            if others_are_answered:
                return True
            if not _is_failure_of_the_line(error):
                raise EngineError(
                    f"{self._endpoint.url}: does not answer like an OpenAI-compatible server "
                    f"({self._shown(error)}); check its address"
                )
        since = time.monotonic() - max(self._last_answer, under_way.since)
        if since > self._patience:
            raise EngineError(
                f"{self._endpoint.url}: has answered nothing for {since:.0f} s "
                f"({self._shown(error)}); start it again, then the same command to continue"
            )
        if not self._told:
            self._told = True
            self._results.put(f"{self._endpoint.url}: {self._shown(error)}; asking again")
        return False

    def _remedy(self, status: int | None) -> str:
        if status in (401, 403):
            return f"check the key in the environment variable {self._endpoint.key_env}"
        return "the quota is used up" if status == _BUSY else "check its address and model name"

    def _wait(self, error: Exception, tries: int) -> float:
        """Seconds until the next try."""
        asked = _retry_after(error)
        if asked is not None:
            return asked + random.uniform(0, self._first_wait)
        seconds = min(MOST_WAIT_SECONDS, self._first_wait * 2.0 ** min(tries - 1, 10))
        return seconds * random.uniform(0.5, 1)

    def _shown(self, error: Exception) -> str:
        """What went wrong as one short line, the key left out."""
        text = str(error) or type(error).__name__
        if self._key:
            text = text.replace(self._key, "<key>")
        return one_line(text, 200)


@dataclass(slots=True)
class _UnderWay:
    """A request that is being made: since when, how often, and what was answered before."""

    since: float
    answered_before: int
    tries: int = 0


def _is_failure_of_the_line(error: Exception) -> bool:
    """Whether a reply never came or was a failure of the server; else it was no reply of an API."""
    from openai import APIConnectionError, APIStatusError

    return isinstance(error, APIConnectionError | APIStatusError)


def _client(endpoint: Endpoint, key: str) -> Any:
    """The library's client: it asks once, tells the server nothing about this machine."""
    from openai import AsyncOpenAI, Omit, Timeout

    if not (key or "none").isascii() or not (key or "none").isprintable():
        raise ConfigError(f"{endpoint.key_env}: holds no key; put the endpoint's key there")
    silent: dict[str, Any] = {f"X-Stainless-{name}": Omit() for name in _TELLING_HEADERS}
    return AsyncOpenAI(
        base_url=endpoint.url,
        api_key=key or "none",
        max_retries=0,
        timeout=Timeout(endpoint.timeout, connect=min(_CONNECT_SECONDS, endpoint.timeout)),
        default_headers={**silent, "User-Agent": "sso-data"},
    )


def _retry_after(error: Exception) -> float | None:
    """The seconds that a failed reply asks to wait, or None."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MOST_ASKED_WAIT_SECONDS) if seconds == seconds else None
