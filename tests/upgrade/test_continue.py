"""What an earlier version began and SIGKILL ended goes on to what that version would have made.

`make.py` tells what the fixtures are. Compared exactly is what no processor changes: ids, seeds,
prompts, hashes, and all that stood in the files before. What is computed from weights differs in
its last bits from one processor to another, and now and then a sampled token with them.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from sso_data.cli import app
from tests.upgrade.content import (
    Json,
    augmentation_content,
    evaluation_content,
    iteration_content,
    lines_of,
    object_of,
    rows_of,
    run_content,
    steering_content,
    training_content,
)
from tests.upgrade.places import STORED, before_of, command_of, expected_of, unpacked
from tests.upgrade.translated import translated

Enter = Callable[[str], Path]

MOST_OTHER_ROWS = 1
"""Newly made rows of a run in which a token may have been sampled otherwise."""
Apart = tuple[float, float]
"""How far numbers may differ: as a share of the expected one, or absolutely, whichever is more."""
LOGP: Apart = (1e-4, 1e-4)
"""That of log-probs, in nats."""
TABLE: Apart = (1e-3, 1e-3)
"""That of an iteration's or an evaluation's numbers over the same rows."""
OTHER_TABLE: Apart = (0.5, 0.3)
"""The same where a row of the few was sampled otherwise."""
CLOCK = ("runtime", "per_second")
"""What a metric's name ends in when it depends on the clock."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Unpack a fixture, and make its working directory this process's."""

    def unpack(name: str) -> Path:
        place = unpacked(name, tmp_path)
        monkeypatch.chdir(place)
        return place

    return unpack


def call(*words: str, code: int = 0) -> Result:
    """A command in this process."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


def goes_on(name: str, *more: str, code: int = 0) -> Json:
    """The command that was killed, once more; returns its JSON summary."""
    done = call(*translated(command_of(name)), *more, "--json", code=code)
    found: Json = json.loads(done.stdout)
    return found


def check_run(
    run: Path, expected: Json, before: Mapping[str, Json], loose: Collection[str]
) -> set[str]:
    """The run is as expected, and its rows of `before` are untouched.

    Returns the ids of rows that were sampled otherwise; `loose` are those that may be, beside
    `MOST_OTHER_ROWS`.
    """
    found, rows = run_content(run), rows_of(run)
    assert {identity: rows[identity] for identity in before} == before
    assert found["rows"].keys() == expected["rows"].keys()
    other = set(loose)
    for identity, row in expected["rows"].items():
        here = found["rows"][identity]
        if identity in loose:
            continue
        assert {key: here["exact"].get(key) for key in row["exact"]} == row["exact"]
        if here["tokens"] != row["tokens"]:
            other.add(identity)
        else:
            assert here["logp"] == near(row["logp"], LOGP)
    assert not other & before.keys()
    assert len(other) <= MOST_OTHER_ROWS + len(loose)
    assert set(found["pairs"]) ^ set(expected["pairs"]) <= other
    if not other:
        assert {k: n for k, n in found["dropped"].items() if n} == {
            k: n for k, n in expected["dropped"].items() if n
        }
    assert found["failed"] == expected["failed"]
    assert found["prompts"] == expected["prompts"]
    return other


def near(value: Any, apart: Apart) -> Any:
    """Whatever is equal to a number, or to numbers, as far as `apart` says."""
    share, absolute = apart
    return pytest.approx(value, rel=share, abs=absolute)


def close(found: Any, expected: Any, *, loose: bool) -> None:
    """The numbers agree as far as processors do; with `loose`, as far as one other row changes."""
    if isinstance(expected, Mapping):
        for key, value in expected.items():
            close(found[key], value, loose=loose)
    elif isinstance(expected, float):
        assert found == near(expected, OTHER_TABLE if loose else TABLE)
    elif not loose:
        assert found == expected


def test_a_run_goes_on(enter: Enter) -> None:
    run, expected = enter("run") / "run", expected_of("run")["run"]
    before = rows_of(run)
    summary = goes_on("run", code=3)
    assert 0 < len(before) < len(expected["rows"])
    assert summary["new_rows"] == len(expected["rows"]) - len(before)
    check_run(run, expected, before, ())


