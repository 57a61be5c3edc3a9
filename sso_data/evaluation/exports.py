"""Answers for the benchmarks of others, and the commands that run them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from sso_data.config.run import RunConfig
from sso_data.core.errors import InputError
from sso_data.core.jinja import render
from sso_data.core.paths import real_path
from sso_data.core.records import JsonRow, Response, Row
from sso_data.evaluation.answers import Answer, NoAnswer
from sso_data.exporting.export import export, model_name
from sso_data.exporting.rows import alpaca_eval, mt_bench, one_instruction, second_turn
from sso_data.models.directory import resolve_model
from sso_data.runs.files import make_dir, write_atomic

COMMANDS, EXPORTS = "commands.sh", "exports"
"""What is written into the directory of an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFiles:
    """The commands, one a line, and notes on what could not be exported."""

    commands: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """One benchmark's files: the model's answers and the other model's; none where none fits."""

    model: Path | None = None
    against: Path | None = None


def export_all(
    out: Path,
    run: Path,
    configs: tuple[RunConfig, RunConfig],
    rows: Sequence[Row],
    against: Mapping[str, Answer | NoAnswer],
) -> BenchmarkFiles:
    """Write the answers of both models for AlpacaEval and MT-Bench, and commands.sh.

    `run` is the model's run and `rows` are its rows; `configs` are those of the model and of the
    one it is compared with. Raises RunError where a file cannot be written.
    """
    first, second = (model_name(config.model) for config in configs)
    is_same = first == second  # answer files of the two must differ in their names
    names = (f"{first}-evaluated", f"{second}-start") if is_same else (first, second)
    theirs = []
    for row in rows:
        answer = against.get(row.id)
        if isinstance(answer, Answer):
            said = Response(token_ids=(), text=answer.text, finish_reason=answer.finish_reason)
            theirs.append(replace(row, responses={"plain": said}))
    alpaca, alpaca_note = _export(out, run, "alpaca-eval", names, theirs)
    bench, bench_note = _export(out, run, "mt-bench", names, theirs)
    text = render(
        "eval_commands.sh.j2",
        name=shlex.quote(names[0]),
        against=shlex.quote(names[1]),
        model_args=shlex.quote(_model_args(configs[0])),
        lm_eval=_quoted(out / EXPORTS / "lm-eval"),
        alpaca=_quoted(alpaca.model),
        alpaca_reference=_quoted(alpaca.against),
        alpaca_out=_quoted(out / EXPORTS / "alpaca-eval-results"),
        mt_bench=_quoted(bench.model),
        mt_bench_reference=_quoted(bench.against),
    )
    write_atomic(out / COMMANDS, f"{text}\n".encode())
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    notes = tuple(note for note in (alpaca_note, bench_note) if note)
    return BenchmarkFiles(commands=tuple(commands), notes=notes)


def _export(
    out: Path, run: Path, to: str, names: tuple[str, str], theirs: Sequence[Row]
) -> tuple[_Files, str | None]:
    """One benchmark's files, or a note that says why there are none."""
    directory = out / EXPORTS / to
    try:
        done = export(run, to, directory, name=names[0], overwrite=True)
    except InputError:
        return _Files(), f"{to}: no prompt has the form that it needs; see docs/evaluation.md"
    file = next(name for name in done.files if name != "export.json")
    reference = out / EXPORTS / f"{to}-reference"
    make_dir(reference)
    other = reference / (file if to == "alpaca-eval" else f"{names[1]}.jsonl")
    write_atomic(other, _WRITERS[to](theirs, names[1]))
    return _Files(model=directory / file, against=other), None


def _alpaca_bytes(rows: Sequence[Row], name: str) -> bytes:
    fitting = [row for row in rows if one_instruction(row) is None]
    found = [alpaca_eval(row, drawn="plain", name=name) for row in fitting]
    return orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n"


def _mt_bench_bytes(rows: Sequence[Row], name: str) -> bytes:
    fitting = [row for row in rows if second_turn(row) is None]
    found: list[JsonRow] = [mt_bench(row, drawn="plain", name=name, made=0.0) for row in fitting]
    return b"".join(orjson.dumps(row) + b"\n" for row in found)


_WRITERS: Mapping[str, Callable[[Sequence[Row], str], bytes]] = {
    "alpaca-eval": _alpaca_bytes,
    "mt-bench": _mt_bench_bytes,
}


def _model_args(config: RunConfig) -> str:
    """Return the arguments with which lm-eval loads the model."""
    engine = config.engine
    local = Path(config.model).expanduser()
    where = str(resolve_model(config.model)) if local.is_dir() else config.model
    parts = [f"pretrained={where}"]
    if engine.revision and not local.is_dir():
        parts.append(f"revision={engine.revision}")
    if engine.adapter is not None:
        parts.append(f"peft={real_path(engine.adapter)}")
    if engine.dtype != "auto":
        parts.append(f"dtype={engine.dtype}")
    if engine.trust_remote_code:
        parts.append("trust_remote_code=True")
    return ",".join(parts)


def _quoted(path: Path | None) -> str:
    return shlex.quote(str(real_path(path))) if path else ""
