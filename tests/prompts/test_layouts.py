"""Layouts of prompts and pairs: each as people have it, and what it is read as."""

import bz2
import json
import lzma
from pathlib import Path
from typing import Any, get_args

import pytest

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.prompts import BadRow, layouts_in
from sso_data.prompts.layouts import LAYOUTS
from sso_data.prompts.preferences import pairs_layout, read_preferences
from sso_data.prompts.textfiles import COMPRESSIONS
from tests.prompts.reading import contents, good, read, refusal, write, write_jsonl

HUMAN = {"from": "human", "value": "q1"}
GPT = {"from": "gpt", "value": "a1"}
AGAIN = {"from": "human", "value": "q2"}
TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]

PROMPTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "openai": ({"messages": TALK}, ["system s", "user q1", "assistant a1", "user q2"]),
    "lmsys": (
        {"conversation": [dict(turn, language="en") for turn in TALK[1:3]], "model": "v"},
        ["user q1"],
    ),
    "sharegpt": (
        {"conversations": [HUMAN, GPT, AGAIN, GPT]},
        ["user q1", "assistant a1", "user q2"],
    ),
    "sharegpt-system": ({"conversations": [HUMAN, GPT], "system": "s"}, ["system s", "user q1"]),
    "alpaca": ({"instruction": "q", "input": "i", "output": "o"}, ["user q\ni"]),
    "alpaca-alone": ({"instruction": "q", "input": ""}, ["user q"]),
    "llama-factory": (
        {"instruction": "q2", "input": "", "history": [["q1", "a1"]], "system": "s"},
        ["system s", "user q1", "assistant a1", "user q2"],
    ),
    "orca": (
        {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
        ["system s", "user q"],
    ),
    "system": ({"prompt": "q", "system": "s"}, ["system s", "user q"]),
    "empty-system": ({"prompt": "q", "system": ""}, ["user q"]),
    "same-system": ({"messages": TALK[:2], "system": "s"}, ["system s", "user q1"]),
    "parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]},
        ["user ab"],
    ),
    "developer": (
        {"prompt": [{"role": "developer", "content": "s"}, {"role": "user", "content": "q"}]},
        ["system s", "user q"],
    ),
    "several": ({"prompt": ["q1", "q2"]}, ["user q1"]),
    "mt-bench": ({"turns": ["q1", "q2"], "question_id": 1}, ["user q1"]),
    "ultrafeedback": (
        {"prompt": "q", "messages": TALK, "chosen": TALK[1:3], "rejected": TALK[1:3]},
        ["user q"],
    ),
    "implicit": (
        {"chosen": TALK[:3], "rejected": [*TALK[:2], {"role": "assistant", "content": "b"}]},
        ["system s", "user q1"],
    ),
    "greeted": ({"conversations": [GPT, HUMAN, GPT]}, ["assistant a1", "user q1"]),
    "called": (  # Automodel#2375, torchtune#2618: what comes after the last user's turn is cut
        {"conversations": [HUMAN, {"from": "function_call", "value": "{}"}, GPT]},
        ["user q1"],
    ),
    "hh": (
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        ["user q"],
    ),
    "json-text": ({"prompt": json.dumps(TALK[1:2])}, ["user q1"]),
    "dolly": ({"instruction": "q", "context": "c", "response": "a"}, ["user q\nc"]),
    "nectar": (
        {"prompt": "\n\nHuman: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant: ", "turns": 2},
        ["user q1", "assistant a1", "user q2"],
    ),
    "not-nectar": ({"prompt": "Human: q\n\nAssistant: a"}, ["user Human: q\n\nAssistant: a"]),
    # public reports: unsloth#321, aiperf#828, OpenRLHF#860, ms-swift#1922, trl#1777, MedicalGPT#294
    "mixed-keys": ({"conversations": [HUMAN, TALK[2]]}, ["user q1"]),
    "openrlhf": ({"input": "q", "output": "a", "reward": 1.0}, ["user q"]),
    "ms-swift": ({"query": "q", "response": "a", "rejected_response": "b"}, ["user q"]),
    "role-under-conversations": ({"conversations": TALK[1:3]}, ["user q1"]),
    "prompter": ({"messages": [{"role": "prompter", "content": "q"}]}, ["user q"]),
    "parquet-nulls": (
        {"prompt": None, "messages": TALK[:2], "images": None},
        ["system s", "user q1"],
    ),
    "last-user-unanswered": (
        {"messages": TALK[:4]},
        ["system s", "user q1", "assistant a1", "user q2"],
    ),
    "python-text": ({"prompt": str(TALK[1:2])}, ["user q1"]),
    "brackets": ({"prompt": "[{1, 2}]"}, ["user [{1, 2}]"]),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_a_prompt_of_each_layout(tmp_path: Path, case: str) -> None:
    row, turns = PROMPTS[case]
    [found] = good(write_jsonl(tmp_path / "p.jsonl", [row]))
    assert [f"{turn.role} {turn.content}" for turn in found.messages] == turns