def test_a_run_that_was_begun_is_read(enter: Enter) -> None:
    """Filtered, exported, counted and tried again as it stands; afterwards it goes on."""
    run, expected = enter("run") / "run", expected_of("run")["run"]
    before = rows_of(run)
    shown = json.loads(call("filter", "run", "--dry-run", "--json").stdout)
    assert shown["rows"] == len(before)
    kept = len(before.keys() & set(expected["pairs"]))
    assert shown["kept"] == kept > 0
    assert not (run / "pairs").exists()
    call("filter", "run")
    assert {row["id"] for row in lines_of(run / "pairs" / "train.jsonl")} <= set(expected["pairs"])
    call("export", "run", "--to", "trl", "--out", "trl")
    stats = json.loads(call("principles", "stats", "run", "--json").stdout)
    assert stats
    again = json.loads(call("retry", "run", "--json", code=3).stdout)
    assert again["new_rows"] == 0
    assert rows_of(run) == before
    attempts = {
        identity: failure | {"attempts": failure["attempts"] + (failure["stage"] != "source")}
        for identity, failure in expected["failed"].items()
    }
    goes_on("run", code=3)
    check_run(run, expected | {"failed": attempts}, before, ())


def test_a_finished_run_is_not_made_again(enter: Enter) -> None:
    place = enter("trained")
    before = rows_of(place / "run")
    for words in before_of("trained"):
        done = call(*translated(words), "--json")
        assert json.loads(done.stdout)["new_rows"] == 0
        assert "loading" not in done.stderr
    assert rows_of(place / "run") == before


@pytest.mark.parametrize("name", ["steered", "half-steered"])
def test_a_run_that_models_steer_goes_on(name: str, enter: Enter) -> None:
    """Killed while rows were made, and while principles were written."""
    run, expected = enter(name) / "run", expected_of(name)
    before, said = rows_of(run), lines_of(run / "steering.jsonl")
    goes_on(name)
    found = steering_content(run)
    for line in said:
        assert line in found, "what a model said is not asked for again"
    assert len(found) == len(expected["steering"])
    loose = set()
    for here, there in zip(found, expected["steering"], strict=True):
        assert (here["id"], here["kind"]) == (there["id"], there["kind"])
        if here != there:
            loose.add(here["id"])
    assert len(loose) <= MOST_OTHER_ROWS
    check_run(run, expected["run"], before, loose)


TRAININGS: dict[str, tuple[int, Apart, float]] = {
    "trained": (4, (0.05, 0.15), 0.3),
    "adapted": (4, (1e-3, 1e-4), 0.03),
    "rewarded": (2, (1e-3, 1e-4), 0.03),
}
"""Steps that are left, how far metrics may differ, and changes of weights, as a share of them.

`trained` has weights in bfloat16, of which processors make different last bits, and few they are.
"""


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_goes_on(name: str, enter: Enter) -> None:
    steps, apart, share = TRAININGS[name]
    if "--lora" in command_of(name):
        pytest.importorskip("peft")
    place, expected = enter(name), expected_of(name)
    logged = lines_of(place / "model" / "metrics.jsonl")
    summary = goes_on(name)
    assert summary["new_steps"] == steps, "it went on from its checkpoint"
    found = training_content(place / "model", place / "policy")
    for key in ("steps", "stopped", "training", "held_out", "references"):
        assert found[key] == expected[key]
    first = expected["steps"] - steps
    assert [line for line in found["metrics"] if line["step"] <= first] == [
        line for line in logged if line["step"] <= first
    ]
    check_metrics(found["metrics"], expected["metrics"], apart)
    check_weights(found["weights"], expected["weights"], share)


def check_metrics(found: Sequence[Json], expected: Sequence[Json], apart: Apart) -> None:
    """The same steps with the same numbers, but for the clock and for counts of near-ties."""
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for here, there in zip(found, expected, strict=True):
        for key, value in there.items():
            if not key.endswith(CLOCK) and "accuracy" not in key:
                assert here[key] == near(value, apart), (there["step"], key)


def check_weights(found: Json, expected: Json, share: float) -> None:
    """Every matrix changed as it did before, to this share of the change."""
    assert found.keys() == expected.keys()
    for name, there in expected.items():
        here = found[name]
        assert here["shape"] == there["shape"]
        if len(there["shape"]) < 2:
            continue
        assert here["change_norm"] == pytest.approx(there["change_norm"], rel=share), name
        assert here["norm"] == pytest.approx(there["norm"], rel=1e-2), name
        changes = [torch.tensor(one["change"], dtype=torch.float64) for one in (here, there)]
        apart = float((changes[0] - changes[1]).norm())
        assert apart <= share * float(changes[1].norm()), name


