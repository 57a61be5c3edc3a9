"""Whatever stands in a file: it is a candidate, a bad row or an InputError, and nothing else."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.prompts import BadRow, Candidate, read_prompts
from tests.prompts.reading import write

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
any_text = st.text(st.characters(), max_size=8)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | any_text
names = st.sampled_from(["prompt", "id", "role", "content", "name"]) | any_text
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | leaves},
    optional={"content": any_text | values, "tool_calls": values},
)
rows = values | st.fixed_dictionaries(
    {"prompt": any_text | st.lists(turns, max_size=4) | values},
    optional={"id": values, "m": values},
)


def outcome(file: Path) -> list[Candidate | BadRow]:
    """The rows of a file that may be refused; every text in them can be written to a file."""
    try:
        found = list(read_prompts(str(file), SourceConfig(skip_bad_rows=True)))
    except InputError as error:
        assert "\n" not in str(error)
        str(error).encode()
        return []
    for row in found:
        if isinstance(row, BadRow):
            assert 0 < len(row.detail) <= 700
            assert len(row.raw) <= 200
            f"{row.where}{row.raw}{row.detail}".encode()
        else:
            assert isinstance(json.loads(row.metadata), dict)
            "".join(
                [row.metadata, row.source_id or "", *(m.content for m in row.messages)]
            ).encode()
            assert all(message.role in ("system", "user", "assistant") for message in row.messages)
    return found


@SETTINGS
@given(values=st.lists(rows, min_size=1, max_size=3))
def test_any_json_in_lines(tmp_path: Path, values: list[object]) -> None:
    text = "".join(json.dumps(value) + "\n" for value in values)
    found = outcome(write(tmp_path / "p.jsonl", text))
    assert len(found) == (0 if text.startswith("[") else len(values))


@SETTINGS
@given(values=st.lists(rows, max_size=3), ascii_only=st.booleans())
def test_any_json_in_an_array(tmp_path: Path, values: list[object], ascii_only: bool) -> None:
    text = json.dumps(values, ensure_ascii=ascii_only)
    found = outcome(write(tmp_path / "p.json", text.encode("utf-8", "surrogatepass")))
    assert len(found) in (0, len(values))


@SETTINGS
@given(data=st.binary(max_size=60), name=st.sampled_from(["jsonl", "json", "csv", "tsv", "txt"]))
@pytest.mark.parametrize("start", [b"", b'{"prompt": "', b'[{"prompt": "', b"prompt,id\n"])
def test_any_bytes(tmp_path: Path, start: bytes, data: bytes, name: str) -> None:
    outcome(write(tmp_path / f"p.{name}", start + data))


@SETTINGS
@given(text=st.text(st.characters(codec="utf-8")))
def test_a_prompt_is_never_edited(tmp_path: Path, text: str) -> None:
    [row] = outcome(write(tmp_path / "p.jsonl", json.dumps({"prompt": text})))
    assert isinstance(row, Candidate)
    assert row.messages[0].content == text
    [row] = outcome(write(tmp_path / "p.json", json.dumps([{"prompt": text}], ensure_ascii=False)))
    assert isinstance(row, Candidate)
    assert row.messages[0].content == text