def test_an_array_of_conversations(tmp_path: Path) -> None:
    """unsloth#321: lists of turns in a list."""
    file = write(tmp_path / "p.json", json.dumps([[HUMAN, GPT], [HUMAN, GPT, AGAIN]]))
    assert [len(row.messages) for row in good(file)] == [1, 3]


def test_every_name_can_be_forced() -> None:
    names = get_args(SourceConfig.model_fields["format"].annotation)
    assert {*names} == {"auto", "column", *(layout.name for layout in LAYOUTS)}


@pytest.mark.parametrize(
    ("take", "asked"),
    [
        (None, [["s", "q1", "a1", "q2"]]),
        ("last-user", [["s", "q1", "a1", "q2"]]),
        ("first-user", [["s", "q1"]]),
        ("every-user", [["s", "q1"], ["s", "q1", "a1", "q2"]]),
    ],
)
def test_what_is_taken_of_a_conversation(
    tmp_path: Path, take: str | None, asked: list[list[str]]
) -> None:
    rows = good(write_jsonl(tmp_path / "p.jsonl", [{"messages": TALK, "id": 7}]), take=take)
    assert [[turn.content for turn in row.messages] for row in rows] == asked
    assert {row.source_id for row in rows} == {"7"}


def test_questions_in_a_row_are_asked_alone(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": ["q1", "q2"]}])
    assert contents(file, take="every-user") == ["q1", "q2"]
    assert contents(file, take="last-user") == ["q2"]
    assert "of several questions in a row the first" in layouts_in(str(file), SourceConfig())[0]


def test_the_column_alone(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": str(TALK[1:2]), "system": "s"}])
    [row] = good(file, format="column")
    assert row.metadata == '{"system":"s"}'
    assert [turn.role for turn in row.messages] == ["user"]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"prompt": "q", "tools": [{"name": "f"}]}, "column 'tools' belongs to the prompt"),
        ({"prompt": "q", "images": ["a.png"]}, "column 'images' belongs to the prompt"),
        ({"messages": TALK, "system": "t"}, "has a column 'system' and another system message"),
        ({"instruction": "q", "input": ["i"]}, "'input' is a list; only text can be joined"),
        ({"instruction": "q", "history": ["h"]}, "'history' must be a list of [question, answer]"),
        ({"text": "q"}, "no column 'prompt' (columns: text)"),
        # LlamaFactory#2529, textgen#2710, LlamaFactory#3354
        (
            {"conversations": [HUMAN, {"from": "function_call", "value": "{}"}, AGAIN]},
            "message 2 has the role function_call",
        ),
        ({"instruction,output": "User: q"}, "no column 'prompt' (columns: instruction,output)"),
        (
            {"messages": [{"role": "user", "content": {"text": "q"}}]},
            "message 1 has content that is",
        ),
    ],
)
def test_what_would_be_lost_is_named(tmp_path: Path, row: dict[str, Any], line: str) -> None:
    assert refusal(write_jsonl(tmp_path / "p.jsonl", [row])).startswith(f"p.jsonl:1: {line}")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [  # ragflow#19179, datasets#8241, phoenix#10820, jsonlines#68, LlamaFactory#6730
        ("bom.jsonl", b'\xef\xbb\xbf{"prompt":"q"}\n\n', ["q"]),
        ("bom.json", b'\xef\xbb\xbf[{"prompt":"q"}]', ["q"]),
        ("pretty.jsonl", b'{\n "prompt": "q"\n}\n', "pretty.jsonl:1: not valid JSON"),
        ("wrapped.json", b'{"data":[{"prompt":"q"}]}', "must hold an array of rows"),
        ("texts.json", b'["q"]', "texts.json:1: text, not an object with named columns"),
        ("excel.csv", b"prompt;answer\nq;a\n", "excel.csv: its columns are separated by ';'; save"),
        ("tabs.csv", b"prompt\tanswer\nq\ta\n", r"separated by '\t'; save it with commas, or with"),
        ("tabs.tsv", b"prompt\tanswer\nq\ta\n", ["q"]),
        ("latin.csv", b"prompt\n\xe9\n", "latin.csv:2: not UTF-8 (byte 0xe9 at byte 1); save it"),
        ("wide.csv", "prompt\nq\n".encode("utf-16"), "wide.csv:1: not UTF-8 (it is UTF-16"),
        ("lfs.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("lfs.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("roles.jsonl", b'{"messages":[{"role":"User","content":"q"}]}', "has the role User"),
    ],
)
def test_files_as_other_programs_write_them(
    tmp_path: Path, name: str, data: bytes, said: str | list[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    if isinstance(said, str):
        assert said in refusal(file)
    else:
        assert [row.messages[-1].content for row in good(file)] == said


def test_an_empty_conversation_is_told_as_such(tmp_path: Path) -> None:
    rows: list[object] = [{"conversations": []}, {"messages": None}]
    empty, null = read(write_jsonl(tmp_path / "p.jsonl", rows), skip_bad_rows=True)
    assert empty.messages == () and isinstance(null, BadRow)
    assert null.detail.startswith("'messages' is null")


def test_columns_of_nothing_are_no_loss(tmp_path: Path) -> None:
    row: dict[str, Any] = {"prompt": "q", "tools": "[]", "images": [], "image": None}
    assert contents(write_jsonl(tmp_path / "p.jsonl", [row])) == ["q"]


def test_one_line_says_how_a_file_is_read(tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "p.jsonl", [{"conversations": [HUMAN, GPT], "id": 1, "lang": "en"}]
    )
    assert layouts_in(str(file), SourceConfig()) == (
        f"{file}: read as sharegpt (prompt: conversations); up to the last user turn; "
        "metadata: lang",
        False,
    )


def test_a_split_of_one_file_is_told(tmp_path: Path) -> None:
    file = str(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}]))
    told = "one file has no splits: 'test' chooses nothing, every row is read"
    assert layouts_in(file, SourceConfig(split="test"))[0].endswith(told)
    assert pairs_layout(file, "test").endswith(told)
    assert told not in layouts_in(file, SourceConfig())[0] + pairs_layout(file, "train")


