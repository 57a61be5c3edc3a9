"""Soak: one `generate` over a prompt file that keeps growing; memory, files and threads stay flat.

    python tests/reliability/soak.py --minutes 65 --plot docs/soak.png

Prompts are appended faster than they are done, so the process never sees the end of its file until
the time is up. Then it ends by itself, and the same command finds nothing left to do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sso_data.world import catalogue_dir, policy_dir, queries

AHEAD = 2000
"""Prompts that lie in the file beyond the rows done; far more than a reader's buffer holds."""
WARM_UP = 0.25
"""The share of the samples in which memory may still grow: imports, caches, the allocator."""
LIMIT_BYTES = {"parent": 256.0, "engine": 1024.0}
"""How much the anonymous memory of a process may grow for each row, after the warm-up."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a process; `anonymous` and `resident` in bytes."""

    seconds: float
    process: str
    rows: int
    anonymous: int
    resident: int
    files: int
    threads: int


class Prompts:
    """The growing prompt file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._texts = queries(4000, seed=11)

    def reach(self, count: int) -> None:
        """Append whole lines until there are `count` of them."""
        lines = []
        for number in range(self.count, count):
            prompt = self._texts[number % len(self._texts)]
            lines.append(json.dumps({"prompt": prompt, "id": f"p{number}"}) + "\n")
        with self.path.open("a") as stream:
            stream.write("".join(lines))
        self.count = max(self.count, count)


class RowCount:
    """How many lines the journal has, read on from where the last look ended."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._read: dict[Path, int] = {}
        self.rows = 0

    def look(self) -> int:
        for part in sorted((self._run / "rows").glob("*.jsonl")):
            with part.open("rb") as stream:
                stream.seek(self._read.get(part, 0))
                data = stream.read()
            self._read[part] = self._read.get(part, 0) + len(data)
            self.rows += data.count(b"\n")
        return self.rows


def look(process: str, pid: int, rows: int, since: float) -> Sample | None:
    """What /proc says of a process; None where it has just ended."""
    proc = Path(f"/proc/{pid}")
    try:
        fields = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        return Sample(
            seconds=round(time.monotonic() - since, 1),
            process=process,
            rows=rows,
            anonymous=1024 * int(fields["RssAnon"].split()[0]),
            resident=1024 * int(fields["VmRSS"].split()[0]),
            files=len(list((proc / "fd").iterdir())),
            threads=int(fields["Threads"]),
        )
    except (OSError, KeyError):
        return None


def engine_pids(parent: int) -> list[int]:
    """The processes below `parent` that hold a model: all but Python's resource tracker."""
    found, level = [], [parent]
    while level:
        below = []
        for pid in level:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                below += [int(child) for child in task.read_text().split()]
        for pid in below:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"resource_tracker" not in words:
                found.append(pid)
        level = below
    return found


def command(arguments: argparse.Namespace, prompts: Path, run: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "sso_data", "generate", str(prompts), "--out", str(run), "--json"),
        *("--model", str(policy_dir()), "--principles", str(catalogue_dir())),
        *("--engine", arguments.engine, "--set", "engine.dtype=float32"),
        *("--set", "engine.threads=1", "--set", "engine.max_num_seqs=24"),
        *("--set", "engine.max_model_len=1024", "--set", "sampling.max_tokens=64"),
    ]


