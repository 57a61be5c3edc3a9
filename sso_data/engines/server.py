"""A vLLM server (OpenAI-compatible) as an engine: ids in, ids and raw log-probs out, over HTTP."""

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson

from sso_data.config.run import EngineConfig
from sso_data.core.backoff import seconds_to_wait
from sso_data.core.errors import EngineDeadError, EngineError, SsoDataError, described, one_line
from sso_data.engines.interface import (
    EngineInfo,
    Refused,
    Request,
    Result,
    Sampled,
    SampleRequest,
    Scored,
    ScoreRequest,
)
from sso_data.engines.requests import sampled, score_slots, scored, sort_requests
from sso_data.engines.vllm import grammar_of
from sso_data.models.directory import hub_id_of
from sso_data.models.facts import read_model_facts

FLAGS = (
    "--generation-config vllm --logprobs-mode raw_logprobs --enable-scale-out "
    "--enable-prompt-tokens-details"
)
"""What a server is to be started with."""
GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
TRIES = 4
FIRST_WAIT_SECONDS = 0.5
STEP_SECONDS = 0.1
CONNECT_SECONDS = 10.0
PROBE_TOKENS = 8
AGREED_NATS = 0.05
"""The largest difference, nats/token, of log-probs of the same ids that bfloat16 may make."""
_BUSY = (408, 429)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class _RefusedError(Exception):
    """The server does not take a request (400, 422); its text says why."""


