"""Sources that are not there, cannot be read or are no prompts at all."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.prompts.reading import refusal, write


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Drop root's right to read everything, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "name", ["p.jsonl", "a/b/c", "/x", "p.csv.gz", "a.yaml", "~", "--", "x y", "a\0b"]
)
def test_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_path = refusal(name)
    assert with_path.endswith(": no such file, and not the name of a Hub dataset")


def test_no_name_at_all() -> None:
    assert refusal(" ").startswith("no prompts given: name a file, a directory or a dataset")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt", "parquet"])
def test_empty(tmp_path: Path, suffix: str) -> None:
    name = f"p.{suffix}"
    assert refusal(write(tmp_path / name, b"")) == f"{name}: the file is empty"


@pytest.mark.parametrize("name", ["p.jsonl", "p.txt", "p.csv", "p.txt.gz"])
def test_nothing_but_blank_lines(tmp_path: Path, name: str) -> None:
    assert refusal(write(tmp_path / name, "\n\n")) == f"{name}: holds no prompts"


@pytest.mark.parametrize("name", ["p.yaml", "p", "p.parquet.gz", "p.tar.gz"])
def test_unknown_format(tmp_path: Path, name: str) -> None:
    suffix = "".join(Path(name).suffixes) or "no suffix"
    assert refusal(write(tmp_path / name, "a")) == (
        f"{name}: unknown file format ({suffix}); "
        "known: .jsonl .ndjson .json .csv .tsv .txt (each also with .gz, .zst, .bz2, .xz), .parquet"
    )


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_no_permission(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, '{"prompt": "a"}')
    file.chmod(0)
    with _as_nobody():
        line = refusal(file)
    assert line.startswith(f"{name}: cannot be read")
    assert line.endswith(": Permission denied")


def test_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "p.jsonl"
    os.mkfifo(pipe)
    assert refusal(pipe) == (
        "p.jsonl: not a regular file; prompts are read more than once: pipe them in and give - "
        "as the file"
    )


def test_importing_the_sources_is_cheap() -> None:
    code = "import sys, sso_data.prompts; print(*sorted({'datasets', 'pyarrow'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
