"""A chat model as judge: asked about both orders of each pair, to a JSON schema."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

from sso_data.chat import open_chat
from sso_data.chat.answer_checks import Examples, fence_for
from sso_data.chat.interface import Completion, CompletionRequest, Completions
from sso_data.chat.json_answers import json_values
from sso_data.config.evaluation import JudgeConfig
from sso_data.core.errors import one_line
from sso_data.core.jinja import SHIPPED, Templates
from sso_data.core.paths import public_name
from sso_data.core.progress import Progress
from sso_data.core.records import derive_seed
from sso_data.engines.driver import Window, drive
from sso_data.engines.interface import Refused
from sso_data.evaluation.verdicts import Comparison, NoVerdict, Verdict

TEMPLATE = "judge.j2"
"""The prompt of a chat model that judges."""

Order = Literal["ab", "ba"]
ORDERS: tuple[Order, ...] = ("ab", "ba")
"""The order in which the two answers are shown."""

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
"""Questions for one order at most: an answer that is no verdict is asked for once more."""

_FIRST_WINS = {"first": 1.0, "second": 0.0, "tie": 0.5}
_DETAIL_CHARS = 300


@dataclass(slots=True, eq=False)
class _Pair:
    """A comparison that is being judged: preferences for `a` by order, or why there is none."""

    number: int
    comparison: Comparison
    said: dict[Order, float | NoVerdict] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict | NoVerdict:
        """The verdict from both orders; the first order that failed says why there is none."""
        shown_first, shown_second = (self.said[order] for order in ORDERS)
        if isinstance(shown_first, NoVerdict):
            return shown_first
        if isinstance(shown_second, NoVerdict):
            return shown_second
        return Verdict(
            key=self.comparison.key,
            preference=(shown_first + shown_second) / 2,
            orders=(shown_first, shown_second),
            detail=" | ".join(reason for reason in self.reasons if reason),
        )


class LlmJudge:
    """Asks `completions` about every pair twice, each answer once in the first place.

    The preference is the mean of both orders; where one of them has no verdict, the pair has none.
    """

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
        self._examples = examples_of(templates)
        self._close = close

    def compare(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict | NoVerdict]:
        """Yield each verdict when both orders are answered.

        Raises EngineError when the engine or endpoint can answer nothing any more.
        """
        pairs = (_Pair(number=i, comparison=one) for i, one in enumerate(comparisons))
        open_pairs: dict[int, _Pair] = {}
        decided: list[Verdict | NoVerdict] = []
        window = Window[CompletionRequest, Completion | Refused](
            lambda: self._completions, lambda: self._completions.max_in_flight
        )

        def begin(pair: _Pair) -> None:
            open_pairs[pair.number] = pair
            for order in ORDERS:
                window.ask(self._request(pair, order, 0))

        def take(answer: Completion | Refused) -> None:
            key, order, attempt = answer.key.split("/")
            number, pair = int(key), open_pairs[int(key)]
            again = self._take(pair, "ab" if order == "ab" else "ba", int(attempt), answer)
            if again:
                window.ask(again)
            elif len(pair.said) == len(ORDERS):
                decided.append(open_pairs.pop(number).verdict)

        for _ in drive(window, pairs, begin, take):
            yield from decided
            decided.clear()

    def close(self) -> None:
        """Close the model."""
        self._close()

    def _take(
        self, pair: _Pair, order: Order, attempt: int, answer: Completion | Refused
    ) -> CompletionRequest | None:
        """Put one answer into its pair; returns a request where it must be asked for again."""
        key = pair.comparison.key
        if isinstance(answer, Refused):
            pair.said[order] = NoVerdict(key=key, reason="judge_refused", detail=answer.detail)
            return None
        is_cut = answer.finish_reason == "length"
        found = None if is_cut else read_verdict(answer.text, self._examples)
        if found is not None:
            better, reason = found
            first_wins = _FIRST_WINS[better]
            pair.said[order] = first_wins if order == "ab" else 1 - first_wins
            pair.reasons.append(reason)
            return None
        if attempt + 1 < ASKED_MOST:
            return self._request(pair, order, attempt + 1)
        detail = f"no verdict in the judge's answer: {one_line(answer.text, 120)!r}"
        if is_cut:
            detail = f"the judge's verdict was cut off at {self._config.max_tokens} tokens"
        pair.said[order] = NoVerdict(key=key, reason="no_verdict", detail=detail)
        return None

    def _request(self, pair: _Pair, order: Order, attempt: int) -> CompletionRequest:
        comparison, config, messages = pair.comparison, self._config, pair.comparison.messages
        first, second = comparison.a.text, comparison.b.text
        if order == "ba":
            first, second = second, first
        system = messages[0].content if messages and messages[0].role == "system" else ""
        return CompletionRequest(
            key=f"{pair.number}/{order}/{attempt}",
            messages=self._templates.messages(
                TEMPLATE,
                conversation=[turn.to_json() for turn in messages[bool(system) :]],
                system=system,
                first=first,
                second=second,
                fence=fence_for([*(turn.content for turn in messages), first, second]),
                again=attempt > 0,
            ),
            max_tokens=config.max_tokens,
            seed=derive_seed(0, comparison.key, f"judge/{order}/{attempt}"),
            temperature=config.temperature,
            top_p=1.0,
            schema=SCHEMA if config.structured else None,
        )


def open_llm(config: JudgeConfig, progress: Progress | None = None) -> LlmJudge:
    """The judge with its model: at an endpoint, or in an engine of its own. Raises SsoDataError."""
    assert config.model is not None
    with ExitStack() as opened:
        completions = opened.enter_context(
            open_chat(config.model, config, config.loading, config.views, progress=progress)
        )
        return LlmJudge(
            completions,
            config,
            name=f"{public_name(config.model)} as judge",
            templates=Templates(directory=config.templates),
            close=opened.pop_all().close,
        )


def examples_of(templates: Templates) -> Examples:
    """What the template itself says, without a request and answers."""
    blank = {"conversation": [{"role": "user", "content": ""}], "system": "", "first": ""}
    return Examples(
        [templates.messages(TEMPLATE, **blank, second="", fence=fence_for(()), again=True)]
    )


def read_verdict(text: str, examples: Examples | None = None) -> tuple[str, str] | None:
    """("first", "second" or "tie"; the reason) of an answer.

    None where it holds no verdict, several that differ, or a reason that is copied from `examples`,
    the judge's own question.
    """
    found = [
        (better, one_line(str(value.get("reason", "")), _DETAIL_CHARS))
        for value in json_values(text)
        if isinstance(value, dict)
        and isinstance(value.get("better"), str)
        and (better := value["better"].strip().lower()) in _FIRST_WINS
    ]
    if len({better for better, _ in found}) != 1:
        return None
    if examples is not None and any(examples.hold(reason) for _, reason in found):
        return None
    return found[-1]
