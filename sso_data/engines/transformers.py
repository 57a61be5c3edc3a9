"""The transformers engine: samples and scores with a plain model, on CPU, CUDA or MPS."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
import transformers

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, described
from sso_data.engines.decoding import DecodeBatch
from sso_data.engines.interface import (
    EngineInfo,
    Refused,
    Request,
    Result,
    SampleRequest,
    ScoreRequest,
)
from sso_data.engines.requests import scored, sort_requests, total_ids
from sso_data.models.facts import read_model_facts
from sso_data.models.inference import LoadedModel
from sso_data.models.memory import is_out_of_memory, pass_tokens, release_device_memory

R = TypeVar("R", SampleRequest, ScoreRequest)
SCORE_AT_LEAST_EVERY = 32
"""Decode steps after which waiting scores are done even if they do not fill a micro-batch."""


class TransformersEngine:
    """Continuous batching: new rows join once the batch has shrunk by half; scores go in between.

    Running out of memory halves the batch limits, and what was under way starts again: a request's
    tokens depend on its seed and its logits alone, so it comes out the same.
    """

    def __init__(self, model_path: Path, config: EngineConfig) -> None:
        self._facts = read_model_facts(model_path, config)
        self._model = LoadedModel(model_path, config, self._facts)
        self._batch_tokens = config.batch_tokens
        self._max_rows = config.max_num_seqs
        self._cache_room = max(self._facts.context, self._model.cache_room())
        self._info = EngineInfo(
            name="transformers",
            version=transformers.__version__,
            device=str(self._model.device),
            dtype=str(self._model.dtype).removeprefix("torch."),
            context_tokens=self._facts.context,
            max_in_flight=config.max_num_seqs,
        )
        self._open: set[str] = set()
        self._refused: list[Result] = []
        self._samples: deque[SampleRequest] = deque()
        self._scores: list[ScoreRequest] = []
        self._working: list[Request] = []
        self._batch: DecodeBatch | None = None
        self._filling = False
        self._steps_since_score = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    def submit(self, requests: Sequence[Request]) -> None:
        context, vocabulary = self._facts.context, self._facts.vocab_size
        samples, scores, refused = sort_requests(
            self._open, requests, context_tokens=context, vocab_size=vocabulary
        )
        self._samples += samples
        self._scores += scores
        self._refused += refused

    def step(self) -> list[Result]:
        """Do one scoring micro-batch, one prefill, or one token of every active row.

        A request that does not fit the memory alone is refused.
        """
        results, self._refused = self._refused, []
        if not results and (work := self._next_work()) is not None:
            out_of_memory = False
            try:
                with torch.inference_mode():
                    results = work()
                self._working = []
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise EngineDeadError(
                        f"the transformers engine failed: {described(error)}"
                    ) from error
                out_of_memory = True
            if out_of_memory:  # the exception is gone by now, and with it the tensors that it holds
                results = self._back_off()
        self._open.difference_update(result.key for result in results)
        return results

    def close(self) -> None:
        self._batch = None
        del self._model
        release_device_memory()

    def _next_work(self) -> Callable[[], list[Result]] | None:
        batch = self._batch
        if self._scores and (
            not (self._samples or batch)
            or self._steps_since_score >= SCORE_AT_LEAST_EVERY
            or sum(map(total_ids, self._scores)) >= self._batch_tokens
        ):
            return self._score
        if self._samples:
            if batch is None or len(batch) <= self._max_rows // 2:
                self._filling = True
            if batch is not None:
                self._filling = self._filling and batch.joinable and self._room() > 0
            if self._filling:
                return self._prefill
        return self._decode if batch else None

    def _room(self) -> int:
        """The number of oldest waiting requests that fit with the active rows at full length."""
        active = self._batch.requests if self._batch else []
        longest = max(map(total_ids, active), default=0)
        count = len(active)
        for request in islice(self._samples, self._max_rows - len(active)):
            longest = max(longest, total_ids(request))
            if count and (count + 1) * longest > self._cache_room:
                break
            count += 1
        return count - len(active)

    def _prefill(self) -> list[Result]:
        """Run the prompts of waiting requests: the longest that fit one forward pass together."""
        oldest = [self._samples.popleft() for _ in range(self._room())]
        group = next(self._passes(oldest, lambda request: len(request.prompt_ids)))
        taken = {request.key for request in group}
        self._samples.extendleft(r for r in reversed(oldest) if r.key not in taken)
        self._working = list(group)
        fresh = DecodeBatch(self._model, group)
        results = fresh.prefill()
        if fresh and self._batch:
            self._batch.join(fresh)
        elif fresh:
            self._batch = fresh
        return results

    def _decode(self) -> list[Result]:
        assert self._batch is not None
        self._steps_since_score += 1
        results = self._batch.decode()
        if not self._batch:
            self._batch = None
        return results

    def _score(self) -> list[Result]:
        """Score the longest of the waiting completions, in passes of about the same length."""
        self._steps_since_score = 0
        self._scores.sort(key=total_ids)
        count = max(1, self._batch_tokens // total_ids(self._scores[-1]))
        longest = self._scores[-count:]
        self._working = list(longest)
        del self._scores[-count:]
        results = []
        for group in self._passes(longest, total_ids):
            nats = self._model.completion_logprobs(
                [list(request.prompt_ids) for request in group],
                [list(request.completion_ids) for request in group],
            )
            results += [scored(request, row) for request, row in zip(group, nats, strict=True)]
        return results

    def _passes(self, requests: Iterable[R], tokens: Callable[[R], int]) -> Iterator[list[R]]:
        """The requests, the longest first, as many at a time as one pass may have tokens."""
        most = pass_tokens(self._model.device.type, self._batch_tokens)
        left = sorted(requests, key=tokens, reverse=True)
        while left:
            count = max(1, most // tokens(left[0]))
            yield left[:count]
            del left[:count]

    def _back_off(self) -> list[Result]:
        """After running out of memory: a request that was alone is refused, others start again."""
        under_way = [r for r in self._working if isinstance(r, SampleRequest)]
        scores = [r for r in self._working if isinstance(r, ScoreRequest)]
        if not scores:
            known = {request.key for request in under_way}
            active = self._batch.requests if self._batch else []
            under_way += [request for request in active if request.key not in known]
            self._batch = None
        self._working = []
        release_device_memory()
        redo = scores or under_way
        if len(redo) == 1:
            return [Refused(key=redo[0].key, detail="out of memory with this request alone")]
        self._batch_tokens = max(1, min(self._batch_tokens, sum(map(total_ids, redo))) // 2)
        if scores:
            self._scores += scores
        else:
            self._max_rows = max(1, len(redo) // 2)
            self._samples.extendleft(reversed(under_way))
        return []
