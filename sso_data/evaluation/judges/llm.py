"""A chat model as judge: asked about both orders of each pair, to a JSON schema."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from sso_data.chat import open_chat
from sso_data.chat.interface import Completion, CompletionRequest, Completions
from sso_data.chat.json_answers import json_values
from sso_data.config.judging import JudgeConfig
from sso_data.core.errors import one_line
from sso_data.core.jinja import SHIPPED, Templates
from sso_data.core.naming import public_name
from sso_data.core.records import Message, derive_seed
from sso_data.engines.interface import Refused
from sso_data.evaluation.judges.verdicts import (
    Comparison,
    NoVerdict,
    OnProgress,
    OnVerdict,
    Verdict,
    quiet,
    unheard,
)

Order = Literal["ab", "ba"]
ORDERS: tuple[Order, ...] = ("ab", "ba")
"""Which answer is shown first."""

SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "better": {"enum": ["first", "second", "tie"]},
    },
    "required": ["reason", "better"],
    "additionalProperties": False,
}
ASKED_MOST = 2
"""How often one order is asked about: an answer that is no verdict is asked for once more."""

NO_VERDICT = "no_verdict"
"""Why a comparison failed: what the model said in one of the orders is no verdict."""
UNANSWERED = "judge_refused"
"""Why a comparison failed: the engine or endpoint refused one of the questions."""

_FIRST_WINS = {"first": 1.0, "second": 0.0, "tie": 0.5}
_WINDOW = 2
_FENCE = "====="
_DETAIL_CHARS = 300
_TOP_P = 1.0


@dataclass(slots=True, eq=False)
class _Pair:
    """A comparison that is being judged: preferences for `a` by order, or why there is none."""

    number: int
    comparison: Comparison
    said: dict[Order, float | NoVerdict] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


class LlmJudge:
    """Asks `completions` about every pair twice, each answer once in the first place.

    The preference is the mean of both orders; where one of them has no verdict, the pair has none.
    """

    scores_answers = False

    def __init__(
        self,
        completions: Completions,
        config: JudgeConfig,
        *,
        name: str,
        templates: Templates = SHIPPED,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._completions = completions
        self._config = config
        self._templates = templates
        self._close = close

    def compare(
        self,
        comparisons: Sequence[Comparison],
        *,
        on_progress: OnProgress = quiet,
        on_verdict: OnVerdict = unheard,
    ) -> list[Verdict | NoVerdict]:
        results: dict[int, Verdict | NoVerdict] = {}
        for number, verdict in self._verdicts(comparisons):
            results[number] = verdict
            on_verdict(verdict)
            on_progress(len(results), len(comparisons))
        return [results[number] for number in range(len(comparisons))]

    def close(self) -> None:
        self._close()

    def _verdicts(
        self, comparisons: Sequence[Comparison]
    ) -> Iterator[tuple[int, Verdict | NoVerdict]]:
        """(position, verdict) as they come; about twice what the model works on is submitted."""
        pairs = (_Pair(number=i, comparison=one) for i, one in enumerate(comparisons))
        window = _WINDOW * self._completions.max_in_flight
        open_pairs: dict[int, _Pair] = {}
        waiting: dict[str, CompletionRequest] = {}
        while True:
            fresh: list[CompletionRequest] = []
            while len(waiting) + len(fresh) < window and (pair := next(pairs, None)):
                open_pairs[pair.number] = pair
                fresh += [self._request(pair, order, 0) for order in ORDERS]
            self._submit(fresh, waiting)
            if not waiting:
                return
            for answer in self._completions.step():
                del waiting[answer.key]
                number, order, attempt = _parts(answer.key)
                pair = open_pairs[number]
                again = self._take(pair, order, attempt, answer)
                self._submit([again] if again else [], waiting)
                if len(pair.said) == len(ORDERS):
                    yield number, _verdict(open_pairs.pop(number))

    def _submit(
        self, requests: list[CompletionRequest], waiting: dict[str, CompletionRequest]
    ) -> None:
        waiting.update((request.key, request) for request in requests)
        if requests:
            self._completions.submit(requests)

    def _take(
        self, pair: _Pair, order: Order, attempt: int, answer: Completion | Refused
    ) -> CompletionRequest | None:
        """Put one answer into its pair; a request where it must be asked for again."""
        key = pair.comparison.key
        if isinstance(answer, Refused):
            pair.said[order] = NoVerdict(key=key, reason=UNANSWERED, detail=answer.detail)
            return None
        found = None if answer.finish_reason == "length" else read_verdict(answer.text)
        if found is not None:
            better, reason = found
            first_wins = _FIRST_WINS[better]
            pair.said[order] = first_wins if order == "ab" else 1 - first_wins
            pair.reasons.append(reason)
            return None
        if attempt + 1 < ASKED_MOST:
            return self._request(pair, order, attempt + 1)
        cut = answer.finish_reason == "length"
        detail = (
            f"the judge's verdict was cut off at {self._config.max_tokens} tokens"
            if cut
            else f"the judge said {one_line(answer.text, 120)!r}"
        )
        pair.said[order] = NoVerdict(key=key, reason=NO_VERDICT, detail=detail)
        return None

    def _request(self, pair: _Pair, order: Order, attempt: int) -> CompletionRequest:
        comparison, config = pair.comparison, self._config
        sides = (comparison.a.text, comparison.b.text)
        first, second = sides if order == "ab" else sides[::-1]
        return CompletionRequest(
            key=f"{pair.number}/{order}/{attempt}",
            messages=self._question(comparison.messages, first, second, again=attempt > 0),
            max_tokens=config.max_tokens,
            seed=derive_seed(0, comparison.key, f"judge/{order}/{attempt}"),
            temperature=config.temperature,
            top_p=_TOP_P,
            schema=SCHEMA if config.structured else None,
        )

    def _question(
        self, messages: tuple[Message, ...], first: str, second: str, *, again: bool
    ) -> tuple[Message, ...]:
        system = messages[0].content if messages and messages[0].role == "system" else ""
        turns = messages[1:] if system else messages
        texts = [*(message.content for message in messages), first, second]
        return self._templates.messages(
            "judge.j2",
            conversation=[turn.to_json() for turn in turns],
            system=system,
            first=first,
            second=second,
            fence=fence_for(texts),
            again=again,
        )


def open_llm(config: JudgeConfig, *, tell: Callable[[str], None] = lambda line: None) -> LlmJudge:
    """The judge with its model: at an endpoint, or in an engine of its own. Raises SsoDataError."""
    assert config.model is not None
    with ExitStack() as opened:
        completions = opened.enter_context(
            open_chat(config.model, config, config.loading, config.views, tell=tell)
        )
        return LlmJudge(
            completions,
            config,
            name=f"{public_name(config.model)} as judge",
            templates=Templates(directory=config.templates),
            close=opened.pop_all().close,
        )


def read_verdict(text: str) -> tuple[str, str] | None:
    """(first, second or tie; the reason) of an answer; None where it holds no verdict, or several
    that differ."""
    found = [
        (better, one_line(str(value.get("reason", "")), _DETAIL_CHARS))
        for value in json_values(text)
        if isinstance(value, dict) and (better := _word(value.get("better"))) is not None
    ]
    if len({better for better, _ in found}) != 1:
        return None
    return found[-1]


def fence_for(texts: Sequence[str]) -> str:
    """A line of equals signs that none of the texts holds: no answer can end its own quotation."""
    fence = _FENCE
    while any(fence in text for text in texts):
        fence += "="
    return fence


def _word(value: Any) -> str | None:
    word = value.strip().lower() if isinstance(value, str) else ""
    return word if word in _FIRST_WINS else None


def _parts(key: str) -> tuple[int, Order, int]:
    number, order, attempt = key.split("/")
    return int(number), "ab" if order == "ab" else "ba", int(attempt)


def _verdict(pair: _Pair) -> Verdict | NoVerdict:
    """The pair's verdict from both orders; the first order that failed says why there is none."""
    key = pair.comparison.key
    shown_first, shown_second = (pair.said[order] for order in ORDERS)
    if isinstance(shown_first, NoVerdict):
        return shown_first
    if isinstance(shown_second, NoVerdict):
        return shown_second
    return Verdict(
        key=key,
        preference=(shown_first + shown_second) / 2,
        orders=(shown_first, shown_second),
        detail=" | ".join(reason for reason in pair.reasons if reason),
    )
