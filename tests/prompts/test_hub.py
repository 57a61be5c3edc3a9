"""Datasets on the Hub: the real `datasets` client against a Hub on the loopback."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.hub_server import HubServer
from tests.waiting import CHILD_SECONDS

TOKEN = "hf_" + "s" * 34
CHILD = """
import dataclasses, json, sys
from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.prompts import read_prompts

for source, options in json.loads(sys.argv[1]):
    try:
        rows = [dataclasses.asdict(r) for r in read_prompts(source, SourceConfig(**options))]
    except InputError as error:
        rows = str(error)
    print(json.dumps(rows))
"""
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "jsonl": ("team/lines", {}),
    "parquet": ("team/tables", {"split": "test", "column": "question", "id_column": "key"}),
    "limit": ("team/tables", {"column": "question", "limit": 1}),
    "column": ("team/tables", {"split": "test", "format": "column"}),
    "split": ("team/tables", {"split": "dev"}),
    "null": ("team/lines", {"column": "topic"}),
    "missing": ("team/nothing", {}),
    "plain missing": ("nothing", {}),
    "empty": ("team/empty", {}),
    "gated": ("team/gated", {}),
    "broken": ("team/broken", {}),
    "configurations": ("team/several", {}),
    "configuration": ("team/several:b", {}),
    "other configuration": ("team/several:c", {}),
}


def _table(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _fill(hub: HubServer) -> None:
    chat = [{"role": "user", "content": "ä"}]
    lines = [{"prompt": chat, "id": 7, "topic": "x"}, {"prompt": chat, "id": 8, "topic": None}]
    hub.add_dataset(
        "team/lines", {"train.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}
    )
    train: dict[str, list[object]] = {"question": ["a", "b"], "key": [1, 2], "m": [[], [1.5]]}
    test: dict[str, list[object]] = {"question": ["c"], "key": [3], "m": [[0.5]]}
    hub.add_dataset(
        "team/tables",
        {
            "data/train-00000-of-00001.parquet": _table(train),
            "data/test-00000-of-00001.parquet": _table(test),
            "README.md": b"# Tables\n",
        },
    )
    hub.add_dataset("team/empty", {"README.md": b"# Nothing\n"})
    hub.add_dataset("team/gated", {"train.jsonl": b'{"prompt": "a"}\n'}, gated=True)
    hub.add_dataset("team/broken", {"train.jsonl": b'{"prompt": "a"\n{"prompt": "b"}\n'})
    card = "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n"
    card += "- config_name: b\n  data_files: b.jsonl\n---\n"
    files = {"README.md": card.encode()}
    files |= {f"{name}.jsonl": f'{{"prompt": "{name}"}}\n'.encode() for name in "ab"}
    hub.add_dataset("team/several", files)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        _fill(server)
        yield server


def _run(environment: dict[str, str], cases: list[tuple[str, dict[str, object]]]) -> list[object]:
    """What each case gives in one child process: its rows, or the line it is refused with."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(cases)],
        env=os.environ | {"HF_TOKEN": TOKEN} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=CHILD_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def outcomes(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    home = tmp_path_factory.mktemp("hf")
    return dict(zip(CASES, _run(hub.environment(home), list(CASES.values())), strict=True))


def test_jsonl_files(outcomes: dict[str, object]) -> None:
    turns = [{"role": "user", "content": "ä"}]
    assert outcomes["jsonl"] == [
        {
            "messages": turns,
            "source_id": "7",
            "metadata": '{"topic":"x"}',
            "where": "team/lines:train:row 1",
        },
        {
            "messages": turns,
            "source_id": "8",
            "metadata": '{"topic":null}',
            "where": "team/lines:train:row 2",
        },
    ]


def test_parquet_files_of_a_split(outcomes: dict[str, object]) -> None:
    assert outcomes["parquet"] == [
        {
            "messages": [{"role": "user", "content": "c"}],
            "source_id": "3",
            "metadata": '{"m":[0.5]}',
            "where": "team/tables:test:row 1",
        }
    ]


def test_limit(outcomes: dict[str, object]) -> None:
    rows = outcomes["limit"]
    assert isinstance(rows, list)
    assert [row["messages"][0]["content"] for row in rows] == ["a"]


def test_a_configuration(outcomes: dict[str, object]) -> None:
    rows = outcomes["configuration"]
    assert isinstance(rows, list)
    assert [row["messages"][0]["content"] for row in rows] == ["b"]
    assert rows[0]["where"] == "team/several:b:train:row 1"


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (
            "column",
            "team/tables: no column 'prompt' (columns: question, key, m); name the "
            "prompts' column with --column",
        ),
        ("split", "team/tables: no split 'dev' (splits: train, test); set source.split to one"),
        (
            "null",
            "team/lines:train:row 2: 'topic' is null, not a text or a list of chat messages; "
            "correct the row, or leave such rows out with --skip-bad-rows",
        ),
        (
            "missing",
            "team/nothing: no such file here and no such dataset on the Hub (private? `hf auth "
            "login`)",
        ),
        (
            "plain missing",
            "nothing: no such file here and no such dataset on the Hub (private? `hf auth login`)",
        ),
        (
            "empty",
            "team/empty: holds no data files that `datasets` can read (JSONL, Parquet, CSV, ...)",
        ),
        (
            "gated",
            "team/gated: a gated dataset; ask for access on its page on the Hub, then `hf auth "
            "login`",
        ),
        (
            "configurations",
            "team/several: choose one of its configurations (a, b) by writing ID:CONFIGURATION",
        ),
        (
            "other configuration",
            "team/several:c: choose one of its configurations (a, b) by writing ID:CONFIGURATION",
        ),
    ],
)
def test_refusals(outcomes: dict[str, object], case: str, line: str) -> None:
    assert outcomes[case] == line


def test_a_file_that_is_broken(outcomes: dict[str, object]) -> None:
    line = outcomes["broken"]
    assert isinstance(line, str)
    assert line.startswith("team/broken: `datasets` cannot read it: ")
    assert "\n" not in line


def test_nothing_was_counted_or_downloaded_whole(
    hub: HubServer, outcomes: dict[str, object]
) -> None:
    assert not [request for request in hub.requests if request.startswith("POST")]
    assert not [request for request in hub.requests if "telemetry" in request]


def test_offline(hub: HubServer, tmp_path: Path) -> None:
    offline = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    assert _run(offline, [("team/lines", {})]) == [
        "team/lines: no such file here, and the Hub cannot be reached; check the network, "
        "HF_ENDPOINT and HF_HUB_OFFLINE"
    ]


def test_a_gated_dataset_with_access(hub: HubServer, tmp_path: Path) -> None:
    hub.tokens.add(TOKEN)
    try:
        [rows] = _run(hub.environment(tmp_path), [("team/gated", {})])
    finally:
        hub.tokens.clear()
    assert isinstance(rows, list)
    assert rows[0]["messages"] == [{"role": "user", "content": "a"}]


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    """`datasets` itself would ask six times, with pauses of 23 seconds in all."""
    code = (
        "from sso_data.config.run import SourceConfig; from sso_data.prompts import read_prompts\n"
        "next(read_prompts('me/data', SourceConfig()))"
    )
    quiet = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the Hub cannot be reached" in done.stderr.splitlines()[-1]
    assert "Retrying" not in done.stderr