class ServerEngine:
    """The model of one server, probed when this is made.

    As many requests are sent at once as a vLLM engine here would take. A busy server (408, 429) is
    asked until it answers, after the time that it names or longer and longer; one that fails (5xx,
    no connection) counts as dead after four tries. Raises EngineDeadError where there is no server,
    EngineError for one that cannot be used.
    """

    def __init__(self, model_path: Path, config: EngineConfig) -> None:
        self._facts = read_model_facts(model_path, config)
        self._hub_id = hub_id_of(model_path)
        self._url = config.servers[0].removesuffix("/v1")  # with which others are told of it
        self._open: set[str] = set()
        self._ready: list[Result] = []
        self._tasks: set[asyncio.Task[Result]] = set()
        self._loop = asyncio.new_event_loop()
        self._samples = asyncio.Semaphore(config.max_num_seqs)
        self._scores = asyncio.Semaphore(score_slots(config))
        most = config.max_num_seqs + score_slots(config)
        key = os.environ.get("VLLM_API_KEY", "").strip()
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            timeout=httpx.Timeout(config.step_timeout, connect=CONNECT_SECONDS),
        )
        self._path = GENERATE
        self._name = ""
        self._info = self._loop.run_until_complete(self._probe(config))

    @property
    def info(self) -> EngineInfo:
        return self._info

    def submit(self, requests: Sequence[Request]) -> None:
        samples, scores, refused = sort_requests(
            self._open,
            requests,
            context_tokens=self._info.context_tokens,
            vocab_size=self._facts.vocab_size,
        )
        self._ready += refused
        asked: list[Request] = [*scores, *samples]
        self._tasks |= {self._loop.create_task(self._answer(one)) for one in asked}

    def step(self) -> list[Result]:
        """Return what came within a tenth of a second. Raises EngineDeadError."""
        if self._tasks and not self._ready:
            first = asyncio.FIRST_COMPLETED
            waiting = asyncio.wait(self._tasks, timeout=STEP_SECONDS, return_when=first)
            done, self._tasks = self._loop.run_until_complete(waiting)
            self._ready += [task.result() for task in done]
        results, self._ready = self._ready, []
        self._open.difference_update(result.key for result in results)
        return results

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks))
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    async def _answer(self, request: Request) -> Result:
        try:
            if isinstance(request, SampleRequest):
                async with self._samples:
                    return await self._sample(request)
            async with self._scores:
                return await self._score(request)
        except (_RefusedError, ValueError, KeyError, TypeError, IndexError) as error:
            return Refused(key=request.key, detail=f"{self._url}: {described(error)}")

    async def _sample(self, request: SampleRequest) -> Result:
        grammar = None if request.schema is None else grammar_of(request.schema)
        answer = await self._ask(
            request.prompt_ids,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=request.seed,
            stop_token_ids=list(self._facts.eos_ids),
            logprobs=0,
            **({"structured_outputs": {"grammar": grammar}} if grammar else {}),
        )
        choice = answer["choices"][0]
        nats = choice["logprobs"]
        listed = nats["content"] if self._path == GENERATE else nats["token_logprobs"]
        values = [one["logprob"] if isinstance(one, dict) else one for one in listed]
        if choice["finish_reason"] not in ("stop", "length") or not choice["token_ids"]:
            detail = f"{self._url} ended the request: {choice['finish_reason']}"
            return Refused(key=request.key, detail=detail)
        return sampled(request, choice["token_ids"], values, choice["finish_reason"])

    async def _score(self, request: ScoreRequest) -> Result:
        """Score; once more, without cached prefixes, where log-probs of the completion miss."""
        ids = [*request.prompt_ids, *request.completion_ids]
        unread = request.was_sampled or self._path != GENERATE
        while True:
            settings: dict[str, Any] = {} if unread else {"skip_reading_prefix_cache": False}
            answer = await self._ask(
                ids, max_tokens=1, temperature=0.0, prompt_logprobs=0, **settings
            )
            if unread or _cached(answer) <= len(request.prompt_ids) - 1:
                break
            unread = True
        place = answer if self._path == GENERATE else answer["choices"][0]
        count = len(request.completion_ids)
        rows = place["prompt_logprobs"][-count:]
        pairs = zip(rows, request.completion_ids, strict=True)
        return scored(request, [row[str(token)]["logprob"] for row, token in pairs])

    async def _ask(self, ids: Sequence[int], **params: Any) -> Any:
        """One request of the server, with everything neutral that is not asked for."""
        neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        if self._path == GENERATE:
            params |= {**neutral, "detokenize": False}
            body: dict[str, Any] = {"token_ids": list(ids), "sampling_params": params}
        else:
            body = {"prompt": list(ids), "return_token_ids": True, **neutral, **params}
        return await self._http("POST", self._path, {"model": self._name, **body})

    async def _http(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. Raises _RefusedError, EngineError or EngineDeadError."""
        content = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"}
        failure, tries, failures = "", 0, 0
        while failures < TRIES:
            try:
                got = await self._client.request(
                    method, f"{self._url}{path}", content=content, headers=headers
                )
            except httpx.HTTPError as error:
                failure, after, is_busy = described(error), None, False
            else:
                if got.is_success:
                    return orjson.loads(got.content)
                failure = f"HTTP {got.status_code} {one_line(got.text, 200)}"
                after, is_busy = got.headers.get("retry-after"), got.status_code in _BUSY
                if not is_busy and got.status_code < 500:
                    kind = _RefusedError if got.status_code in (400, 422) else _HttpError
                    raise kind(f"{self._url}{path}: {failure}")
            tries, failures = tries + 1, failures + (not is_busy)
            if failures < TRIES:
                await asyncio.sleep(seconds_to_wait(after, tries, FIRST_WAIT_SECONDS))
        raise EngineDeadError(f"{self._url}: the server does not answer: {failure}")

    async def _probe(self, config: EngineConfig) -> EngineInfo:
        """Find out whether the server can be used. Raises EngineError with what to do."""
        try:
            card = await self._card(config)
            context = min(self._facts.context, card.get("max_model_len") or self._facts.context)
            if config.max_model_len and context < config.max_model_len:
                raise EngineError(
                    f"{self._url}: its context is {context} tokens, engine.max_model_len "
                    f"{config.max_model_len}; start it with --max-model-len {config.max_model_len}"
                )
            probe = await self._probe_logprobs()
            await self._probe_vocabulary()
            version = await self._http("GET", "/version")
        except (_HttpError, _RefusedError) as error:
            raise EngineError(f"{error}; start the server with {FLAGS}") from error
        except SsoDataError:
            raise
        except Exception as error:  # whatever an answer lacks
            raise EngineError(
                f"{self._url}: not a vLLM server that can be used: {described(error)}; start it "
                f"with {FLAGS}"
            ) from error
        return EngineInfo(
            name="vllm",
            version=str(version.get("version")),
            device="server",
            dtype="server",
            context_tokens=context - 1,
            max_in_flight=config.max_num_seqs,
            probe=probe,
        )

    async def _card(self, config: EngineConfig) -> dict[str, Any]:
        """The server's description of the model that is asked for."""
        cards = (await self._http("GET", "/v1/models"))["data"]
        names = [str(card["id"]) for card in cards]
        base = [name for name, card in zip(names, cards, strict=True) if not card.get("parent")]
        wanted = config.server_model or base[0]
        if wanted not in names or (config.server_model is None and len(base) > 1):
            raise EngineError(
                f"{self._url}: serves {', '.join(names)}; set engine.server_model to one of them"
            )
        self._name = wanted
        by_name = dict(zip(names, cards, strict=True))
        root, ours = str(by_name[wanted].get("root")), self._hub_id
        if config.server_model is None and ours and _HUB_ID.fullmatch(root) and root != ours:
            raise EngineError(
                f"{self._url}: serves {root}, and the model is {ours}; give --model {root}, or, if "
                f"the two are one, --set engine.server_model={wanted}"
            )
        parent: dict[str, Any] = by_name.get(str(by_name[wanted].get("parent")), {})
        return parent | {key: value for key, value in by_name[wanted].items() if value is not None}

    async def _probe_logprobs(self) -> float:
        """Check seeds and log-probs; returns those of fixed ids, which tell models apart (nats)."""
        top = self._facts.vocab_size - 1
        prompt = tuple(1 + (7919 * i) % top for i in range(1, 2 * PROBE_TOKENS))
        request = SampleRequest(
            key="probe",
            prompt_ids=prompt,
            max_tokens=PROBE_TOKENS,
            seed=1,
            temperature=0.3,
            top_p=0.9,
        )
        try:
            first = await self._sample(request)
        except _HttpError:
            self._path = COMPLETIONS
            first = await self._sample(request)
        again = await self._sample(request)
        if not isinstance(first, Sampled) or not isinstance(again, Sampled):
            raise EngineError(f"{self._url}: gave no answer to a prompt of {len(prompt)} ids")
        if first.token_ids != again.token_ids:
            raise EngineError(f"{self._url}: the same seed gave other tokens; use vLLM's server")
        totals = [
            await self._score(
                ScoreRequest(key="probe", prompt_ids=prompt, completion_ids=first.token_ids)
            )
            for _ in range(2)
        ]
        for total in totals:
            if not isinstance(total, Scored):
                raise EngineError(f"{self._url}: gives no log-probs of a prompt")
            if abs(total.total_nats - first.total_nats) > AGREED_NATS * len(first.token_ids):
                raise EngineError(
                    f"{self._url}: its log-probs are not the raw model's; start it with {FLAGS}"
                )
        fixed = ScoreRequest(
            key="probe", prompt_ids=prompt[:1], completion_ids=prompt[1:], was_sampled=True
        )
        result = await self._score(fixed)
        if not isinstance(result, Scored):
            raise EngineError(f"{self._url}: gives no log-probs of a prompt")
        return result.total_nats

    async def _probe_vocabulary(self) -> None:
        """Check that the server's model has as many tokens as ours."""
        size = self._facts.vocab_size
        await self._ask([size - 1], max_tokens=1, temperature=0.0)
        try:
            await self._ask([size], max_tokens=1, temperature=0.0)
        except _RefusedError:
            return
        raise EngineError(
            f"{self._url}: serves another model: its vocabulary has more than {size} tokens"
        )


class _HttpError(EngineError):
    """The server refuses whatever it is asked here: no such path, no permission."""


def _cached(answer: Any) -> int:
    """The number of the prompt's tokens that the server took from its cache."""
    details = (answer.get("usage") or {}).get("prompt_tokens_details")
    if details is None:
        raise EngineError(f"the server does not report cached tokens; start it with {FLAGS}")
    return int(details.get("cached_tokens") or 0)
