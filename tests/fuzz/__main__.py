"""Fuzz every target for a while: `python -m tests.fuzz --minutes 20`; run it again to go on.

Half of the time goes to mutations that know nothing, half (where atheris is installed) to ones that
are guided by coverage. FOLDER keeps counts, the grown corpora and what failed; streams that were
tried are not tried again.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutate import mutants
from tests.fuzz.targets import TARGETS

_SLICE = 2000
"""Inputs of one stream; a continued run begins with the next stream."""


def blind(name: str, stream: int, folder: Path, deadline: float) -> int:
    """Run one stream of mutations; returns how many were executed before the deadline."""
    target = TARGETS[name]
    for count, data in enumerate(mutants(target.seeds, target.words, stream)):
        if count >= _SLICE or time.monotonic() > deadline:
            return count
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                target.run(data)
        except Exception:  # noqa: BLE001 - this is what fuzzing looks for
            keep(name, data, traceback.format_exc(), folder)
    raise AssertionError("mutations never end")


def keep(name: str, data: bytes, why: str, folder: Path) -> None:
    """Write down an input that failed."""
    found = folder / "failed" / name.replace(" ", "-")
    found.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:12]
    (found / digest).write_bytes(data)
    (found / f"{digest}.txt").write_text(why, encoding="utf-8", errors="backslashreplace")
    print(f"FAILED {name}: {why.strip().splitlines()[-1][:300]} ({found / digest})", flush=True)


def guided(name: str, seconds: int, folder: Path) -> int:
    """A process of libFuzzer; returns how many inputs it executed."""
    corpus = folder / "corpus" / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for data in TARGETS[name].seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    failed = folder / "failed" / name.replace(" ", "-")
    failed.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={failed}/", "-print_final_stats=1"]
    limits = ["-max_len=4096", "-timeout=60", "-rss_limit_mb=6000", "-verbosity=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", name, *options, *limits, str(corpus)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        print(f"FAILED {name} (guided): {done.stderr[-1500:]}", flush=True)
    counted = re.search(r"number_of_executed_units:\s*(\d+)", done.stdout + done.stderr)
    return int(counted[1]) if counted else 0


class Counts:
    """Executions so far by target, kept in a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "counts.json"
        self.of: dict[str, dict[str, int]] = {}
        if self._file.exists():
            self.of = json.loads(self._file.read_text())
        for name in TARGETS:
            self.of.setdefault(name, {"streams": 0, "blind": 0, "guided": 0})

    def add(self, name: str, **more: int) -> None:
        for key, count in more.items():
            self.of[name][key] += count
        self._file.write_text(json.dumps(self.of, indent=1))

    def __str__(self) -> str:
        lines = [f"{'target':<18}{'mutated':>12}{'guided':>12}"]
        for name, count in self.of.items():
            lines.append(f"{name:<18}{count['blind']:>12,}{count['guided']:>12,}")
        total = sum(count["blind"] + count["guided"] for count in self.of.values())
        return "\n".join([*lines, f"{'together':<18}{total:>24,}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"))
    parser.add_argument("--target", choices=TARGETS, action="append")
    chosen = parser.parse_args()
    logging.disable()
    names = chosen.target or list(TARGETS)
    counts = Counts(chosen.folder)
    has_atheris = importlib.util.find_spec("atheris") is not None
    share = chosen.minutes * 60 / len(names) / (2 if has_atheris else 1)
    for name in names:
        deadline = time.monotonic() + share
        while time.monotonic() < deadline:
            stream = counts.of[name]["streams"]
            counts.add(name, blind=blind(name, stream, chosen.folder, deadline), streams=1)
        if has_atheris:
            counts.add(name, guided=guided(name, max(1, int(share)), chosen.folder))
        print(f"{name}: {counts.of[name]}", flush=True)
    print(counts)
    failed = [file for file in (chosen.folder / "failed").rglob("*") if file.is_file()]
    print(f"{len(failed)} files in {chosen.folder / 'failed'}" if failed else "nothing failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
