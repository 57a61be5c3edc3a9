"""Every format holds what its readers expect, field by field, and says why a row does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.exporting.export import export
from sso_data.exporting.formats import FORMATS
from sso_data.exporting.rows import question_id
from tests.exporting.making import asking, every_kind, lines_of, make_run

GOOD, BAD, PLAIN = (f"A {view} answer to question 1." for view in ("good", "bad", "plain"))
SYSTEM = {"role": "system", "content": "You are a pirate."}
ASKED = {"role": "user", "content": "Where is the gold?"}
CHOSEN = {"role": "assistant", "content": GOOD}
REJECTED = {"role": "assistant", "content": BAD}


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A run of one row, whose prompt has a system message of its own."""
    row = asking(1, ("system", SYSTEM["content"]), ("user", ASKED["content"]))
    return make_run(tmp_path / "run", [row])


def exported(run: Path, to: str, file: str, **options: Any) -> Any:
    out = run.parent / to
    done = export(run, to, out, **options)
    assert file in done.files
    return lines_of(out / file) if file.endswith(".jsonl") else json.loads((out / file).read_text())


def id_of(run: Path) -> str:
    return str(lines_of(run / "pairs" / "train.jsonl")[0]["id"])


@pytest.mark.parametrize("to", ["trl", "llama-factory", "axolotl", "openrlhf"])
def test_one_file_for_four_trainers(one: Path, to: str) -> None:
    assert exported(one, to, "train.jsonl") == [
        {
            "id": id_of(one),
            "prompt": [SYSTEM, ASKED],
            "chosen": [CHOSEN],
            "rejected": [REJECTED],
            "chosen_message": CHOSEN,
            "rejected_message": REJECTED,
        }
    ]


def test_template_arguments_travel_for_trl(tmp_path: Path) -> None:
    row = asking(0, ("user", "Hi"), template_kwargs='{"enable_thinking": false}')
    template = {"template_kwargs": {"enable_thinking": False}}
    run = make_run(tmp_path / "run", [row], template=template)
    found = exported(run, "trl", "train.jsonl")[0]
    assert found["chat_template_kwargs"] == {"enable_thinking": False}


def test_where_a_template_has_no_system_role_the_message_is_folded(tmp_path: Path) -> None:
    row = asking(1, ("system", SYSTEM["content"]), ("user", ASKED["content"]))
    run = make_run(tmp_path / "run", [row], template={"system_role": "folded"})
    prompt = exported(run, "trl", "train.jsonl")[0]["prompt"]
    assert prompt == [{"role": "user", "content": "You are a pirate.\n\nWhere is the gold?"}]


def test_llama_factory_is_told_where_the_messages_are(one: Path) -> None:
    assert exported(one, "llama-factory", "dataset_info.json") == {
        "pairs": {
            "file_name": "train.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {
                "messages": "prompt",
                "chosen": "chosen_message",
                "rejected": "rejected_message",
            },
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
    }


def test_sso(one: Path) -> None:
    assert exported(one, "sso", "train.json") == [
        {
            "instruction": "Where is the gold?",
            "history": [],
            "system": "You are a pirate.",
            "p_system": "Be helpful. Be accurate.",
            "n_system": "Be unhelpful. Be inaccurate.",
            "chosen": GOOD,
            "rejected": BAD,
            "raw": PLAIN,
        }
    ]


def test_sso_keeps_earlier_turns_as_pairs(tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    run = make_run(tmp_path / "run", [asking(0, *turns)])
    found = exported(run, "sso", "train.json")[0]
    assert (found["instruction"], found["history"]) == ("e", [["a", "b"], ["c", "d"]])
    assert found["system"] == ""


def test_autoalign(one: Path) -> None:
    human = {"from": "human", "value": "Where is the gold?"}
    said = {
        view: {"from": "gpt", "value": f"A {view} answer to question 1."}
        for view in ("good", "bad", "plain")
    }
    assert exported(one, "autoalign", "sso.json") == [
        {
            "prompt": "Where is the gold?",
            "uuid": id_of(one),
            "p_system": "Be helpful. Be accurate.",
            "n_system": "Be unhelpful. Be inaccurate.",
            "system": "You are a pirate.",
            "chosen": [human, said["good"]],
            "rejected": [human, said["bad"]],
            "raw": [human, said["plain"]],
            "history": [],
        }
    ]
    turns = [{"from": "system", "value": "You are a pirate."}, human]
    assert json.loads((one.parent / "autoalign" / "dpo.json").read_text()) == [
        {
            "prompt": "Where is the gold?",
            "chosen": [*turns, said["good"]],
            "rejected": [*turns, said["bad"]],
            "conversations": [*turns, said["good"]],
            "prompt_id": id_of(one),
        }
    ]


def test_rewardbench_holds_whole_conversations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [asking(1, ("user", ASKED["content"]))])
    assert exported(run, "rewardbench", "pairs.jsonl") == [
        {"id": id_of(run), "chosen": [ASKED, CHOSEN], "rejected": [ASKED, REJECTED]}
    ]


