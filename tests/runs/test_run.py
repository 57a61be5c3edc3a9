"""A run directory: continued only as the same run, by one writer, with its accounting in order."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.migration import FORMAT
from sso_data.core.errors import RunError
from sso_data.core.records import Failure, Message, content_hash, row_id, sample_id, split_sample
from sso_data.runs.columns import row_key
from sso_data.runs.journal import load_scores
from sso_data.runs.ledger import FAILED, Ledger
from sso_data.runs.run import Account, open_run, read_failures, run_account
from sso_data.runs.workdir import differences, refuse_another
from tests.factories import make_row

IDENTITY = {"seed": 0, "sampling.temperature": 0.7}
DETAILS = {"config": {}, "date": "2026-01-01"}


def opened(path: Path, identity: dict[str, Any] | None = None, *, overwrite: bool = False) -> Any:
    return open_run(path, identity=identity or IDENTITY, details=DETAILS, overwrite=overwrite)


def failure(identity: str, attempts: int = 1) -> Failure:
    return Failure(id=identity, stage="views", reason="why", detail="so", attempts=attempts)


def test_a_new_run_writes_who_it_is(tmp_path: Path) -> None:
    with opened(tmp_path / "run"):
        pass
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["identity"] == IDENTITY
    assert manifest["schema_version"] == FORMAT


def test_another_identity_is_refused_and_named(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with (
        pytest.raises(RunError, match=r"sampling.temperature is 0.7 there and 0.6 here"),
        opened(tmp_path, {"seed": 0, "sampling.temperature": 0.6}),
    ):
        pass


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.write_row(make_row())
    with opened(tmp_path, {"seed": 1}, overwrite=True) as run:
        assert len(run.ledger) == 0


def test_overwrite_deletes_only_what_is_ours(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    (tmp_path / "notes.txt").write_text("mine")
    with opened(tmp_path, overwrite=True):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("thesis.tex", "not empty and not a run"),
        ("failed.jsonl", "holds failed.jsonl but no run.json"),
    ],
)
def test_a_directory_of_something_else_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match=message), opened(tmp_path):
        pass
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seed": 1}'])
def test_a_broken_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json"), opened(tmp_path):
        pass


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"), opened(tmp_path / "file"):
        pass


def test_equal_prompts_keep_their_own_identity(tmp_path: Path) -> None:
    content = content_hash((Message(role="user", content="Why?"),))
    with opened(tmp_path) as run:
        ids = [run.admit(content)[0][0] for _ in range(100)]
    assert ids == [row_id(content, occurrence) for occurrence in range(100)]


def test_done_and_failed_prompts_are_not_open_again(tmp_path: Path) -> None:
    row = make_row()
    content = row.id.rpartition("-")[0]
    with opened(tmp_path) as run:
        assert run.admit(content) == [(row.id, True)]
        run.write_row(row)
        run.write_failure(failure(row_id("feed", 0)))
    with opened(tmp_path) as run:
        assert run.admit(content) == [(row.id, False)]
        assert run.admit(content) == [(row_id(content, 1), True)]
        assert run.admit("feed") == [(row_id("feed", 0), False)]


def test_the_books_balance_and_a_row_wins_over_an_older_failure(tmp_path: Path) -> None:
    row = make_row()
    with opened(tmp_path) as run:
        run.admit(row.id.rpartition("-")[0])
        run.write_failure(failure(row.id))
        run.admit("feed")
        run.write_failure(failure(row_id("feed", 0)))
        run.write_row(row)
        assert run.account() == Account(prompts=2, rows=1, failed=1)
        run.account().check()
    scores = load_scores(tmp_path, dry=True)
    assert run_account(tmp_path, scores) == Account(prompts=2, rows=1, failed=1)


def test_a_lost_prompt_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.admit("feed")
        with pytest.raises(AssertionError, match="prompts were lost: prompts 1 = rows 0"):
            run.account().check()


def test_the_newest_failure_counts_and_a_torn_one_is_cut(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.write_failure(failure("a-0"))
        run.write_failure(failure("a-0", attempts=2))
    with (tmp_path / "failed.jsonl").open("a") as stream:
        stream.write('{"id": "b-0", "st')
    with opened(tmp_path) as run:
        run.write_failure(failure("c-0"))
    found = read_failures(tmp_path)
    assert {name: failed.attempts for name, failed in found.items()} == {"a-0": 2, "c-0": 1}


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    code = f"""
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from sso_data.runs.run import open_run
with open_run(Path({str(tmp_path)!r}), identity={IDENTITY!r}, details={DETAILS!r}):
    print("open", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RunError, match="another process is writing"), opened(tmp_path):
            pass
        other.kill()
        other.wait()
        with opened(tmp_path):
            pass


