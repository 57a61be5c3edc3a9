"""Checksums of files, the memory of them, and fingerprints of weights over every byte."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sso_data.core.errors import ModelError, RunError
from sso_data.core.fingerprints import same, sampled
from sso_data.core.progress import NullProgress
from sso_data.models.directory import model_fingerprint
from sso_data.runs import checksums
from sso_data.runs.checksums import changed, sha256_of

OLD_NS = 1_000_000_000_000_000_000
"""A time of a file long ago."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the user's that remembers small files too, whenever they changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "REMEMBERED_BYTES", 1)
    monkeypatch.setattr(checksums, "_SETTLED_NS", -(10**12))
    return tmp_path / "cache" / "sso-data" / "checksums"


def test_the_checksums_are_those_of_the_bytes(tmp_path: Path) -> None:
    contents = [b"", b"one", bytes(9 << 20)]
    files = [tmp_path / str(number) for number in range(3)]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert sha256_of(files) == dict(zip(files, map(digest, contents), strict=True))
    assert sha256_of([]) == {}
    recorded = {"1": digest(b"one"), "2": digest(b"two"), "gone": digest(b"")}
    assert changed(tmp_path, recorded) == ["2", "gone"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not readable"):
        sha256_of([tmp_path / "missing"])


def test_a_remembered_file_is_not_read_again_until_anything_changes(
    tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"first")
    assert sha256_of([file]) == {file: digest(b"first")}
    assert not cache.exists()  # only where it is asked for
    sha256_of([file], remember=True)
    entry = next(cache.iterdir())
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"sha256": "remembered"}))
    assert sha256_of([file], remember=True) == {file: "remembered"}
    before = file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the times of before; not ctime
    assert sha256_of([file], remember=True) == {file: digest(b"other")}
    entry.write_text("{torn")
    assert sha256_of([file], remember=True) == {file: digest(b"other")}


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_SETTLED_NS", 10**12)
    file = tmp_path / "weights"
    file.write_bytes(b"first")
    sha256_of([file], remember=True)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    file = tmp_path / "weights"
    file.write_bytes(b"first")
    assert sha256_of([file], remember=True) == {file: digest(b"first")}


def test_a_file_of_the_hub_is_named_by_its_checksum_unless_it_was_edited(tmp_path: Path) -> None:
    name = "a" * 64
    blob, link = tmp_path / "blobs" / name, tmp_path / "snapshots" / "model.safetensors"
    for path in (blob, link):
        path.parent.mkdir()
    blob.write_bytes(b"weights")
    os.utime(blob, ns=(OLD_NS, OLD_NS))
    link.symlink_to(blob)
    assert sha256_of([link], remember=True) == {link: name}
    assert sha256_of([link]) == {link: digest(b"weights")}
    os.utime(blob, ns=(link.lstat().st_mtime_ns + 1,) * 2)
    assert sha256_of([link], remember=True) == {link: digest(b"weights")}


def test_the_reading_of_large_files_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int | None, str]] = []

    class Counted(NullProgress):
        def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
            seen.append((done, total, unit))

    file = tmp_path / "weights"
    file.write_bytes(bytes(9 << 20))
    sha256_of([file], Counted())
    assert not seen
    monkeypatch.setattr(checksums, "SHOWN_BYTES", 9 << 20)
    sha256_of([file], Counted())
    assert seen == [(done << 20, 9 << 20, "bytes") for done in (4, 8, 9)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of 16 MiB, of which the samples leave out most."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    weights = np.random.default_rng(0).integers(0, 256, 16 << 20, np.uint8)
    save_file({"w": weights}, directory / "model.safetensors")
    return directory


def flip(file: Path, offset: int) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def test_every_byte_of_the_weights_is_in_the_fingerprint(model: Path) -> None:
    before = model_fingerprint(model)
    assert len(before) == 32 and model_fingerprint(model) == before
    flip(model / "model.safetensors", (4 << 20) + (200 << 10))  # between two samples
    after = model_fingerprint(model)
    assert after != before and after[:16] == before[:16] == sampled(before)
    assert not same(before, after) and same(before[:16], after)


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "qwen.tiktoken", "vocab.txt"])
def test_what_stands_beside_the_weights_is_in_the_fingerprint(model: Path, name: str) -> None:
    before = model_fingerprint(model)
    (model / name).write_text("{}")
    assert model_fingerprint(model) != before


def test_code_is_in_the_fingerprint_where_the_configuration_names_some(model: Path) -> None:
    plain = model_fingerprint(model)
    (model / "modeling.py").write_text("A = 1")
    assert model_fingerprint(model) == plain
    (model / "config.json").write_text('{"auto_map": {}}')
    before = model_fingerprint(model)
    (model / "modeling.py").write_text("A = 2")
    assert model_fingerprint(model) != before


def test_a_trained_model_is_what_its_training_wrote(model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    (model / "train.json").write_text(json.dumps({"files": {weights.name: digest(b"")}}))
    with pytest.raises(ModelError, match=r"model\.safetensors: is not what the training wrote"):
        model_fingerprint(model)
    (model / "train.json").rename(tmp_path / "train.json")  # as the message says
    assert model_fingerprint(model)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0123456789abcdef" * 2, "0123456789abcdef", True),
        ("name@" + "0123456789abcdef" * 2, "name@0123456789abcdef", True),
        ("0123456789abcdef" * 2 + "+" + "f" * 32, "0123456789abcdef+" + "f" * 16, True),
        ("0123456789abcdef" * 2, "0123456789abcdef" + "0" * 16, False),
        ("0123456789abcdef" * 2, "0123456789abcdee", False),
        ({"a": {"b": "0" * 32}}, {"a": {"b": "0" * 16}}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        (1, 1, True),
    ],
)
def test_fingerprints_are_the_same_as_far_as_both_go(
    one: object, other: object, expected: bool
) -> None:
    assert same(one, other) is same(other, one) is expected