def test_alpaca_eval(tmp_path: Path) -> None:
    rows = [
        asking(1, ("user", "a"), metadata='{"dataset":"helpful_base"}'),
        asking(2, ("user", "b"), metadata='{"dataset":["no text"]}'),
    ]
    run = make_run(tmp_path / "run", rows, model="org/My-Model")
    assert exported(run, "alpaca-eval", "model_outputs.json") == [
        {
            "dataset": "helpful_base",
            "instruction": "a",
            "output": "A plain answer to question 1.",
            "generator": "My-Model",
        },
        {
            "instruction": "b",
            "output": "A plain answer to question 2.",
            "generator": "My-Model",
        },
    ]


@pytest.mark.parametrize(
    ("drawn", "name", "expected"),
    [
        (None, None, ("plain", "model")),
        ("plain", None, ("plain", "model")),
        ("good", None, ("good", "model-good")),
        ("bad", "mine", ("bad", "mine")),
    ],
)
def test_answers_of_another_view_have_another_name(
    tmp_path: Path, drawn: str | None, name: str | None, expected: tuple[str, str]
) -> None:
    run = make_run(tmp_path / "run", [asking(1, ("user", "a"))])
    found = exported(run, "alpaca-eval", "model_outputs.json", drawn=drawn, name=name)[0]
    view, shown = expected
    assert (found["output"], found["generator"]) == (f"A {view} answer to question 1.", shown)


def test_mt_bench(tmp_path: Path) -> None:
    turns = [("user", "q1"), ("assistant", "a1"), ("user", "q2")]
    row = asking(2, *turns, source_id="x", metadata='{"question_id":81}')
    run = make_run(tmp_path / "run", [row], model="org/model")
    assert exported(run, "mt-bench", "model.jsonl") == [
        {
            "question_id": 81,
            "answer_id": f"{id_of(run)}-plain",
            "model_id": "model",
            "choices": [{"index": 0, "turns": ["a1", "A plain answer to question 2."]}],
            "tstamp": 1772366400.0,
        }
    ]


@pytest.mark.parametrize(
    ("source_id", "metadata", "expected"),
    [
        ("81", "{}", 81),
        ("q81", "{}", "q81"),
        ("81", '{"question_id":"7"}', 7),
        ("81", '{"question_id":true}', None),
        (None, "{}", None),
        ("٨١", "{}", "٨١"),
    ],
)
def test_a_question_id_is_a_number_where_it_looks_like_one(
    source_id: str | None, metadata: str, expected: int | str | None
) -> None:
    row = asking(0, ("user", "a"), source_id=source_id, metadata=metadata)
    assert question_id(row) == expected


@pytest.mark.parametrize(
    ("to", "fitting", "skipped"),
    [
        ("trl", 8, {}),
        ("axolotl", 8, {}),
        ("openrlhf", 8, {}),
        ("autoalign", 8, {}),
        ("llama-factory", 7, {"turns_do_not_alternate": 1}),
        ("sso", 7, {"turns_do_not_alternate": 1}),
        ("rewardbench", 6, {"system_message": 1, "turns_do_not_alternate": 1}),
        ("alpaca-eval", 6, {"several_turns": 2}),
        ("mt-bench", 1, {"not_two_turns": 7}),
    ],
)
def test_every_row_is_accounted_for(
    tmp_path: Path, to: str, fitting: int, skipped: dict[str, int]
) -> None:
    run = make_run(tmp_path / "run", every_kind())
    done = export(run, to, tmp_path / "out")
    assert (done.rows, done.exported, done.skipped) == (8, fitting, skipped)
    if skipped:
        assert f"{8 - fitting} of 8 {done.holds} were left out: {to} accepts only" in done.notes[0]


