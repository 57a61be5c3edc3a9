"""How fast a run is filtered: dry run, rebuilding side files, writing pairs.

    python benchmarks/filter.py --rows 1000000 --dir /tmp/filter-benchmark
    python benchmarks/filter.py --rows 10000000 --dir /tmp/filter-benchmark --dry

makes a synthetic journal (about 10 kB a row: three responses of 300 tokens), measures each command
in a fresh process, prints a table, and deletes what it made (unless --keep). The files lie in the
page cache as far as memory allows: this measures the program, not the disk. With --dry the journal
has only the first and the last line of each part, which are all that a dry run reads of it.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.config.run import FilterConfig
from sso_data.core.records import (
    NEEDED_CELLS,
    VIEWS,
    Message,
    Response,
    Row,
    Steering,
    content_hash,
    derive_seed,
    hash_ids,
    row_id,
)
from sso_data.runs.columns import CHECKED_BYTES, SCORES, Rows, encode, row_key

TOKENS = 300
TEMPLATES = 4096
PART_BYTES = 256 << 20
WORDS = """
    the of and to a in is that for it as was with be by on not he his but at are this have from
    which one had or her they were an there been their has would more when who will its into time
    question answer because example water energy number history people system between different
    however important possible language through another several consider including result
""".split()  # noqa: SIM905


def template_row(rng: np.random.Generator, index: int) -> Row:
    """A valid row of 300-token responses; its id and log-probs stand for many rows'."""
    messages = (Message(role="user", content=sentence(rng, 40)),)
    responses = {
        view: Response(
            token_ids=tuple(rng.integers(100, 150_000, TOKENS).tolist()),
            text=sentence(rng, 215),
            finish_reason="stop",
        )
        for view in VIEWS
    }
    identity = row_id(content_hash(messages), index)
    return Row(
        id=identity,
        source_id=f"source-{index:09}",
        messages=messages,
        steering=Steering(
            features=("Helpfulness", "Accuracy"),
            good=(sentence(rng, 20), sentence(rng, 20)),
            bad=(sentence(rng, 20), sentence(rng, 20)),
            chosen_by="random",
        ),
        system={"good": sentence(rng, 50), "bad": sentence(rng, 50)},
        responses=responses,
        logp=dict.fromkeys(NEEDED_CELLS, -1.0),
        seed={view: derive_seed(0, identity, view) for view in VIEWS},
        prompt_hash={view: hash_ids([index, len(view)]) for view in VIEWS},
        model="benchmark/model",
        model_fingerprint="0123456789abcdef",
        template_fingerprint="fedcba9876543210",
    )


def sentence(rng: np.random.Generator, words: int) -> str:
    """Words in a random order, with a full stop here and there."""
    chosen = [WORDS[i] for i in rng.integers(0, len(WORDS), words)]
    chosen[9::12] = [f"{word}." for word in chosen[9::12]]
    return " ".join(chosen).capitalize()