@pytest.mark.parametrize("name", ["p.jsonl", "lmsys-chat.jsonl"])
def test_peoples_own_chats_are_known(tmp_path: Path, name: str) -> None:
    column = "conversation" if name == "p.jsonl" else "messages"
    file = write_jsonl(tmp_path / name, [{column: TALK}])
    assert layouts_in(str(file), SourceConfig())[1]


def test_a_message_list_in_a_cell(tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", 'prompt\n"[{""role"": ""user"", ""content"": ""q""}]"\n')
    assert contents(file) == ["q"]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
def test_lines_that_end_in_cr(tmp_path: Path, name: str) -> None:
    lines = {
        "p.csv": "prompt\ra\rb\r",
        "p.txt": "a\rb",
        "p.jsonl": '{"prompt":"a"}\r{"prompt":"b"}',
    }
    assert contents(write(tmp_path / name, lines[name])) == ["a", "b"]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    import pyarrow

    data = b'{"prompt": "a"}\n' * 5000
    file = tmp_path / f"p.jsonl{suffix}"
    if suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(file), "zstd") as stream:
            stream.write(data)
    elif suffix == ".gz":
        write(file, data)
    else:
        file.write_bytes({".bz2": bz2, ".xz": lzma}[suffix].compress(data))
    assert len(contents(file)) == 5000
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot be read" in refusal(file)


