"""The order of the work: many attempts in flight, each decided in its turn, until there are enough.

Answers come in any order and are decided in the order of the attempts, because what is a duplicate
depends on what was accepted before. So the same seed gives the same file, however it was made.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Literal

from sso_data.augmentation.attempts import draw, request
from sso_data.augmentation.output import Answer, Output
from sso_data.augmentation.reviewer import Accepted, QueryReviewer
from sso_data.augmentation.seeds import Seeds
from sso_data.augmentation.tally import AttemptCounts
from sso_data.chat.interface import Completions
from sso_data.config.augmentation import AugmentConfig
from sso_data.core.jinja import Templates
from sso_data.engines.interface import Refused

State = Literal["finished", "attempts", "patience"]
_WINDOW = 2
"""Requests kept submitted, as a multiple of what the model works on at once."""
_AHEAD = 4
"""Attempts begun beyond the first undecided one, in the same measure."""
_LEAST_YIELD = 0.1
_SYNC_SECONDS = 2.0


class Loop:
    """Asks and decides until `wanted` queries are accepted or a limit is reached."""

    def __init__(
        self,
        start: Callable[[], Completions],
        seeds: Seeds,
        config: AugmentConfig,
        judge: QueryReviewer,
        output: Output,
        *,
        wanted: int,
        model: str,
        on_progress: Callable[[AttemptCounts], None],
    ) -> None:
        self._start = start
        self._seeds = seeds
        self._config = config
        self._templates = Templates(directory=config.templates)
        self._template = self._templates.fingerprint("augment.j2")
        self._judge = judge
        self._output = output
        self._wanted = wanted
        self._model = model
        self._on_progress = on_progress
        self._most = math.ceil(wanted * config.limits.attempts_per_query)
        self._arrived: dict[int, Answer] = output.kept()
        self._asked: set[int] = set()
        self._next = output.num_decided
        self._synced = time.monotonic()

    def run(self) -> State:
        """Work; returns why it ended. Raises EngineError when nothing can be answered any more."""
        self._decide()
        while (state := self._state()) is None:
            self._ask()
            news = {int(answer.key): _writable(answer) for answer in self._completions.step()}
            self._asked -= news.keys()
            self._arrived |= news
            self._keep(news)
            self._decide()
            self._on_progress(self._output.tally)
            self._sync_now_and_then()
        self._output.nothing_waits()
        return state

    @cached_property
    def _completions(self) -> Completions:
        return self._start()

    def _state(self) -> State | None:
        """Why the work has ended, from what is decided alone; None while it goes on."""
        tally = self._output.tally
        if tally.num_accepted >= self._wanted:
            return "finished"
        if tally.num_attempts >= self._most:
            return "attempts"
        if tally.idle >= self._config.limits.patience:
            return "patience"
        return None

    def _ask(self) -> None:
        """Submit attempts: as many as the model likes, and not many more than are needed."""
        at_once = self._completions.max_in_flight
        end = min(self._output.num_decided + self._likely_needed(_AHEAD * at_once), self._most)
        requests = []
        while self._next < end and len(self._asked) < _WINDOW * at_once:
            number, self._next = self._next, self._next + 1
            if number not in self._arrived:
                attempt = draw(number, self._seeds.rows, self._config)
                requests.append(request(attempt, self._templates, self._config.answers))
                self._asked.add(number)
        if requests:
            self._completions.submit(requests)

    def _likely_needed(self, most: int) -> int:
        """How many attempts the missing queries will take, going by those so far."""
        tally = self._output.tally
        share = (tally.num_accepted + 1) / (tally.num_attempts + 1)
        missing = self._wanted - tally.num_accepted
        return min(most, math.ceil(missing / max(share, _LEAST_YIELD)))

    def _decide(self) -> None:
        """Decide every attempt whose turn it is."""
        while self._state() is None and self._output.num_decided in self._arrived:
            number = self._output.num_decided
            attempt = draw(number, self._seeds.rows, self._config)
            verdict = self._judge.verdict(attempt, self._arrived.pop(number))
            if isinstance(verdict, Accepted):
                self._output.accept(
                    verdict.to_row(
                        plain=self._seeds.plain, model=self._model, templates=self._template
                    )
                )
            else:
                self._output.reject(verdict.to_json())
        self._next = max(self._next, self._output.num_decided)

    def _keep(self, news: dict[int, Answer]) -> None:
        """Write down the answers that came out of their turn; none of them is asked for again."""
        turn = self._output.num_decided
        while turn in self._arrived:
            turn += 1
        waiting = {number: answer for number, answer in news.items() if number > turn}
        if waiting:
            self._output.keep(waiting)
        elif turn == self._output.num_decided + len(self._arrived):
            self._output.nothing_waits()

    def _sync_now_and_then(self) -> None:
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._output.sync()
            self._synced = time.monotonic()


def _writable(answer: Answer) -> Answer:
    """The answer with half characters replaced (an API's JSON may hold them): files are UTF-8."""
    if isinstance(answer, Refused):
        return replace(answer, detail=_whole(answer.detail))
    return replace(answer, text=_whole(answer.text))


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