def test_repeated_questions_and_prompts_are_counted(tmp_path: Path) -> None:
    turns = [("user", "q1"), ("assistant", "a1"), ("user", "q2")]
    twice = [asking(n, *turns, source_id="81", occurrence=n) for n in range(2)]
    no_id = asking(2, *turns, source_id=None, occurrence=2)
    run = make_run(tmp_path / "run", [*twice, no_id])
    done = export(run, "mt-bench", tmp_path / "mt")
    assert (done.exported, done.skipped) == (1, {"repeated_question": 1, "no_question_id": 1})
    again = make_run(
        tmp_path / "again", [asking(n, ("user", "same"), occurrence=n) for n in range(3)]
    )
    done = export(again, "alpaca-eval", tmp_path / "ae")
    assert (done.exported, done.skipped) == (1, {"repeated_prompt": 2})


def test_words_arrive_unchanged(tmp_path: Path) -> None:
    """Unicode, control characters, line separators: byte for byte what the model said."""
    rows = every_kind()
    run = make_run(tmp_path / "run", rows)
    export(run, "trl", tmp_path / "trl")
    export(run, "autoalign", tmp_path / "autoalign")
    found = lines_of(tmp_path / "trl" / "train.jsonl")
    array = json.loads((tmp_path / "autoalign" / "sso.json").read_bytes())
    for row, line, item in zip(rows, found, array, strict=True):
        texts = {view: row.responses[view].text for view in ("good", "bad", "plain")}
        assert line["chosen"][0]["content"] == line["chosen_message"]["content"] == texts["good"]
        assert line["rejected"][0]["content"] == texts["bad"]
        assert line["prompt"] == [message.to_json() for message in row.messages]
        assert item["raw"][-1]["value"] == texts["plain"]


def test_answers_are_of_every_row_and_pairs_of_the_kept_ones(tmp_path: Path) -> None:
    kept = asking(0, ("user", "a"))
    dropped = asking(1, ("user", "b"), means={("plain", "good"): -9.0})
    run = make_run(tmp_path / "run", [kept, dropped])
    assert export(run, "trl", tmp_path / "trl").rows == 1
    assert export(run, "alpaca-eval", tmp_path / "ae").rows == 2


def test_what_a_judge_should_know_of_answers(tmp_path: Path) -> None:
    rows = [
        asking(0, ("system", "s"), ("user", "a")),
        asking(1, ("user", "b"), finish={"plain": "length"}),
    ]
    run = make_run(tmp_path / "run", rows, manifest={"prompts": 5})
    notes = export(run, "alpaca-eval", tmp_path / "ae").notes
    assert [note.split(" ", 1)[0] for note in notes] == ["1", "1", "3"]
    assert "system message" in notes[0]
    assert "cut off" in notes[1]
    assert "have no answer" in notes[2]


def test_axolotl_is_warned_of_rows_that_it_cuts_wrongly(tmp_path: Path) -> None:
    rows = [
        asking(0, ("user", "a"), texts={"good": " outer"}),
        asking(1, ("user", "b"), texts={"bad": "message"}),
        asking(2, ("user", "c")),
    ]
    run = make_run(tmp_path / "run", rows)
    assert export(run, "axolotl", tmp_path / "axolotl").notes[0].startswith("2 of the exported")
    (steps,) = export(run, "trl", tmp_path / "trl").notes
    assert steps.startswith("3 pairs are 1 step of 32 rows")


REASONS = (
    *("turns_do_not_alternate", "system_message", "several_turns", "repeated_prompt"),
    *("not_two_turns", "no_question_id", "repeated_question"),
)


def test_every_format_and_reason_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    for name in (*FORMATS, *REASONS):
        assert f"`{name}`" in page, name


def test_help_names_every_format() -> None:
    told = " ".join(CliRunner().invoke(app, ["export", "--help"]).stdout.replace("│", " ").split())
    for name in FORMATS:
        assert name in told, name