def test_a_directory_reads_like_its_files_joined(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [{"prompt": "a", "n": 1}])
    write_jsonl(folder / "b.jsonl", [{"messages": TALK[:2], "n": "x", "other": [1]}])
    assert contents(folder) == ["a", "s", "q1"]


ASK, YES, NO = (
    TALK[1],
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
AS_SHAREGPT = ({"from": "gpt", "value": "yes"}, {"from": "gpt", "value": "no"})

PAIRS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": "q1", "chosen": "yes", "rejected": "no"},
    "alpaca": {"instruction": "q1", "input": "", "chosen": "yes", "rejected": "no"},
    "orca": {"question": "q1", "chosen": "yes", "rejected": "no"},
    "hh": {
        "chosen": "\n\nHuman: q1\n\nAssistant: yes",
        "rejected": "\n\nHuman: q1\n\nAssistant: no",
    },
    "ultrafeedback": {
        "prompt": "q1\n",
        "messages": [ASK, YES],
        "chosen": [ASK, YES],
        "rejected": [ASK, NO],
        "score_chosen": 8.5,
    },
    "sharegpt-ranking": {
        "conversations": [HUMAN],
        "chosen": AS_SHAREGPT[0],
        "rejected": AS_SHAREGPT[1],
    },
    "sharegpt": {"chosen": [HUMAN, AS_SHAREGPT[0]], "rejected": [HUMAN, AS_SHAREGPT[1]]},
    "parts": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "q1"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}],
        "rejected": [NO],
    },
    "json-text": {
        "prompt": json.dumps([ASK]),
        "chosen": json.dumps([YES]),
        "rejected": json.dumps([NO]),
    },
}


@pytest.mark.parametrize("system", ["", "s"])
@pytest.mark.parametrize("case", PAIRS)
def test_a_pair_of_each_layout(tmp_path: Path, case: str, system: str) -> None:
    from sso_data.templating.external_rows import preference_of

    row = {**PAIRS[case], **({"system": system} if system else {})}
    [found] = read_preferences(str(write_jsonl(tmp_path / "p.jsonl", [row])))
    prompt, chosen, rejected = preference_of(found, "row 1")
    asked = ["system s", "user q1"] if system else ["user q1"]
    assert [f"{turn.role} {turn.content.strip()}" for turn in prompt] == asked
    assert [turn.content.strip() for turn in (*chosen, *rejected)] == ["yes", "no"]


