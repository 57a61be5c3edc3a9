"""The corruption table: what is changed, and which command reads it; and what the message says.

Every entry ends in one line that names the file, and the line where it has lines. The advice of
each message is followed.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sso_data
from sso_data.cli import app
from sso_data.core.errors import SsoDataError
from sso_data.core.fingerprints import sampled
from sso_data.core.records import Failure, Message, content_hash, row_id
from sso_data.demo import demo_config
from sso_data.generation.generate import generate as run_generate
from sso_data.generation.merge import merge
from sso_data.generation.retry import retry
from sso_data.prompts.preferences import read_preferences
from sso_data.publishing.card import read_facts
from sso_data.publishing.dataset import pack
from sso_data.runs.jsonl import JsonlStore, to_line
from sso_data.runs.pairs import check_source
from sso_data.runs.workdir import write_json
from sso_data.training.state import TRAINING, TrainingDir, check_model, mark_whole
from sso_data.world import policy_dir
from tests.once import once
from tests.tiny_runs import tiny_run

PROMPTS = 12
FAILED = (Message(role="user", content="Name a kite."), Message(role="assistant", content="Red."))


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A run with dropped rows and a failure, to be spoiled."""
    made = once(tmp_path_factory, "spoiled", lambda at: tiny_run(at, PROMPTS, seed=5))
    shutil.copytree(made, tmp_path / "at", dirs_exist_ok=True)
    run = tmp_path / "at" / "run"
    failure = Failure(
        id=row_id(content_hash(FAILED), 0),
        stage="prompt",
        reason="ends_with_assistant",
        detail="",
        messages=FAILED,
    )
    (run / "failed.jsonl").write_bytes(to_line(failure.to_json()))
    return run


def journal(run: Path) -> Path:
    return run / "rows" / "00000.jsonl"


def edit(file: Path, number: int, pattern: str, into: str) -> None:
    """Change what `pattern` finds in line `number`, counted from 1."""
    lines = file.read_text().splitlines(keepends=True)
    new = re.sub(pattern, into, lines[number - 1], count=1)
    assert new != lines[number - 1]
    file.write_text("".join([*lines[: number - 1], new, *lines[number:]]))


def edit_text(file: Path, pattern: str, into: str) -> None:
    """Change what `pattern` finds first in a file."""
    new = re.sub(pattern, into, text := file.read_text(), count=1)
    assert new != text
    file.write_text(new)


def delete(file: Path, number: int) -> None:
    """Delete line `number`, counted from 1."""
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[: number - 1], *lines[number:]]))


def dropped(run: Path) -> int:
    """The number of the first journal line that is no pair."""
    kept = {row["id"] for row in sso_data.read_pairs(run)}
    lines = journal(run).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if json.loads(line)["id"] not in kept)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "generate": lambda run: run_generate(str(run.parent / "prompts.jsonl"), run, demo_config()),
    "filter": sso_data.filter_run,
    "retry": lambda run: retry(run, demo_config()),
    "merge": lambda run: merge([run], run.parent / "merged"),
    "push": lambda run: pack(read_facts(run), "me/pairs", run.parent / "packed"),
    "export pairs": lambda run: sso_data.export(run, "trl", run.parent / "exported"),
    "export answers": lambda run: sso_data.export(run, "alpaca-eval", run.parent / "answers"),
    "train": lambda run: sso_data.train(run, run.parent / "model", model=str(policy_dir())),
    "read_rows": lambda run: list(sso_data.read_rows(run)),
    "read_pairs": lambda run: list(sso_data.read_pairs(run)),
}
READ_ROWS = ("generate", "filter", "retry", "merge", "push", "export answers", "read_rows")
READ_PAIRS = ("push", "export pairs", "train", "read_pairs")
READ_FAILED = ("generate", "retry", "merge", "push")


def a_digit(run: Path) -> str:
    number = dropped(run)
    edit(journal(run), number, r'("logp_plain_good":-\d+\.)\d', r"\g<1>99")
    return f"rows/00000.jsonl:{number}: was changed after it was written"