def totals(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3, 3] total nats; the closeness preset keeps nearly all, `reference` a twentieth."""
    means = np.empty((count, 3, 3))
    means[:, 0, :] = -0.9 + rng.normal(0, 0.12, (count, 3))
    plain, good, bad = range(3)
    means[:, good, good] = means[:, plain, good] + rng.normal(0.25, 0.15, count)
    means[:, bad, bad] = means[:, plain, bad] + rng.normal(0.3, 0.15, count)
    means[:, bad, good] = means[:, plain, good] - rng.normal(0.5, 0.25, count)
    means[:, good, bad] = means[:, plain, bad] - rng.normal(0.5, 0.25, count)
    means[:, bad, plain] = means[:, plain, plain] - rng.normal(0.3, 0.1, count)
    means[:, good, plain] = np.nan
    return np.round(means * TOKENS, 6)


class Mould:
    """A journal line with gaps for the id, the source id and the eight log-probs."""

    def __init__(self, row: Row) -> None:
        self.content = row.id.partition("-")[0][:12]
        line = orjson.dumps(row.to_json()) + b"\n"
        marks = [f'"id":"{row.id}"', f'"source_id":"{row.source_id}"']
        marks += [f'"logp_{seen}_{drawn}":-1.0' for seen, drawn in NEEDED_CELLS]
        self.pieces: list[bytes] = []
        for mark in marks:
            head, _, line = line.partition(mark.encode())
            self.pieces.append(head + mark.encode().rpartition(b":")[0] + b":")
        self.tail = line
        self.record = np.frombuffer(encode(row, b"", 0), SCORES)[0].copy()

    def fill(self, index: int, values: list[float]) -> tuple[str, bytes]:
        """(row id, journal line) of row number `index`."""
        identity = f"{self.content}{index:08x}-0"
        fillings = [f'"{identity}"', f'"source-{index:09}"', *map(repr, values)]
        parts = [a + b.encode() for a, b in zip(self.pieces, fillings, strict=True)]
        return identity, b"".join([*parts, self.tail])


def make_run(run: Path, rows: int, *, dry: bool) -> None:
    """A journal of `rows` rows in parts of 256 MiB, with its side files; `dry`: its ends alone."""
    from sso_data.runs import journal

    (run / "rows").mkdir(parents=True)
    rng = np.random.default_rng(0)
    moulds = [Mould(template_row(rng, index)) for index in range(TEMPLATES)]
    done = 0
    for number in range(rows):
        if done == rows:
            break
        part = run / "rows" / f"{number:05}.jsonl"
        records = (write_ends if dry else write_part)(part, moulds, rng, done, rows)
        journal.side_file(part).write_bytes(journal._header() + records.tobytes())
        done += len(records)


def write_part(
    part: Path, moulds: list[Mould], rng: np.random.Generator, start: int, rows: int
) -> Rows:
    """One journal part; returns its records."""
    count = min(rows - start, PART_BYTES // len(moulds[0].fill(0, [-100.0] * 8)[1]))
    logp = totals(rng, count)
    needed = [(VIEWS.index(seen), VIEWS.index(drawn)) for seen, drawn in NEEDED_CELLS]
    values = np.stack([logp[:, seen, drawn] for seen, drawn in needed], axis=1).tolist()
    records = np.empty(count, SCORES)
    with part.open("wb") as stream:
        offset = 0
        for i in range(count):
            mould = moulds[(start + i) % len(moulds)]
            identity, line = mould.fill(start + i, values[i])
            record = records[i]
            records[i] = mould.record
            record["offset"], record["length"] = offset, len(line)
            record["key"], record["crc"] = row_key(identity), zlib.crc32(line)
            offset += stream.write(line)
    records["logp"] = logp
    return checked(records)


def write_ends(
    part: Path, moulds: list[Mould], rng: np.random.Generator, start: int, rows: int
) -> Rows:
    """The first and the last line of a journal part, with a hole between; returns all records."""
    lines = [moulds[0].fill(number, [-100.0] * 8) for number in (start, start + 1)]
    length = len(lines[0][1])
    count = min(rows - start, PART_BYTES // length)
    records = np.full(count, moulds[0].record, SCORES)
    records["length"], records["logp"] = length, totals(rng, count)
    records["key"] = rng.permutation(count).astype(np.uint64) + np.uint64(start << 20)
    records["offset"] = np.arange(count, dtype=np.uint64) * np.uint64(length)
    with part.open("wb") as stream:
        for at, (identity, line) in zip((0, count - 1), lines, strict=True):
            records[at]["key"], records[at]["crc"] = row_key(identity), zlib.crc32(line)
            stream.seek(int(records[at]["offset"]))
            stream.write(line)
    return checked(records)


def checked(records: Rows) -> Rows:
    """The records, each with its own checksum."""
    for record in records:
        record["check"] = zlib.crc32(record.tobytes()[:CHECKED_BYTES])
    return records


def sample_run(run: Path, small: Path) -> int:
    """The first part of `run` alone, without its side file, as the run `small`."""
    (small / "rows").mkdir(parents=True)
    shutil.copy(run / "rows" / "00000.jsonl", small / "rows")
    return (small / "rows" / "00000.jsonl").stat().st_size


def measure_dry(run: Path, preset: str) -> dict[str, Any]:
    from sso_data.filtering.filters import decide
    from sso_data.runs.journal import load_scores

    scores = load_scores(run, dry=True)
    decision = decide(scores.rows, FilterConfig.model_validate({"preset": preset}))
    return {"rows": len(scores), "kept": len(decision.kept)}


def measure_rebuild(run: Path) -> dict[str, Any]:
    from sso_data.runs.journal import load_scores

    return {"rows": len(load_scores(run, dry=False))}


def measure_pairs(run: Path, kind: str) -> dict[str, Any]:
    """All rows as pairs: `jsonl` alone, `both`, or the Parquet writer alone on parsed lines."""
    from sso_data.runs.journal import load_scores
    from sso_data.runs.pairs import outside_row, write_pairs
    from sso_data.runs.parquet import ParquetWriter

    scores = load_scores(run, dry=True)
    every, size = np.arange(len(scores)), int(scores.rows["length"].sum(dtype=np.uint64))
    if kind == "parquet":
        with ParquetWriter(run, size, present=()) as writer:
            for line in scores.lines(every):
                writer.add(outside_row(orjson.loads(line)), len(line))
    else:
        write_pairs(run, scores, every, {}, parquet=kind == "both")
    written = sum(f.stat().st_size for f in run.rglob("*") if f.name.startswith("train"))
    return {"rows": len(scores), "json_mb": size / 1e6, "written_mb": written / 1e6}


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "dry-closeness": lambda run: measure_dry(run, "closeness"),
    "dry-reference": lambda run: measure_dry(run, "reference"),
    "rebuild": measure_rebuild,
    "jsonl": lambda run: measure_pairs(run, "jsonl"),
    "parquet": lambda run: measure_pairs(run, "parquet"),
    "both": lambda run: measure_pairs(run, "both"),
}


def measured(name: str, run: Path) -> dict[str, Any]:
    """One measure in a fresh process: its result, seconds with imports, and peak memory."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--dir", str(run), "--measure", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return {"name": name, "process_s": time.perf_counter() - started, **result}