def soak(arguments: argparse.Namespace) -> list[Sample]:
    """Run until the time is up and the file is done; every sample also goes to samples.jsonl."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    run, prompts = out / "run", Prompts(out / "prompts.jsonl")
    prompts.path.unlink(missing_ok=True)
    prompts.reach(AHEAD)
    count, samples, since = RowCount(run), [], time.monotonic()
    with (out / "stderr.txt").open("wb") as log, (out / "samples.jsonl").open("w") as file:
        process = subprocess.Popen(
            command(arguments, prompts.path, run), stdout=subprocess.PIPE, stderr=log
        )
        while process.poll() is None:
            rows = count.look()
            if time.monotonic() - since < 60 * arguments.minutes:
                prompts.reach(rows + AHEAD)
            pids = [("parent", process.pid), *(("engine", pid) for pid in engine_pids(process.pid))]
            for name, pid in pids:
                if sample := look(name, pid, rows, since):
                    samples.append(sample)
                    print(json.dumps(asdict(sample)), file=file, flush=True)
            time.sleep(arguments.every)
        ended = json.loads(process.communicate()[0])
    check_books(ended, prompts.count, count.look())
    again = subprocess.run(command(arguments, prompts.path, run), capture_output=True, check=True)
    assert json.loads(again.stdout)["new_rows"] == 0, "a finished run found something to do"
    return samples


def check_books(ended: dict[str, int], prompts: int, rows: int) -> None:
    """The run ended with a row for every prompt that was ever appended."""
    assert ended["prompts"] == prompts == rows, (ended["prompts"], prompts, rows)
    assert ended["rows"] == prompts


def steady(samples: Sequence[Sample]) -> list[Sample]:
    """The samples after the warm-up and before the process winds down."""
    rowful = [sample for sample in samples if 0 < sample.rows < samples[-1].rows]
    return rowful[int(WARM_UP * len(rowful)) :]


def growth(samples: Sequence[Sample]) -> float:
    """Bytes of anonymous memory a row, by least squares."""
    rows = np.array([sample.rows for sample in samples], dtype=float)
    memory = np.array([sample.anonymous for sample in samples], dtype=float)
    return float(np.polyfit(rows, memory, 1)[0])


def verdict(samples: Sequence[Sample]) -> tuple[dict[str, object], list[str]]:
    """The figures of a soak, and what in them is not flat."""
    figures: dict[str, object] = {
        "hours": round(samples[-1].seconds / 3600, 3),
        "rows": samples[-1].rows,
        "samples": len(samples),
    }
    wrong = []
    for name, limit in LIMIT_BYTES.items():
        flat = steady([sample for sample in samples if sample.process == name])
        each = growth(flat)
        hours = (flat[-1].seconds - flat[0].seconds) / 3600
        figures[name] = {
            "bytes_a_row": round(each, 1),
            "mib_an_hour": round(each * (flat[-1].rows - flat[0].rows) / MIB / hours, 2),
            "anonymous_mib": [round(flat[at].anonymous / MIB, 1) for at in (0, -1)],
            "files": [min(s.files for s in flat), max(s.files for s in flat)],
            "threads": [min(s.threads for s in flat), max(s.threads for s in flat)],
        }
        if each > limit:
            wrong.append(f"{name}: {each:.0f} bytes a row, more than {limit:.0f}")
        half = len(flat) // 2
        for what in ("files", "threads"):
            early = max(getattr(sample, what) for sample in flat[:half])
            late = max(getattr(sample, what) for sample in flat[half:])
            if late > early:
                wrong.append(f"{name}: {what} grew from {early} to {late}")
    return figures, wrong


def plot(samples: Sequence[Sample], file: Path) -> None:
    """Anonymous memory of both processes over time, each on its own scale from zero."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(LIMIT_BYTES, start=1):
        axes = figure.add_subplot(1, 3, place)
        mine = [sample for sample in samples if sample.process == name]
        axes.plot([s.seconds / 60 for s in mine], [s.anonymous / MIB for s in mine])
        axes.set_ylim(bottom=0)
        axes.set_title(f"{name}: memory (MiB)", fontsize=9)
    axes = figure.add_subplot(1, 3, 3)
    axes.plot([s.seconds / 60 for s in samples], [s.rows for s in samples])
    axes.set_title("rows done", fontsize=9)
    for axes in figure.axes:
        axes.set_xlabel("minutes", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=80)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=65.0, help="how long the file grows")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--out", type=Path, help="new directory for run and samples")
    parser.add_argument("--plot", type=Path, help="where to draw memory over time (PNG)")
    arguments = parser.parse_args()
    arguments.out = arguments.out or Path(tempfile.mkdtemp(prefix="sso-data-soak-"))
    print(f"run and samples go to {arguments.out}", flush=True)
    samples = soak(arguments)
    figures, wrong = verdict(samples)
    print(json.dumps({"engine": arguments.engine, **figures}, indent=2))
    if arguments.plot:
        plot(samples, arguments.plot)
    for line in wrong:
        print(f"not flat: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
