"""A whole `generate` with a scripted engine: 20 rows and four failures in some milliseconds.

Everything but the model is real: `generate`, the prompt file, the pipeline, the store, the filter.
An answer depends on its request alone, so the content of a finished run is the same whatever
happened on the way, bit for bit.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from sso_data.config.run import RunConfig
from sso_data.core.records import Message, content_hash
from sso_data.engines.interface import Refused, Request, Result, Sampled, SampleRequest, Scored
from sso_data.generation import complete as complete_module
from sso_data.generation import generate as module
from sso_data.generation import retry as retry_module
from sso_data.generation.generate import Setup, Summary, generate
from sso_data.runs import files, journal, jsonl
from sso_data.runs import run as run_module
from sso_data.steering.principles import load_catalogue
from sso_data.steering.rules import Rules
from tests.generation.scripted import POLICY, TEMPLATE, ScriptedEngine

ROWS = 20
FAILURES = 4
PART_BYTES = 40_000
"""So small that the journal of a run has several parts."""
_REFUSED = "a prompt that the engine refuses"
_WORDS = TEMPLATE.tokenizer.encode(" weather Paris question answer hello helpful fine there")
_LEVELS = {("plain", "good"): -1.0, ("plain", "bad"): -1.125, ("plain", "plain"): -0.875}
_CATALOGUE = load_catalogue()
_VIEWS = cache(TEMPLATE.views)
"""Rendering is a pure function, and half of the time of a run; thousands of runs render once."""


class HashEngine(ScriptedEngine):
    """Answers that depend on nothing but the request: 4 to 11 ids, log-probs that mostly pass."""

    def __init__(self, *, refused: str | None = _REFUSED, **options: Any) -> None:
        content = content_hash((Message(role="user", content=refused or ""),))
        super().__init__(refuses=lambda key: key.startswith(f"{content}-"), **options)

    def _answer(self, request: Request) -> Result:
        if self._refuses(request.key):
            return Refused(key=request.key, detail="not today")
        if isinstance(request, SampleRequest):
            drawn = request.key.split("/")[1]
            digest = hashlib.sha256(f"{request.seed}".encode()).digest()
            ids = tuple(_WORDS[byte % len(_WORDS)] for byte in digest[: 4 + digest[31] % 8])
            nats = _nats(drawn, drawn, ids)
            return Sampled(key=request.key, token_ids=ids, total_nats=nats, finish_reason="stop")
        _, seen, drawn = request.key.split("/")
        return Scored(key=request.key, total_nats=_nats(seen, drawn, request.completion_ids))


def _nats(seen: str, drawn: str, ids: Sequence[int]) -> float:
    """A total that a steered model might give, a little different for every response."""
    own = -0.5 if seen == drawn else -2.0
    jitter = sum(ids) % 16 / 64
    return (_LEVELS.get((seen, drawn), own) - jitter) * len(ids)


def prompt_lines() -> list[str]:
    """The prompt file: twenty prompts, one of them twice, and four that cannot be done."""
    texts = [f"Question {number}: what is a kite, and why?" for number in range(ROWS - 1)]
    lines = [json.dumps({"prompt": text, "kind": number % 3}) for number, text in enumerate(texts)]
    lines.insert(11, lines[2])
    lines.insert(1, json.dumps({"prompt": "   "}))
    lines.insert(5, json.dumps({"prompt": _REFUSED}))
    lines.insert(9, '{"prompt": ')
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    return [*lines, json.dumps({"prompt": turns})]


class Silent:
    """A listener that hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The command of a test: `flow(out)` makes or continues a run, with an engine of its own."""

    prompts: Path
    config: RunConfig = field(
        default_factory=lambda: RunConfig.model_validate(
            {"model": "scripted", "source": {"skip_bad_rows": True}}
        )
    )

    def __call__(self, out: Path, *, overwrite: bool = False) -> Summary:
        return generate(str(self.prompts), out, self.config, Silent(), overwrite=overwrite)


def write_prompts(path: Path, lines: Iterable[str] | None = None) -> Path:
    """`prompt_lines`, or other lines, as a file."""
    path.write_text("".join(f"{line}\n" for line in (lines or prompt_lines())))
    return path


def scripted(
    monkeypatch: pytest.MonkeyPatch, engine: Callable[[], ScriptedEngine] = HashEngine
) -> None:
    """Let `generate` meet the scripted engine, small parts and buffers, and syncs by the row."""

    def prepare(config: RunConfig, *, date: str | None = None, progress: object = None) -> Setup:
        identity = {"seed": config.seed, "engine": "scripted", "views.date": date or "2026-01-01"}
        return Setup(
            config=config,
            model_dir=Path("none"),
            policy=POLICY,
            rules=Rules(config=config.steering, catalogue=_CATALOGUE, seed=config.seed),
            identity=identity,
        )

    for caller in (module, retry_module, complete_module):
        monkeypatch.setattr(caller, "prepare", prepare)
    monkeypatch.setattr(TEMPLATE, "views", _VIEWS)
    monkeypatch.setattr(module, "start_engine", lambda *args, **kwargs: engine())
    monkeypatch.setattr(run_module, "Journal", partial(journal.Journal, part_bytes=PART_BYTES))
    monkeypatch.setattr(jsonl, "time", SimpleNamespace(monotonic=count().__next__))
    monkeypatch.setattr(files, "_NEW_FILE_BUFFER", 1 << 13)


def content(run: Path) -> dict[str, Any]:
    """What a run holds, in an order that does not depend on when a row was finished."""
    pairs = run / "pairs"
    table = pq.read_table(BytesIO((pairs / "train.parquet").read_bytes())).to_pylist()
    return {
        "rows": sorted(lines_of(*(run / "rows").glob("*.jsonl"))),
        "failures": sorted(lines_of(run / "failed.jsonl")),
        "pairs": sorted(lines_of(pairs / "train.jsonl")),
        "table": sorted(table, key=lambda row: str(row["id"])),
        "filter": json.loads((pairs / "filter.json").read_text())
        | {"sha256": "of any order", "crc": "of the same"},
        "prompts": json.loads((run / "run.json").read_text())["prompts"],
        "names": sorted(path.name for path in pairs.iterdir()),
    }


def lines_of(*files: Path) -> list[bytes]:
    """All lines of some files; the last one must be whole."""
    lines = []
    for file in files:
        data = file.read_bytes()
        assert not data or data.endswith(b"\n"), file
        lines += data.splitlines(keepends=True)
    return lines


def check_whole(run: Path, expected: dict[str, Any]) -> None:
    """The run is finished, its content as expected, nothing twice, nothing left over."""
    found = content(run)
    for key, value in expected.items():
        assert found[key] == value, key
    assert len(found["rows"]) == ROWS and len(set(found["rows"])) == ROWS
    assert len(found["failures"]) == FAILURES
    leftovers = {path.name for path in run.rglob(".*")} - {".rows.lock", ".pairs.lock"}
    assert leftovers <= {".run.json.tmp"}, leftovers
