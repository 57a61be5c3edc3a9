"""Answers in tokens, with the log-prob of each under every view: kept ones, or scored now."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sso_data.config.run import RunConfig, load_config
from sso_data.core.errors import RunError
from sso_data.core.fingerprints import same
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import SIDE_OF, Cell, Row, View
from sso_data.engines.driver import Window, drive
from sso_data.engines.interface import Refused, Request, Result, ScoreRequest
from sso_data.generation.generate import Setup, lazy_engine, prepare
from sso_data.generation.pipeline import prompt_ids
from sso_data.models.directory import resolve_model
from sso_data.runs.run import require_run
from sso_data.runs.tokens import Answers, Cells, Tokens, kept_tokens, refuse_other_totals
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer

_MOST_PARTS = 8
"""Tokens that one character may be split over; what never becomes one is shown after so many."""


def tokens_of(
    run: Path, rows: Sequence[Row], progress: Progress | None = None, **settings: Any
) -> dict[str, Answers]:
    """Return by id the tokens of rows; what is not kept is scored with the run's model.

    `settings` are keys of the run's configuration with `__` for the dot, None is skipped. Raises
    RunError where the model is another one, or its sums are not the rows' totals; ModelError,
    EngineError.
    """
    progress, manifest = progress or NullProgress(), require_run(run)
    config = load_config(None, base=manifest["config"], **settings)
    kept = kept_tokens(run, rows)
    found: dict[str, Cells] = {row.id: kept.get(row.id, {}) for row in rows}
    lacking = [row for row in rows if row.logp.keys() - found[row.id].keys()]
    if lacking:
        progress.phase("checking the model and its chat template")
        setup = prepare(config, date=manifest["date"], progress=progress)
        then, now = manifest["identity"].get("model"), setup.identity["model"]
        if then is not None and not same(then, now):
            raise RunError(
                f"{config.model}: is not the model that made {run} ({then} then, {now} now); "
                "--model names the place where that is"
            )
        for row, scored in _scored(setup, lacking, progress):
            refuse_other_totals(row, scored)
            found[row.id] = {**scored, **found[row.id]}
        template = setup.policy.template
    else:
        template = _template(config, manifest["date"])
    return {row.id: dict(_answers(row, found[row.id], template)) for row in rows}


def _template(config: RunConfig, date: str) -> ChatTemplate:
    """Return the template of a model of which the tokenizer alone is needed."""
    trusted = config.engine.trust_remote_code
    directory = resolve_model(
        config.model, config.engine.revision, trust_remote_code=trusted, weights=False
    )
    tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
    return ChatTemplate(tokenizer, config.views, today=date)


def _scored(
    setup: Setup, rows: Sequence[Row], progress: Progress
) -> Iterator[tuple[Row, dict[Cell, tuple[float, ...]]]]:
    """Yield rows with all their cells, scored. Raises RunError for a row that is refused."""
    found: dict[str, dict[Cell, tuple[float, ...]]] = defaultdict(dict)

    def take(result: Result) -> None:
        identity, seen, drawn = result.key.split("/")
        if isinstance(result, Refused):
            raise RunError(f"row {identity}: its tokens cannot be scored: {result.detail}")
        found[identity][seen, drawn] = result.nats  # type: ignore[index]

    with lazy_engine(setup, progress, lambda info: None) as engine:
        window = Window[Request, Result](engine, lambda: engine().info.max_in_flight)
        requests = (one for row in rows for one in _requests(row, setup.policy.template))
        for _ in drive(window, requests, window.ask, take):
            done = sum(len(found[row.id]) == len(row.logp) for row in rows)
            progress.count(done, len(rows), "rows")
    return ((row, found[row.id]) for row in rows)


def _requests(row: Row, template: ChatTemplate) -> Iterator[ScoreRequest]:
    ids = prompt_ids(row, template)
    for seen, drawn in row.logp:
        yield ScoreRequest(
            key=f"{row.id}/{seen}/{drawn}",
            prompt_ids=ids[seen],
            completion_ids=row.responses[drawn].token_ids,
            was_sampled=seen == drawn,
            per_token=True,
        )


def _answers(row: Row, cells: Cells, template: ChatTemplate) -> Iterator[tuple[View, Tokens]]:
    """Yield the answers of a row. Raises RunError where their tokens do not make their texts."""
    for drawn, response in row.responses.items():
        ids = response.token_ids
        if template.text(ids) != response.text:
            raise RunError(
                f"row {row.id}: the tokens of {SIDE_OF[drawn]} do not make its text with this "
                "tokenizer; --model names the run's"
            )
        pieces = list(pieces_of(ids, template.text))
        if "".join(text for text, _ in pieces) != response.text:  # read alone they say other things
            pieces = [(response.text, len(ids))]
        yield (
            drawn,
            Tokens(
                texts=tuple(text for text, _ in pieces),
                sizes=tuple(size for _, size in pieces),
                nats={seen: nats for (seen, of), nats in cells.items() if of == drawn},
            ),
        )


def pieces_of(
    ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> Iterator[tuple[str, int]]:
    """Yield the text of every token and 1; of several together where one is no whole character.

    A token is read after the one before it, on which its leading space may depend.
    """
    found: list[tuple[str, int]] = []
    before = read = 0
    for end in range(1, len(ids) + 1):
        known, text = decode(ids[before:read]), decode(ids[before:end])
        if text.endswith("\ufffd") and end < len(ids) and end - read < _MOST_PARTS:
            continue
        new, size = text[len(known) :], end - read
        if found and new and unicodedata.category(new[0]).startswith("M"):  # belongs to a letter
            last, sizes = found.pop()
            new, size = last + new, sizes + size
        found.append((new, size))
        before, read = read, end
    yield from found