def test_differences_name_absent_keys() -> None:
    assert differences({"a": 1}, {"b": "x"}) == [
        'a is 1 there and "absent" here',
        'b is "absent" there and "x" here',
    ]


def test_failures_are_not_kept_in_memory(tmp_path: Path) -> None:
    """At most 64 bytes a prompt, whatever its length, beyond what an empty run takes."""
    count = 5000
    with opened(tmp_path) as run:
        for number in range(count):
            run.write_failure(replace(failure(f"{number:020}-0"), detail="x" * 2000))
    tracemalloc.start()
    with opened(tmp_path) as run:
        assert run.ledger.count(FAILED) == count
        grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 64 * count + 200_000


def test_the_samples_of_a_prompt_have_ids_that_stay_when_there_are_more() -> None:
    one, three = Ledger(), Ledger()
    for occurrence in range(2):
        assert one.next_ids("feed") == [f"feed-{occurrence}"]
        found = three.next_ids("feed", 3)
        assert found == [f"feed-{occurrence}", f"feed-{occurrence}.2", f"feed-{occurrence}.3"]
        assert [split_sample(identity) for identity in found] == [
            (f"feed-{occurrence}", sample) for sample in (1, 2, 3)
        ]
    assert len({row_key(sample_id("feed-0", sample)) for sample in range(1, 257)}) == 256


def test_the_books_of_several_samples(tmp_path: Path) -> None:
    """From the files alone; equal numbers of samples are told from different ones."""
    rows = [make_row(0), make_row(1)]
    more = [replace(row, id=f"{row.id}.2") for row in rows]
    details = {"config": {}, "date": "2026-01-01"}
    with open_run(tmp_path, identity={}, details=details) as run:
        for row in (*rows, more[1]):
            run.write_row(row)
    ragged = run_account(tmp_path, load_scores(tmp_path, dry=True))
    assert ragged == Account(prompts=2, rows=3, failed=0, samples=None)
    with open_run(tmp_path, identity={}, details=details) as run:
        run.write_failure(Failure(id=more[0].id, stage="x", reason="x", detail="x"))
    whole = run_account(tmp_path, load_scores(tmp_path, dry=True))
    assert whole == Account(prompts=2, rows=3, failed=1, samples=2)
    whole.check()


@pytest.mark.parametrize(
    ("noun", "then", "now", "told"),
    [
        ("run", "short", None, "with --principles short ("),
        ("run", "long", "long", "with --principles DIR ("),
        ("run", None, None, "with --principles DIR ("),
        ("augmentation", None, None, "with --set principles=DIR ("),
        ("iteration", "short", "long", "with --set generate.principles=short ("),
    ],
)
def test_other_texts_are_named_as_they_are_given(
    noun: str, then: str | None, now: str | None, told: str
) -> None:
    """A catalogue of the same name is other texts: those of another version, or edited ones."""

    def config(name: str | None) -> dict[str, Any]:
        return {"principles": name, "generate": {"principles": name}}

    there, here = {"principles": "aa"}, {"principles": "bb"}
    with pytest.raises(RunError) as caught:
        refuse_another(Path("out"), noun, there, here, configs=(config(then), config(now)))
    assert told in str(caught.value)