CALL = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
BAD_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "columns": ({"question": "q", "answer": "a"}, "no column 'chosen' (columns: question, answer)"),
    "tools": ({**PAIRS["trl"], "tools": CALL}, "column 'tools' belongs to the prompt"),
    "calls": (
        {**PAIRS["trl"], "chosen": [{"role": "assistant", "content": None, "tool_calls": CALL}]},
        "chosen: message 1 has the key 'tool_calls'",
    ),
    "reasoning": (
        {**PAIRS["trl"], "rejected": [{**NO, "reasoning_content": "r"}]},
        "rejected: message 1 has the key 'reasoning_content'",
    ),
    "tool-turn": (
        {**PAIRS["trl"], "prompt": [ASK, {"role": "tool", "content": "4 C"}]},
        "prompt: message 2 has the role tool",
    ),
    "lists": (
        {"question": "q1", "answer": [[ASK, YES], [ASK, NO]]},
        "no column 'chosen' (columns: question, answer)",
    ),
    "other-names": (
        {"query": "q1", "response": "yes", "rejected_response": "no"},
        "no column 'chosen' (columns: query, response, rejected_response)",
    ),
    # RL#673 (ranked completions; chosen_response), ms-swift#1922, trl#1777
    "ranked": ({"context": [ASK], "completions": []}, "no column 'chosen' (columns: context,"),
    "nemo": (
        {"prompt": "q", "chosen_response": "a"},
        "no column 'chosen' (columns: prompt, chosen",
    ),
    "labelled": ({"prompt": "q", "completion": "a", "label": True}, "no column 'chosen' (columns"),
    "null": ({**PAIRS["trl"], "rejected": None}, "rejected is null; correct the row"),
    "tools-advice": (
        {**PAIRS["trl"], "tools": CALL},
        "column 'tools' belongs to the prompt, and only text can be shown; remove it; correct",
    ),
    "texts": ({**PAIRS["trl"], "chosen": ["yes"]}, "chosen: message 1 is text, not an object"),
    "empty": ({**PAIRS["trl"], "rejected": [{**NO, "content": ""}]}, "rejected holds no text"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_a_pair_that_cannot_be_shown_is_named_or_left_out(tmp_path: Path, case: str) -> None:
    row, line = BAD_PAIRS[case]
    file = write_jsonl(tmp_path / "p.jsonl", [row, PAIRS["trl"]])
    with pytest.raises(Exception, match="--skip-bad-rows") as caught:
        list(read_preferences(str(file)))
    assert str(caught.value).startswith(f"{file}:1: {line}")
    bad: list[str] = []
    assert len(list(read_preferences(str(file), skip=bad.append))) == 1
    assert len(bad) == 1


def test_plain_rows_are_left_as_they_are(tmp_path: Path) -> None:
    rows: list[object] = [
        PAIRS["trl"] | {"id": 3},
        {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
    ]
    assert list(read_preferences(str(write_jsonl(tmp_path / "p.jsonl", rows)))) == rows


def test_questions_under_a_system_message_are_all_asked(tmp_path: Path) -> None:
    row = {"system_prompt": "Be brief.", "turns": ["q1", "q2"]}
    file = write_jsonl(tmp_path / "p.jsonl", [row])
    for take, asked in (("every-user", ["q1", "q2"]), ("last-user", ["q2"]), (None, ["q1"])):
        rows = good(file, take=take)
        assert [[turn.content for turn in row.messages] for row in rows] == [
            ["Be brief.", text] for text in asked
        ]


def test_the_prompt_of_whole_conversations_is_told_as_it_is_read(tmp_path: Path) -> None:
    row = {"question": "x", "chosen": [ASK, YES], "rejected": [ASK, NO]}
    file = str(write_jsonl(tmp_path / "p.jsonl", [row]))
    assert pairs_layout(file, "train").endswith("the prompt is what chosen and rejected begin with")
    (found,) = read_preferences(file)
    assert found["chosen"] == [ASK, YES]


def test_no_row_of_a_known_layout_in_this_shard(tmp_path: Path) -> None:
    rows: list[object] = [*[{"unknown": "x"}] * 70, {"prompt": "a"}]
    file = str(write_jsonl(tmp_path / "p.jsonl", rows))
    for shard in ("1/2", "2/2"):
        config = SourceConfig(skip_bad_rows=True, shard=shard)
        assert layouts_in(file, config)[0].endswith("none of the first rows is a prompt")


def test_compressed_stdin_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip
    import io
    import sys

    from sso_data import prompts

    data = gzip.compress(b'{"prompt": "a"}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    prompts._stdin_copy.cache_clear()
    with pytest.raises(InputError, match=r"^stdin: is compressed with gzip; unpack it on the way"):
        read("-")
    prompts._stdin_copy.cache_clear()


def test_stdin_is_read_more_than_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    from sso_data import prompts

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}\n{"x": 1}\n')))
    prompts._stdin_copy.cache_clear()
    for _ in range(2):
        first, bad = read("-", skip_bad_rows=True)
        assert first.messages[0].content == "a"
        assert bad.where == "stdin:2"
    prompts._stdin_copy.cache_clear()
