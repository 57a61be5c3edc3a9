"""A chat model that answers by a script, out of order, and remembers what it was asked."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sso_data.augmentation.augment import Augmented, augment
from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.config.augmentation import AugmentConfig
from sso_data.core.progress import NullProgress
from sso_data.engines.interface import Refused

Reply = Callable[[CompletionRequest], str | Completion | Refused]

_WORDS = [
    first + last
    for first in "bar cel dom fen gor hul jas kem lor mun nep pir ros sul tav".split()  # noqa: SIM905
    for last in "an beth cor dial el fond gar hust ine jor kin lem".split()  # noqa: SIM905
]
SAME = "Which river flows through the old town of Heidelberg?"


def new_query(request: CompletionRequest) -> str:
    """A query of ten words that no other request gives."""
    rng = random.Random(request.seed)
    return f"Why do {' '.join(rng.sample(_WORDS, 10))}?"


def mixed(request: CompletionRequest) -> str | Completion | Refused:
    """New queries, the same one again and again, prose, refusals, cut-off answers."""
    draw = random.Random(request.seed).random()
    if draw < 0.6:
        return json.dumps({"query": new_query(request)})
    if draw < 0.75:
        return json.dumps({"query": SAME})
    if draw < 0.85:
        return "I would rather not."
    if draw < 0.95:
        return Completion(key=request.key, text='{"query": "Why', finish_reason="length")
    return Refused(key=request.key, detail="the question has 5000 tokens, the context 4096")


class Scripted:
    """Completions whose answers come in a drawn order, some steps after they were asked for."""

    def __init__(self, reply: Reply = mixed, *, max_in_flight: int = 4, order: int = 0) -> None:
        self.model = "scripted"
        self.max_in_flight = max_in_flight
        self.asked: Counter[str] = Counter()
        self.requests: list[CompletionRequest] = []
        self.answered: set[str] = set()
        self._reply = reply
        self._open: list[CompletionRequest] = []
        self._rng = random.Random(order)

    def submit(self, requests: Sequence[CompletionRequest]) -> None:
        self.asked.update(request.key for request in requests)
        self.requests += requests
        self._open += requests

    def step(self) -> list[Completion | Refused]:
        self._rng.shuffle(self._open)
        count = self._rng.randint(0, min(3, len(self._open)))
        taken, self._open = self._open[:count], self._open[count:]
        self.answered.update(request.key for request in taken)
        return [self._answer(request) for request in taken]

    def _answer(self, request: CompletionRequest) -> Completion | Refused:
        said = self._reply(request)
        if isinstance(said, str):
            return Completion(key=request.key, text=said, finish_reason="stop")
        return said

    def close(self) -> None:
        pass


class Quiet(NullProgress):
    """A progress that expects no warnings and keeps the counts."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int | None, str, str]] = []

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        self.counts.append((done, total, unit, state))

    def warn(self, text: str) -> None:
        raise AssertionError(text)


def config(**sections: Any) -> AugmentConfig:
    """A configuration of a model that is only named."""
    return AugmentConfig.model_validate(
        {"model": "scripted", "endpoint": "http://127.0.0.1:9/v1", **sections}
    )


def write_seeds(file: Path, prompts: Sequence[Any]) -> Path:
    """A prompt file; the rows have the ids s0, s1, ..."""
    rows = [{"prompt": prompt, "id": f"s{number}"} for number, prompt in enumerate(prompts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


SEEDS = (
    "How do I keep a sourdough starter alive?",
    "Write a limerick about a lighthouse keeper.",
    "What is the difference between weather and climate?",
    "List five ways to save water at home.",
    "Explain to my grandmother what a database is.",
    "My bicycle chain squeaks. What should I do?",
)


def run(
    seeds: Path,
    out: Path,
    wanted: int = 12,
    model: Scripted | None = None,
    settings: AugmentConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Quiet | None = None,
) -> Augmented:
    """An augmentation by a scripted model."""
    model = model or Scripted()
    return augment(
        str(seeds),
        out,
        wanted,
        settings or config(),
        progress or Quiet(),
        overwrite=overwrite,
        start=lambda: model,
    )


def rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in file.read_text().splitlines()]