def a_digit_of_the_last_row(run: Path) -> str:
    edit(journal(run), PROMPTS, r'("logp_plain_good":-)\d', r"\g<1>9")
    return f"rows/00000.jsonl:{PROMPTS}: was changed after it was written"


def a_text(run: Path) -> str:
    edit(journal(run), 3, r'"content":"', '"content":"Not so: ')
    return "rows/00000.jsonl:3: was changed after it was written"


def a_row_twice(run: Path) -> str:
    data = journal(run).read_bytes()
    journal(run).write_bytes(data + data.splitlines(keepends=True)[4])
    return f"rows/00000.jsonl:{PROMPTS + 1}: is the row of .*rows/00000.jsonl:5 once more"


def a_pair_s_text(run: Path) -> str:
    edit(run / "pairs" / "train.jsonl", 2, r'"content":"', '"content":"Not so: ')
    return "pairs/train.jsonl:2: is not as `filter` wrote it"


def a_pair_s_token(run: Path) -> str:
    edit(run / "pairs" / "train.jsonl", 1, r'("chosen_token_ids":\[)\d+', r"\g<1>7")
    return "pairs/train.jsonl:1: is not as `filter` wrote it"


def a_failed_prompt(run: Path) -> str:
    edit(run / "failed.jsonl", 1, "kite", "boat")
    return "failed.jsonl:1: its prompt is not the one of its id"


def a_setting(run: Path) -> str:
    edit_text(run / "run.json", r'("top_p": )\S+', r"\g<1>0.5,")
    return r"run\.json: was changed after it was written"


def a_threshold(run: Path) -> str:
    edit_text(run / "pairs" / "filter.json", r'("kept": )\d+', r"\g<1>1")
    return r"filter\.json: was changed after it was written"


TABLE = [
    *((a_setting, name) for name in READ_ROWS[:-1]),
    *((a_threshold, name) for name in (*READ_PAIRS, "generate", "retry", "merge")),
    *((a_digit, name) for name in READ_ROWS),
    *((a_digit_of_the_last_row, name) for name in ("generate", "filter", "push")),
    *((a_text, name) for name in ("generate", "filter", "merge")),
    *((a_row_twice, name) for name in READ_ROWS),
    *((a_pair_s_text, name) for name in READ_PAIRS),
    *((a_pair_s_token, name) for name in READ_PAIRS),
    *((a_failed_prompt, name) for name in READ_FAILED),
]


@pytest.mark.parametrize(
    ("spoil", "command"), TABLE, ids=[f"{spoil.__name__}-{name}" for spoil, name in TABLE]
)
def test_what_is_changed_is_named_by_the_command_that_reads_it(
    run: Path, spoil: Callable[[Path], str], command: str
) -> None:
    expected = spoil(run)
    files = {file: file.read_bytes() for file in run.rglob("*.json*")}
    with pytest.raises(SsoDataError, match=expected) as caught:
        COMMANDS[command](run)
    assert "\n" not in str(caught.value)
    assert not re.search(r"(delete|remove) \S*\.scores", str(caught.value))
    assert {file: file.read_bytes() for file in files} == files  # nothing became official
    shown = CliRunner().invoke(app, ["verify", str(run), "--json"])
    assert shown.exit_code == 1
    failed = [one for one in json.loads(shown.stdout) if one["state"] == "fail"]
    assert (
        re.search(expected, f"{failed[0]['what']}: {failed[0]['detail']}") and failed[0]["remedy"]
    )


def test_a_run_as_it_was_written_is_verified(run: Path) -> None:
    found = sso_data.verify(run)
    assert {finding.state for finding in found} == {"ok"}, found
    assert f"{PROMPTS} lines, each as it was written" in [finding.detail for finding in found]
    with pytest.raises(SsoDataError, match="no run, training, iteration or augmentation"):
        sso_data.verify(run / "rows")


def rows_of(run: Path) -> list[tuple[str, str, int]]:
    """What no rounding changes of the rows."""
    return sorted(
        (row.id, row.model_fingerprint, row.seed["good"]) for row in sso_data.read_rows(run)
    )


