"""Whole augmentations by a scripted model: the files, the order, going on, ending."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sso_data
from sso_data.chat.interface import Completion
from sso_data.config.migration import FORMAT
from sso_data.config.run import SourceConfig
from sso_data.core.errors import ConfigError, InputError, RunError
from sso_data.core.records import content_hash, row_id
from sso_data.prompts import Candidate, read_prompts
from sso_data.runs.jsonl import sealed
from tests.augmentation.scripted import (
    SAME,
    SEEDS,
    Quiet,
    Scripted,
    config,
    mixed,
    new_query,
    rows,
    run,
    write_seeds,
)
from tests.reliability.injector import Recorder, in_place_of_os, plant, tree_of


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty directory in memory, where there is such a file system: syncs are instant there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    return write_seeds(tmp_path / "seeds.jsonl", SEEDS)


def files(folder: Path, name: str = "new.jsonl") -> dict[str, bytes]:
    """What an augmentation left, hidden files included."""
    found = tree_of(folder)
    return {key: data for key, data in found.items() if name in key and data is not None}


def test_queries_rejections_and_the_report(seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    progress = Quiet()
    done = run(seeds, out, 20, progress=progress)
    accepted, rejected = rows(out), rows(tmp_path / "new.jsonl.rejected.jsonl")
    report = json.loads((tmp_path / "new.jsonl.report.json").read_text())
    assert set(files(tmp_path)) == {
        "new.jsonl",
        "new.jsonl.rejected.jsonl",
        "new.jsonl.report.json",
    }
    assert len(accepted) == report["accepted"] == 20
    assert report["attempts"] == len(accepted) + len(rejected) == done.new_attempts
    assert report["state"] == "finished" and done.shortfall is None
    assert progress.counts[-1] == (20, 20, "queries", f"{report['attempts']} attempts")
    reasons = [row["reason"] for row in rejected]
    assert report["rejected"] == {
        name: reasons.count(name)
        for name in sorted(set(reasons), key=lambda name: (-reasons.count(name), name))
    }
    assert {"cut_off", "unparsable", "duplicate", "engine_refused"} >= set(reasons)
    assert report["duplicates"]["duplicate"] == reasons.count("duplicate") > 0
    by_operation = report["operations"]
    for operation, counts in by_operation.items():
        mine = [row for row in accepted if row["provenance"]["operation"] == operation]
        assert len(mine) == counts["accepted"]
        assert sum(counts["rejected"].values()) == sum(
            row["operation"] == operation for row in rejected
        )
    numbers = [row["provenance"]["attempt"] for row in accepted] + [r["attempt"] for r in rejected]
    assert sorted(numbers) == list(range(report["attempts"]))


def test_provenance_names_where_a_query_comes_from(seeds: Path, tmp_path: Path) -> None:
    model = Scripted()
    run(seeds, tmp_path / "new.jsonl", 6, model)
    asked = {request.key: request for request in model.requests}
    texts = {f"s{number}": text for number, text in enumerate(SEEDS)}
    for row in rows(tmp_path / "new.jsonl"):
        origin = row["provenance"]
        request = asked[str(origin["attempt"])]
        assert request.seed == origin["seed"]
        for name in origin["seeds"]:
            assert texts[name] in request.messages[-1].content
        assert origin["model"] == "scripted"
        assert len(origin["templates"]) == 16
        assert row["prompt"] in (new_query(request), SAME)


def test_the_same_seed_gives_the_same_file_in_any_order(seeds: Path, tmp_path: Path) -> None:
    made = []
    for number, at_once in enumerate((1, 3, 16)):
        folder = tmp_path / str(number)
        run(seeds, folder / "new.jsonl", 15, Scripted(max_in_flight=at_once, order=number))
        made.append(files(folder))
    assert made[0] == made[1] == made[2]
    lines = seeds.read_text().splitlines(keepends=True)
    seeds.write_text("".join(lines[::-1]))
    run(seeds, tmp_path / "again" / "new.jsonl", 15)
    assert files(tmp_path / "again") == made[0]
    run(seeds, tmp_path / "other" / "new.jsonl", 15, settings=config(seed=1))
    assert files(tmp_path / "other") != made[0]


def test_more_queries_may_be_asked_for_later(seeds: Path, tmp_path: Path) -> None:
    run(seeds, tmp_path / "a" / "new.jsonl", 20)
    model = Scripted()
    first = run(seeds, tmp_path / "b" / "new.jsonl", 8, model)
    again = run(seeds, tmp_path / "b" / "new.jsonl", 8, Scripted(max_in_flight=0))
    assert again.new_attempts == 0
    second = run(seeds, tmp_path / "b" / "new.jsonl", 20)
    assert second.new_attempts == second.tally.num_attempts - first.tally.num_attempts
    assert files(tmp_path / "a") == files(tmp_path / "b")


def recorded(disk: Path, seeds: Path, wanted: int) -> tuple[Recorder, dict[str, bytes]]:
    """An augmentation with every state of the disk on the way, and the files at its end."""
    home = disk / "home"
    home.mkdir()
    recorder = Recorder(home)
    with in_place_of_os(recorder):
        run(seeds, home / "out" / "new.jsonl", wanted, Scripted(order=3))
    return recorder, files(home / "out")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_killed_at_any_instant_the_same_command_continues(disk: Path, seeds: Path) -> None:
    """From every state that the disk was in, torn writes included, to the same three files."""
    recorder, whole = recorded(disk, seeds, 8)
    states = list(recorder.deaths.values())
    assert len(states) > 60
    for number, (when, tree) in enumerate(states):
        folder = plant(tree, disk / f"dead{number}") / "out"
        model = Scripted(order=number)
        run(seeds, folder / "new.jsonl", 8, model)
        assert files(folder) == whole, when
        written = {
            str(line["attempt"] if "attempt" in line else line["provenance"]["attempt"])
            for name in ("new.jsonl", "new.jsonl.rejected.jsonl")
            for line in whole_lines(tree.get(f"out/{name}"))
        } | {line["key"] for line in whole_lines(tree.get("out/.new.jsonl.waiting.jsonl"))}
        assert not written & model.asked.keys(), f"{when}: asked again"
        assert set(model.asked.values()) <= {1}


def test_power_lost_at_any_instant_the_same_command_continues(disk: Path, seeds: Path) -> None:
    recorder, whole = recorded(disk, seeds, 6)
    for number, (when, tree, _) in enumerate(list(recorder.losses.values())[::2]):
        folder = plant(tree, disk / f"lost{number}") / "out"
        run(seeds, folder / "new.jsonl", 6)
        assert files(folder) == whole, when


def whole_lines(data: bytes | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data or b"").splitlines(True) if line.endswith(b"\n")]


def test_an_answer_out_of_its_turn_is_kept_and_not_asked_for_again(
    seeds: Path, tmp_path: Path
) -> None:
    """The first attempt never comes back; everything else has, when the process dies."""
    out = tmp_path / "new.jsonl"

    class Slow(Scripted):
        def step(self) -> list[Any]:
            found = [one for one in super().step() if one.key != "0"]
            if len(self.answered) > 8:
                raise Killed
            return found

    slow = Slow()
    with pytest.raises(Killed):
        run(seeds, out, 10, slow)
    assert rows(out) == []
    kept = {row["key"] for row in rows(tmp_path / ".new.jsonl.waiting.jsonl")}
    assert len(kept) >= 5
    model = Scripted()
    run(seeds, out, 10, model)
    assert not kept & model.asked.keys()
    assert not (tmp_path / ".new.jsonl.waiting.jsonl").exists()
    run(seeds, tmp_path / "whole" / "new.jsonl", 10)
    assert files(tmp_path / "whole")["new.jsonl"] == out.read_bytes()


def test_no_more_is_asked_than_is_needed(seeds: Path, tmp_path: Path) -> None:
    model = Scripted(
        lambda request: json.dumps({"query": new_query(request)}), max_in_flight=64, order=1
    )
    done = run(seeds, tmp_path / "new.jsonl", 10, model)
    assert done.tally.num_attempts == 10
    assert model.asked.total() <= 10


def test_it_ends_at_the_limit_of_attempts_and_says_why(seeds: Path, tmp_path: Path) -> None:
    same = Scripted(lambda request: json.dumps({"query": SAME}))
    settings = config(limits={"attempts_per_query": 3})
    done = run(seeds, tmp_path / "new.jsonl", 10, same, settings)
    assert (done.state, done.tally.num_accepted, done.tally.num_attempts) == ("attempts", 1, 30)
    assert done.shortfall == (
        "1 of 10 queries after 30 attempts: the limit of attempts is reached "
        "(limits.attempts_per_query); rejected: duplicate 29"
    )
    assert same.asked.total() == 30
    again = run(seeds, tmp_path / "new.jsonl", 10, Scripted(max_in_flight=0), settings)
    assert (again.state, again.new_attempts) == ("attempts", 0)


def test_it_ends_when_nothing_new_comes(seeds: Path, tmp_path: Path) -> None:
    same = Scripted(lambda request: json.dumps({"query": SAME}))
    settings = config(limits={"patience": 25})
    done = run(seeds, tmp_path / "new.jsonl", 1000, same, settings)
    assert (done.state, done.tally.num_attempts) == ("patience", 26)
    assert "last 25 attempts gave no new query" in (done.shortfall or "")
    settings = config(limits={"patience": 100, "attempts_per_query": 50})
    more = run(seeds, tmp_path / "new.jsonl", 3, settings=settings)
    assert (more.state, more.tally.num_accepted) == ("finished", 3)


def test_another_augmentation_is_refused_with_the_difference(seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    run(seeds, out, 4)
    before = files(tmp_path)
    with pytest.raises(RunError, match="seed is 0 there and 1 here"):
        run(seeds, out, 4, settings=config(seed=1))
    with pytest.raises(RunError, match=r"duplicates\.threshold is 0\.7 there and 0\.9 here"):
        run(seeds, out, 4, settings=config(duplicates={"threshold": 0.9}))
    with pytest.raises(RunError, match="model is"):
        run(seeds, out, 4, settings=config(model="another"))
    other = write_seeds(tmp_path / "more.jsonl", [*SEEDS, "What is a sextant?"])
    with pytest.raises(RunError, match="seeds is"):
        run(other, out, 4)
    own = tmp_path / "templates"
    own.mkdir()
    (own / "augment.j2").write_text("Ask like this: {{ seeds[-1] }}")
    with pytest.raises(RunError, match="templates is"):
        run(seeds, out, 4, settings=config(templates=own))
    with pytest.raises(RunError, match=r"decontaminate\.files is"):
        run(seeds, out, 4, settings=config(decontaminate={"files": [other]}))
    assert files(tmp_path) == before
    run(seeds, out, 4, settings=config(seed=1), overwrite=True)
    assert files(tmp_path) != before
    run(seeds, out, 4, overwrite=True)
    assert files(tmp_path) == before


def test_an_augmentation_of_an_earlier_format_goes_on(seeds: Path, tmp_path: Path) -> None:
    """A report of format 1 has no defaults, keys by their old names, and not the later checks."""
    before = config(checks={"questions": False, "pieces": False})
    run(seeds, tmp_path / "whole" / "new.jsonl", 12, settings=before)
    out = tmp_path / "out" / "new.jsonl"
    run(seeds, out, 4, settings=before)
    report = out.with_name("new.jsonl.report.json")
    content = json.loads(report.read_text())
    del content["crc"], content["defaults"], content["identity"]["checks.questions"]
    del content["identity"]["checks.pieces"]
    content["config"]["engine"]["process"] = content["config"]["engine"].pop("isolation", "child")
    report.write_text(json.dumps(content | {"schema_version": 1}))
    run(seeds, out, 12)
    made, expected = (files(folder) for folder in (out.parent, tmp_path / "whole"))
    reports = [json.loads(found.pop(f"{report.name}")) for found in (made, expected)]
    assert all(one.pop("crc") for one in reports)
    assert made == expected
    kept, _ = (one.pop("defaults") for one in reports)
    assert kept["checks"] == {"questions": False, "pieces": False}
    assert [one["config"]["source"].pop("format") for one in reports] == ["column", "auto"]
    assert reports[0] == reports[1]
    report.write_text(json.dumps(content | {"schema_version": FORMAT + 1}))
    with pytest.raises(RunError, match=rf"has format {FORMAT + 1} .*upgrade sso-data"):
        run(seeds, out, 12)


def test_the_defaults_of_the_first_start_are_kept(seeds: Path, tmp_path: Path) -> None:
    """As if a later version had another default of `limits.patience`."""
    out = tmp_path / "new.jsonl"
    run(seeds, out, 4)
    report = tmp_path / "new.jsonl.report.json"
    content = json.loads(report.read_text())
    content["defaults"]["limits"]["patience"] = 25
    del content["crc"]
    report.write_text(json.dumps(content))
    same = Scripted(lambda request: json.dumps({"query": SAME}))
    done = run(seeds, out, 1000, same)
    assert done.state == "patience" and "last 25 attempts" in (done.shortfall or "")
    assert done.report["config"]["limits"]["patience"] == 25
    assert json.loads(report.read_text())["defaults"]["limits"]["patience"] == 25
    given = run(seeds, out, 1000, same, config(limits={"patience": 30}))
    assert given.new_attempts == 5


def test_the_files_of_an_augmentation_are_verified(seeds: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "new.jsonl", tmp_path / "new.jsonl.report.json"
    run(seeds, out, 4)
    attempts = json.loads(report.read_text())["attempts"]
    (found,) = sso_data.verify(tmp_path)
    assert (found.what, found.state) == (str(report), "ok")
    assert found.detail == f"4 queries of {attempts} attempts, each as it was written"
    whole = out.read_text()
    out.write_text(whole.replace('"prompt":"', '"prompt":"Oh, ', 1))
    (found,) = sso_data.verify(tmp_path)
    assert (found.what, found.state) == (f"{out}:1", "fail")
    assert found.detail == "its prompt is not that of its id"
    for changed in ({"id": "x"}, {"prompt": 3}, {"prompt": [1]}):
        first = json.loads(whole.splitlines()[0]) | changed
        if "id" in changed:
            del first["prompt"]
        out.write_text(json.dumps(first) + whole[whole.index("\n") :])
        (found,) = sso_data.verify(tmp_path)
        assert (found.what, found.detail) == (f"{out}:1", "its prompt is not that of its id")
    out.write_text(whole[whole.index("\n") + 1 :])
    (found,) = sso_data.verify(tmp_path)
    assert (found.what, found.state) == (str(out), "fail")
    out.write_text(whole)  # "restore them"
    assert [finding.state for finding in sso_data.verify(tmp_path)] == ["ok"]


def test_files_that_are_not_ours_stay(seeds: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "precious"}\n')
    for overwrite in (False, True):
        with pytest.raises(
            RunError,
            match=r"not made by augment \(no mine\.jsonl\.report\.json",
        ):
            run(seeds, mine, overwrite=overwrite)
    with pytest.raises(ConfigError, match="is the file of the seeds"):
        run(seeds, seeds, overwrite=True)
    with pytest.raises(ConfigError, match=r"must end in \.jsonl"):
        run(seeds, tmp_path / "new.txt")
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(RunError, match="is a directory"):
        run(seeds, folder)
    assert mine.read_text() == '{"prompt": "precious"}\n'


def test_a_spoiled_file_is_named(seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    run(seeds, out, 4)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join([lines[0], "{nonsense}\n", *lines[1:]]))
    with pytest.raises(RunError, match=r"new\.jsonl:2: invalid line"):
        run(seeds, out, 4)
    out.write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(RunError, match="are missing or changed after attempt"):
        run(seeds, out, 4)
    assert out.read_text() == "".join([lines[0], *lines[2:]])
    (tmp_path / "new.jsonl.report.json").write_text("[]")
    with pytest.raises(RunError, match=r"not the new\.jsonl\.report\.json of an augmentation"):
        run(seeds, out, 4)


@pytest.mark.parametrize(
    ("name", "part", "line"),
    [
        ("new.jsonl", '"prompt":"', "its prompt is not that of its id"),
        ("new.jsonl.rejected.jsonl", '"detail":"', "invalid line"),
        (".new.jsonl.waiting.jsonl", '"text":"', "was changed after it was written"),
    ],
)
def test_a_changed_line_is_named(
    seeds: Path, tmp_path: Path, name: str, part: str, line: str
) -> None:
    out, file = tmp_path / "new.jsonl", tmp_path / name
    run(seeds, out, 12)
    if "waiting" in name:
        row = {"key": "99", "text": "a", "finish_reason": "stop"}
        file.write_bytes(sealed(row))
    whole = file.read_text()
    file.write_text(whole.replace(part, f"{part}Not ", 1))
    with pytest.raises(RunError, match=re.escape(f"{name}:1: {line}")):
        run(seeds, out, 14)
    file.write_text(whole)  # "restore the file"
    run(seeds, out, 14)


def test_queries_read_back_as_prompts(seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    run(seeds, out, 12)
    read = list(read_prompts(str(out), SourceConfig()))
    written = rows(out)
    assert len(read) == len(written) == 12
    for candidate, row in zip(read, written, strict=True):
        assert isinstance(candidate, Candidate)
        assert [turn.content for turn in candidate.messages] == [row["prompt"]]
        assert candidate.source_id == row["id"] == row_id(content_hash(candidate.messages), 0)
        assert json.loads(candidate.metadata) == {"provenance": row["provenance"]}


def test_conversations_keep_their_turns_and_system_messages(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You are a sailor."}
    turns = [
        {"role": "user", "content": "Name the parts of a sail, from the top to the bottom."},
        {"role": "assistant", "content": "Head, luff, leech, tack, clew, foot."},
        {"role": "user", "content": "And what is the second one for, in a strong wind?"},
    ]
    alone = [system, {"role": "user", "content": "How do I tie a bowline behind my back?"}]
    seeds = write_seeds(tmp_path / "seeds.jsonl", [[system, *turns], alone, "What is a knot?"])
    model = Scripted(lambda request: json.dumps({"query": new_query(request)}))
    run(seeds, tmp_path / "new.jsonl", 60, model)
    asked = {request.key: request.messages[-1].content for request in model.requests}
    kinds = set()
    for row in rows(tmp_path / "new.jsonl"):
        base, operation = row["provenance"]["seeds"][-1], row["provenance"]["operation"]
        *before, last = row["prompt"]
        said = asked[str(row["provenance"]["attempt"])]
        assert last["role"] == "user"
        assert ("You are a sailor." in said) == (base != "s2")
        if base == "s2":
            assert before == []
        elif base == "s1" or operation == "topic":
            assert before == [system]
        else:
            assert before == [system, *turns[:-1]]
            assert "assistant: Head, luff, leech" in said
            assert said.endswith(f"Query:\n=====\n{turns[-1]['content']}\n=====")
        if base == "s0" and operation == "topic":
            assert said.endswith(f"Query:\n=====\n{turns[0]['content']}\n=====")
        kinds.add((base, operation == "topic"))
    assert len(kinds) == 6
    read = list(read_prompts(str(tmp_path / "new.jsonl"), SourceConfig()))
    assert len(read) == 60


def test_a_last_turn_may_come_back_in_another_conversation(tmp_path: Path) -> None:
    def conversation(topic: str) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": f"Tell me about {topic}, please."},
            {"role": "assistant", "content": f"Much can be said about {topic}."},
            {"role": "user", "content": "Go on with the most important part of it."},
        ]

    seeds = write_seeds(tmp_path / "seeds.jsonl", [conversation("tea"), conversation("oak trees")])
    only = config(operations={"topic": 0, "rephrase": 0})
    same = Scripted(lambda request: json.dumps({"query": "Why does that matter so much to you?"}))
    done = run(seeds, tmp_path / "new.jsonl", 3, same, only)
    assert done.tally.num_accepted == 2
    assert set(done.tally.reasons) == {"duplicate"}


def test_near_duplicates_examples_and_benchmarks(seeds: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    secret = "Which of the seven bridges of the old town was built before the great flood of 1784?"
    bench.write_text(json.dumps({"question": secret}) + "\n")
    said = [
        f"Hello! {secret}",
        "Write a limerick about the lighthouse keeper!",
        "Explain to a child how bees find their way back to the hive.",
        "Why do tides at the coast come later every day?",
        "Why do the tides at the coast come later every day?",
    ]
    model = Scripted(lambda request: json.dumps({"query": said[int(request.key) % len(said)]}))
    settings = config(
        decontaminate={"files": [bench]},
        limits={"attempts_per_query": 5},
        operations={"topic": 0, "evolve": 0, "harder": 0, "easier": 0},
        checks={"questions": False},
    )
    done = run(seeds, tmp_path / "new.jsonl", 2, model, settings)
    found = rows(tmp_path / "new.jsonl.rejected.jsonl")[:4]
    assert [row["reason"] for row in found] == [
        "contaminated",
        "near_duplicate_of_seed",
        "copied_example",
        "near_duplicate",
    ]
    assert found[0]["file"] == str(bench)
    assert found[0]["detail"].startswith(f"{bench} row 1: which of the seven bridges")
    assert found[1]["detail"].endswith("like s1")
    assert done.report["contaminated"] == {str(bench): 2}
    assert [row["prompt"] for row in rows(tmp_path / "new.jsonl")] == [said[3]]


def test_half_characters_never_reach_a_file(seeds: Path, tmp_path: Path) -> None:
    said = (
        '{"query": "Why \\ud800 so?"}',
        '{"query": "Why \ud800 so?"}',
        "No \ud800",
        "\ud83d\ude00",
    )
    model = Scripted(lambda request: said[int(request.key) % len(said)], order=2)
    done = run(seeds, tmp_path / "new.jsonl", 4, model)
    assert set(done.tally.reasons) == {"control_characters", "unparsable"}
    assert rows(tmp_path / "new.jsonl.rejected.jsonl")[3]["answer"] == "\U0001f600"


def test_seeds_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    answered = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    seeds = write_seeds(tmp_path / "seeds.jsonl", [*SEEDS, SEEDS[0], " ", answered])
    done = run(seeds, tmp_path / "new.jsonl", 2)
    assert done.report["seeds"] == {
        "used": 6,
        "left_out": {"blank_prompt": 1, "ends_with_assistant": 1, "same_as_another": 1},
    }
    none = write_seeds(tmp_path / "none.jsonl", [" ", answered])
    with pytest.raises(InputError, match="no row can be a seed query"):
        run(none, tmp_path / "other.jsonl")


def test_what_is_asked_follows_the_configuration(seeds: Path, tmp_path: Path) -> None:
    schemas = []
    for number, answers in enumerate(({}, {"structured": False}, {"form": "text"})):
        model = Scripted(mixed)
        run(seeds, tmp_path / f"{number}.jsonl", 1, model, config(answers=answers))
        schemas.append(model.requests[0].schema is not None)
        assert model.requests[0].temperature == 1.0
    assert schemas == [True, False, False]


def test_a_template_that_fails_costs_nothing(seeds: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    (own / "augment.j2").write_text("{{ nothing_of_that_name }}")
    with pytest.raises(ConfigError, match="nothing_of_that_name"):
        run(seeds, tmp_path / "new.jsonl", settings=config(templates=own))


def test_only_one_process_writes(seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"

    class Rival(Scripted):
        def step(self) -> list[Completion | Any]:
            with pytest.raises(RunError, match=r"another process is writing new\.jsonl"):
                run(seeds, out, 2)
            return super().step()

    done = run(seeds, out, 2, Rival())
    assert done.state == "finished"