def test_an_iteration_goes_on(enter: Enter) -> None:
    """Killed while the second round's rows were made."""
    loop, expected = enter("iterated") / "loop", expected_of("iterated")
    model = loop / "round-1" / "model" / "model.safetensors"
    policy, journal = model.read_bytes(), loop / "round-1" / "run" / "rows" / "00000.jsonl"
    first, before = journal.read_bytes(), rows_of(loop / "round-2" / "run")
    summary = goes_on("iterated")
    assert summary["new_rounds"] == 1
    assert model.read_bytes() == policy
    assert journal.read_bytes() == first
    found = iteration_content(loop)
    for key in ("rounds", "sources", "first"):
        assert found[key] == expected[key]
    runs = expected["runs"]
    assert not check_run(loop / "round-1" / "run", runs[0], rows_of(loop / "round-1" / "run"), ())
    other = check_run(loop / "round-2" / "run", runs[1], before, ())
    assert len(found["table"]) == len(expected["table"]) == 2
    for number, (here, there) in enumerate(zip(found["table"], expected["table"], strict=True)):
        close(here, there, loose=bool(number and other))


def test_an_evaluation_goes_on(enter: Enter) -> None:
    """Killed while the other model answered."""
    out, expected = enter("evaluated") / "eval", expected_of("evaluated")
    rows, answers = rows_of(out / "model"), lines_of(out / "against" / "answers.jsonl")
    goes_on("evaluated")
    found = evaluation_content(out)
    assert len(rows) == len(expected["run"]["rows"])
    assert not check_run(out / "model", expected["run"], rows, ())
    assert lines_of(out / "against" / "answers.jsonl")[: len(answers)] == answers
    assert [line["id"] for line in found["answers"]] == [line["id"] for line in expected["answers"]]
    pairs = zip(found["answers"], expected["answers"], strict=True)
    other = sum(here != there for here, there in pairs)
    assert other <= MOST_OTHER_ROWS
    close(found["result"], expected["result"], loose=bool(other))


def test_an_augmentation_goes_on(enter: Enter) -> None:
    out, expected = enter("augmented") / "new.jsonl", expected_of("augmented")
    before = lines_of(out)
    goes_on("augmented")
    found = augmentation_content(out)
    assert found["queries"][: len(before)] == before
    assert (found["state"], found["accepted"]) == (expected["state"], expected["accepted"])
    decided = [
        {_attempt(line): line for line in (*one["queries"], *one["rejected"])}
        for one in (found, expected)
    ]
    both = decided[0].keys() & decided[1].keys()
    assert len(both) >= expected["attempts"] - MOST_OTHER_ROWS
    other = sum(decided[0][number] != decided[1][number] for number in both)
    assert other <= MOST_OTHER_ROWS


def _attempt(line: Json) -> int:
    return int(line.get("provenance", line)["attempt"])


def test_work_begun_with_texts_that_shipped_then_goes_on_with_them(enter: Enter) -> None:
    """Its identity is that of the texts; `stored/texts` are those that shipped with 0.1.0."""
    place = enter("run")
    words = ["generate", "prompts.jsonl", "--model", "policy", "--out", "other", "--limit", "1"]
    words += ["--engine", "transformers", "--set", "engine.isolation=inline"]
    words += ["--set", "sampling.max_tokens=8", "--set", "steering.max_tokens=8"]
    words += ["--set", "steering.choose=policy"]
    texts = ["--templates", str(STORED / "texts" / "templates")]
    texts += ["--principles", str(STORED / "texts" / "principles")]
    call(*words, *texts)
    identity = object_of(place / "other" / "run.json")["identity"]
    written_by_0_1_0 = {"principles": "688bff0dc05880be", "templates": "856e8792020abef1"}
    assert {key: identity[key] for key in written_by_0_1_0} == written_by_0_1_0
    refused = call(*words, code=1).stderr
    told = f"--templates {texts[1]} and --principles {texts[3]} (those that ship change"
    assert f"texts that began it with {told}" in refused
    as_told = ["--set", f"templates={texts[1]}", "--set", f"principles={texts[3]}"]
    again = call(*words, *as_told, "--json")
    assert json.loads(again.stdout)["new_rows"] == 0


def test_other_settings_are_refused_by_name(enter: Enter) -> None:
    """What was begun says what it was begun with, in today's words."""
    enter("run")
    done = call(*translated(command_of("run")), "--seed", "12", code=1)
    assert "seed is 11 there and 12 here" in done.stderr


def test_the_comparison_can_fail(enter: Enter) -> None:
    """Another seed, other tokens, another log-prob: each is seen."""
    place, expected = enter("run"), expected_of("run")["run"]
    goes_on("run", code=3)
    before: dict[str, Json] = {}
    for key, value in (("seed_good", 1), ("chosen_token_ids", [2]), ("logp_bad_bad", -1.0)):
        changed = place / key
        shutil.copytree(place / "run", changed)
        part = changed / "rows" / "00000.jsonl"
        rows = [row | {key: value} for row in lines_of(part)]
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(AssertionError):
            check_run(changed, expected, before, ())
    assert object_of(place / "run" / "run.json")["prompts"] == expected["prompts"]