def run_measure(name: str, run: Path) -> None:
    started = time.perf_counter()
    result = MEASURES[name](run)
    result["work_s"] = time.perf_counter() - started
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps(result))


def all_measures(directory: Path, *, dry: bool) -> Iterator[dict[str, Any]]:
    """The dry runs on the whole journal; unless `dry` the rest on its first part (256 MiB)."""
    run, small = directory / "run", directory / "small"
    yield measured("dry-closeness", run)
    yield measured("dry-reference", run)
    if dry:
        return
    sample_run(run, small)
    yield measured("rebuild", small)
    rebuilt = (small / "rows" / "00000.scores").read_bytes()
    if rebuilt != (run / "rows" / "00000.scores").read_bytes():
        raise SystemExit("the synthetic side file is not what the journal says")
    for name in ("jsonl", "parquet", "both"):
        yield measured(name, small)
        shutil.rmtree(small / "pairs", ignore_errors=True)
        for file in small.glob("train*"):
            file.unlink()


def report(result: dict[str, Any]) -> str:
    rows, seconds = result["rows"], result["work_s"]
    line = f"{result['name']:14} {rows:>9,} rows  {seconds:6.2f} s"
    line += f" (process {result['process_s']:.2f} s)"
    line += f"  peak {result['peak_mb']:6.0f} MB  {rows / seconds:10,.0f} rows/s"
    if "kept" in result:
        line += f"  kept {result['kept']:,}"
    if "json_mb" in result:
        line += f"  {result['json_mb'] / seconds:.0f} MB/s of {result['json_mb']:.0f} MB JSON lines"
        line += f", {result['written_mb']:.0f} MB written"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, required=True, help="a directory that does not exist")
    parser.add_argument("--dry", action="store_true", help="dry runs alone: 150 bytes a row")
    parser.add_argument("--keep", action="store_true", help="leave the files; use them again")
    parser.add_argument("--measure", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        run_measure(options.measure, options.dir)
        return
    fresh = not (options.dir / "run").exists()
    if fresh:
        check_space(options.dir, options.rows * (150 if options.dry else 11_000))
    try:
        if fresh:
            started = time.perf_counter()
            make_run(options.dir / "run", options.rows, dry=options.dry)
            print(f"made {options.rows:,} rows in {time.perf_counter() - started:.0f} s")
        for result in all_measures(options.dir, dry=options.dry):
            print(report(result), flush=True)
    finally:
        shutil.rmtree(options.dir / "small", ignore_errors=True)
        if fresh and not options.keep:
            shutil.rmtree(options.dir, ignore_errors=True)


def check_space(directory: Path, size: int) -> None:
    """Refuse a directory that is in use, or a disk that is too small."""
    if directory.exists() and any(directory.iterdir()):
        raise SystemExit(f"{directory}: not empty; choose a directory that does not exist")
    directory.mkdir(parents=True, exist_ok=True)
    needed = size + (2 << 30)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SystemExit(f"{directory}: {needed / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free")


if __name__ == "__main__":
    main()