def test_a_changed_row_is_restored_or_made_again(run: Path) -> None:
    whole = rows_of(run)
    copy = journal(run).read_bytes()
    a_digit(run)
    journal(run).write_bytes(copy)  # "restore the line from a copy"
    assert sso_data.filter_run(run).account.rows == PROMPTS
    number = dropped(run)
    a_digit(run)
    delete(journal(run), number)  # "or delete the line and run the command that made the run"
    assert sso_data.filter_run(run, dry_run=True).account.rows == PROMPTS - 1
    COMMANDS["generate"](run)
    assert rows_of(run) == whole
    assert {finding.state for finding in sso_data.verify(run)} == {"ok"}


def test_the_checksums_outlive_another_rule_and_a_torn_side_file(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where records are made again from the journal, its lines are compared first."""
    from sso_data.runs import columns

    expected = a_digit_of_the_last_row(run)
    side = run / "rows" / "00000.scores"
    whole = side.read_bytes()
    side.write_bytes(whole[:-300])  # the last three records are torn; this line has none left
    assert sso_data.filter_run(run, dry_run=True).account.rows == PROMPTS
    side.write_bytes(whole)
    monkeypatch.setattr(columns, "ECHO_WORDS", 7)
    with pytest.raises(SsoDataError, match=expected):
        sso_data.filter_run(run)
    assert side.read_bytes() == whole


def test_a_changed_manifest_is_restored_or_written_again(run: Path) -> None:
    manifest, decided = run / "run.json", run / "pairs" / "filter.json"
    copy, whole = manifest.read_bytes(), json.loads(decided.read_text())
    a_setting(run)
    manifest.write_text(json.dumps(json.loads(copy)))  # its values, in any layout
    a_threshold(run)
    sso_data.filter_run(run)
    assert json.loads(decided.read_text())["kept"] == whole["kept"]
    content = json.loads(copy)
    del content["crc"]  # versions before 0.2.0 wrote none
    manifest.write_text(json.dumps(content))
    assert {finding.state for finding in sso_data.verify(run)} == {"ok"}


@pytest.mark.parametrize("name", ["train.json", "iterate.json", "setup.json"])
def test_other_manifests_are_sealed_too(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / name, {"schema_version": 4, "identity": {"seed": 1}})
    assert "fail" not in {finding.state for finding in sso_data.verify(tmp_path)}
    edit_text(tmp_path / name, '"seed": 1', '"seed": 2')
    wrong = [finding for finding in sso_data.verify(tmp_path) if finding.state == "fail"]
    assert "was changed after it was written" in wrong[0].detail and wrong[0].what.endswith(name)


def test_a_repeated_line_is_deleted(run: Path) -> None:
    a_row_twice(run)
    delete(journal(run), 5)
    assert sso_data.filter_run(run).account.rows == PROMPTS


def test_edited_pairs_are_written_again_or_copied(run: Path, tmp_path: Path) -> None:
    edited = a_pair_s_text(run)
    pairs = run / "pairs" / "train.jsonl"
    for source in (run, run / "pairs", pairs):
        with pytest.raises(SsoDataError, match=edited):
            check_source(str(source))
    shutil.copyfile(pairs, tmp_path / "mine.jsonl")  # "copy train.jsonl ... give the copy's path"
    check_source(str(tmp_path / "mine.jsonl"))
    mine = list(read_preferences(str(tmp_path / "mine.jsonl")))
    assert str(mine[1]["prompt"]).startswith("[{'role': 'user', 'content': 'Not so: ")
    sso_data.filter_run(run)  # "write it again"
    check_source(str(run))
    assert "Not so: " not in pairs.read_text()


def test_parquet_of_pairs_is_bound_too(run: Path) -> None:
    table = run / "pairs" / "train.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(SsoDataError, match=r"pairs/train\.parquet: is not as `filter` wrote it"):
        check_source(str(run / "pairs"))


def test_files_of_earlier_versions_have_no_checksums(run: Path) -> None:
    (run / "rows" / "00000.scores").unlink()
    decided = json.loads((run / "pairs" / "filter.json").read_text())
    del decided["sha256"]
    write_json(run / "pairs" / "filter.json", decided)
    a_pair_s_text(run)
    assert len(list(sso_data.read_pairs(run)))
    found = {finding.detail: finding.state for finding in sso_data.verify(run)}
    assert found[f"{PROMPTS} of {PROMPTS} lines have no checksum in 00000.scores"] == "warn"
    assert found["no checksums in filter.json"] == "warn"
    assert "fail" not in found.values()


def test_a_removed_failure_is_done_anew(run: Path) -> None:
    a_failed_prompt(run)
    delete(run / "failed.jsonl", 1)
    COMMANDS["generate"](run)


def test_a_run_with_a_sampled_fingerprint_is_compared_once_then_upgraded(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    whole = manifest["identity"]["model"]
    manifest["identity"]["model"] = sampled(whole)
    assert len(whole) == 32 and len(manifest["identity"]["model"]) == 16
    write_json(run / "run.json", manifest)
    check = COMMANDS["generate"]
    check(run)
    assert json.loads((run / "run.json").read_text())["identity"]["model"] == whole
    manifest["identity"]["model"] = whole[:16] + "0" * 16
    write_json(run / "run.json", manifest)
    with pytest.raises(SsoDataError, match="holds another run: model is"):
        check(run)


def test_a_line_of_answers_holds_its_own_checksum(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"
    store = JsonlStore(file, "key")
    store.add({"key": "a", "preference": 1.0})
    store.add({"key": "b", "preference": 0.25})
    store.close()
    edit(file, 2, "0.25", "0.75")
    with pytest.raises(SsoDataError, match=r"verdicts\.jsonl:2: was changed after it was written"):
        JsonlStore(file, "key")
    assert [finding.state for finding in sso_data.verify(tmp_path)] == ["fail"]
    delete(file, 2)
    store = JsonlStore(file, "key")
    assert store.lines == {"a": {"key": "a", "preference": 1.0}}
    store.close()


@pytest.fixture
def training(tmp_path: Path) -> TrainingDir:
    """The files of a training with two whole checkpoints, and of its model."""
    for step in (2, 4):
        checkpoint = tmp_path / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        (checkpoint / "optimizer.pt").write_bytes(b"moments")
        mark_whole(checkpoint, step)
    (tmp_path / "train.json").write_text(
        json.dumps({"schema_version": 4, "identity": {}, "finished": "today"})
    )
    return TrainingDir(tmp_path, TRAINING, {"identity": {}})


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_flipped_byte_of_a_checkpoint_is_named(training: TrainingDir, name: str) -> None:
    newest = training.path / "checkpoints" / "checkpoint-4"
    assert training.last_checkpoint() == newest
    (newest / name).write_bytes(b"weightz")
    with pytest.raises(SsoDataError, match=f"checkpoint-4/{name}: is not as the training wrote"):
        training.last_checkpoint()
    assert "fail" in [finding.state for finding in sso_data.verify(training.path)]
    shutil.rmtree(newest)  # "remove ...: the same command then continues from an earlier one"
    assert training.last_checkpoint() == newest.with_name("checkpoint-2")
    shutil.rmtree(newest.with_name("checkpoint-2"))
    assert training.last_checkpoint() is None  # "or starts over"


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(training: TrainingDir) -> None:
    newest = training.path / "checkpoints" / "checkpoint-4"
    (newest / "complete.json").write_text('{"step": 4}')
    (newest / "optimizer.pt").write_bytes(b"other")
    assert training.last_checkpoint() == newest


def test_the_files_of_a_model_are_bound_to_their_training(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    manifest = {"files": {"config.json": "0" * 64}}
    with pytest.raises(SsoDataError, match=r"config\.json: is not as the training wrote it"):
        check_model(tmp_path, manifest)
    check_model(tmp_path, manifest, "metrics.jsonl")
    del manifest["files"]["config.json"]  # "take config.json out of `files`"
    check_model(tmp_path, manifest)
