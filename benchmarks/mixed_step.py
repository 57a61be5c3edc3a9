"""Other ways to fill vLLM's steps with samples and scores, to compare with the engine's own.

`generate.py --variant NAME:KEY=VALUE,...` times `ours` in each of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args
from unittest import mock

from benchmarks.generation import Metered
from sso_data.engines.interface import Request, Result, SampleRequest

Samples = Literal["rows", "views", "y0-last"]
Scores = Literal["responses", "views"]

Y0_LAST = ("good", "bad", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is done in another way; None is as the engine does it.

    `wait`: steps that scores wait for others at most. `slots`: scores at once. `samples`: row by
    row; of rows that come together all of a view before the next view; or the policy's own answers
    when no other is sampled any more. `scores`: response by response, or those that end in the same
    step view by view.
    """

    wait: int | None = None
    slots: int | None = None
    samples: Samples = "rows"
    scores: Scores = "responses"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KEY=VALUE,...`. Raises ValueError for what is no variant."""
        settings: dict[str, Any] = dict(part.split("=", 1) for part in text.split(",") if part)
        for name in ("wait", "slots"):
            if name in settings:
                settings[name] = int(settings[name])
                if settings[name] < (name == "slots"):
                    raise ValueError(f"{name}={settings[name]} is too small")
        for name, known in (("samples", get_args(Samples)), ("scores", get_args(Scores))):
            if settings.get(name, known[0]) not in known:
                raise ValueError(f"{name}={settings[name]}: choose one of {', '.join(known)}")
        return cls(**settings)

    @contextmanager
    def applied(self, engine: Any) -> Iterator[None]:
        """The `VllmEngine` with this variant's steps."""
        from sso_data.engines import vllm

        wait = vllm.SCORE_WAIT_STEPS if self.wait is None else self.wait
        slots = engine._max_scores if self.slots is None else self.slots
        with (
            mock.patch.object(vllm, "SCORE_WAIT_STEPS", wait),
            mock.patch.object(engine, "_max_scores", slots),
        ):
            yield


class Ordered(Metered):
    """A metered engine that takes requests in a variant's order."""

    def __init__(self, metered: Metered, variant: Variant) -> None:
        super().__init__(metered._engine)
        self._variant = variant
        self._open: set[str] = set()
        self._later: list[Request] = []

    def submit(self, requests: Sequence[Request]) -> None:
        rank = _rank_of(self._variant)
        ordered = sorted(requests, key=rank)
        if self._variant.samples == "y0-last":
            self._later += [request for request in ordered if _is_y0(request)]
            ordered = [request for request in ordered if not _is_y0(request)]
            self._open |= {one.key for one in ordered if isinstance(one, SampleRequest)}
        super().submit(ordered)

    def step(self) -> list[Result]:
        if self._later and not self._open:
            super().submit(self._later)
            self._later = []
        results = super().step()
        self._open.difference_update(result.key for result in results)
        return results


def _is_y0(request: Request) -> bool:
    return isinstance(request, SampleRequest) and request.key.endswith("/plain")


def _rank_of(variant: Variant) -> Callable[[Request], int]:
    """The order of requests that come together; equal ones stay as they are."""
    samples, scores = variant.samples != "rows", variant.scores == "views"

    def rank(request: Request) -> int:
        is_sample = isinstance(request, SampleRequest)
        if not (samples if is_sample else scores):
            return 0
        return Y0_LAST.index(request.key.split("/")[1])

    return rank
