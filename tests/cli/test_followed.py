"""Advice of messages, taken from the message itself and followed by one reader for all of them."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.config import migration
from sso_data.runs.workdir import write_json
from sso_data.world import queries
from tests.cli.conftest import INLINE, Cli
from tests.cli.test_words import told
from tests.once import once
from tests.reliability.test_corruption import delete, edit, edit_text

TINY = (
    *(*INLINE, "--set=sampling.max_tokens=16", "--set=steering.choose=policy"),
    *("--set=filter.preset=none", "--set=filter.drop_truncated=false"),
)
DONE = (0, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt file, and a run of it whose features the policy chose."""

    def make(at: Path) -> None:
        rows = [{"prompt": text} for text in queries(3, seed=5)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (at / "prompts.jsonl").write_text(text + '{"prompt": 7}\n')
        words = ["generate", at / "prompts.jsonl", f"--out={at / 'run'}", "--skip-bad-rows", *TINY]
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 3, done.output
        assert (at / "run" / "steering.jsonl").is_file()

    return once(tmp_path_factory, "followed", make)


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place"))


def follow(message: str, words: list[str], cli: Cli) -> list[str]:
    """Do what the end of a message says; return the words of the command to give then."""
    where, _, advice = message.removeprefix("error: ").partition("; ")
    file, _, number = where.partition(": ")[0].rpartition(":")
    if command := re.search(r"`sso-data ([^`]*)`", advice):
        assert cli(*shlex.split(command[1])).exit_code in DONE, command[1]
    elif re.search(r"(delete|remove) (it|the line|one of the two lines)", advice):
        delete(Path(file), int(number))
    elif "remove the file" in advice:
        Path(where.partition(": ")[0]).unlink()
    elif found := re.search(r"(?:delete|remove) (/\S+?)(?=[:, ]|$)", advice):
        shutil.rmtree(found[1]) if Path(found[1]).is_dir() else Path(found[1]).unlink()
    elif re.search(r"(another|new one|new file|new directory)|name a ", advice):
        at = next(place for place, word in enumerate(words) if word.startswith("--out="))
        fresh = Path(words[at].removeprefix("--out=")).absolute()
        return [*words[:at], f"--out={fresh.parent / 'fresh'}{fresh.suffix}", *words[at + 1 :]]
    elif option := re.search(r"leave (?:out )?(--[a-z-]+)", advice):
        return [word for word in words if not word.startswith(option[1])]
    elif "leave it out" in advice or "leave them out" in advice:
        names = re.findall(r"[\w.]+", where.partition(" has")[0].partition(" have")[0])
        gone = [name for name in names if any(f"{name}=" in word for word in words)]
        assert gone, where
        return [word for word in words if not any(f"{name}=" in word for name in gone)]
    elif settings := re.findall(r"\b([a-z_]+\.[a-z_.]+=\w+)", advice):
        return [*words, *(f"--set={setting}" for setting in settings)]
    else:
        raise AssertionError(f"what does it say to do? {message}")
    return words


Spoil = Callable[[Path], object]


def _generate(place: Path, *more: str) -> list[str]:
    given = ["generate", place / "prompts.jsonl", f"--out={place / 'run'}", "--skip-bad-rows"]
    return [str(word) for word in (*given, *TINY, *more)]


def _insert(name: str, line: str) -> Spoil:
    return lambda place: (place / name).write_text(line + (place / name).read_text())


def _write(name: str, text: str) -> Spoil:
    def write(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)

    return write


def _twice(place: Path) -> None:
    file = place / "run" / "rows" / "00000.jsonl"
    file.write_bytes(file.read_bytes() + file.read_bytes().splitlines(keepends=True)[0])


def _edited(name: str, number: int, pattern: str, into: str) -> Spoil:
    return lambda place: edit(place / name, number, pattern, into)


JOURNAL, STEERING = "run/rows/00000.jsonl", "run/steering.jsonl"
DIGIT = _edited(JOURNAL, 2, r'("logp_plain_good":-)\d', r"\g<1>9")
SPOILED: dict[str, tuple[Spoil, Callable[[Path], list[str]]]] = {
    "a steering line that is none": (_insert(STEERING, "{}\n"), _generate),
    "a steering line of no JSON": (_insert(STEERING, "nonsense\n"), _generate),
    "a steering line changed": (
        _edited(STEERING, 1, '"text":"', '"text":"Not '),
        _generate,
    ),
    "a journal line changed": (DIGIT, _generate),
    "a row twice": (_twice, _generate),
    "a failed prompt of no id": (_insert("run/failed.jsonl", '{"id": 3}\n'), _generate),
    "a run in the way": (lambda place: None, lambda place: _generate(place, "--seed=8")),
    "something else in the way": (
        lambda place: (place / "run" / "run.json").rename(place / "run" / "notes"),
        _generate,
    ),
    "a file in the way": (_write("file", ""), lambda place: _out(_generate(place), place / "file")),
    **{
        f"{what}, read by {command}": (spoil, words)
        for what, spoil in {
            "pairs changed": _edited("run/pairs/train.jsonl", 1, '"content":"', '"content":"Not '),
            "a threshold changed": lambda place: edit_text(
                place / "run" / "pairs" / "filter.json", r'("kept": )\d+', r"\g<1>9"
            ),
            "no pairs": lambda place: shutil.rmtree(place / "run" / "pairs"),
        }.items()
        for command, words in {
            "export": lambda place: _export(place),
            "stats": lambda place: ["principles", "stats", str(place / "run")],
        }.items()
    },
    "export onto a file": (_write("out", "x"), lambda place: _export(place)),
    "export onto something else": (_write("out/x", "x"), lambda place: _export(place)),
    "export onto a run": (
        lambda place: None,
        lambda place: _out(_export(place), place / "run"),
    ),
    "config init onto a file": (
        _write("keys.yaml", ""),
        lambda place: ["config", "init", "train", f"--out={place / 'keys.yaml'}"],
    ),
    "a split of a run": (lambda place: None, lambda place: _train(place, "--split=test")),
    "an option without effect": (
        lambda place: None,
        lambda place: _train(place, "--set=loss.type=simpo", "--set=loss.label_smoothing=0.1"),
    ),
}


def _out(words: list[str], out: Path) -> list[str]:
    return [f"--out={out}" if word.startswith("--out=") else word for word in words]


def _export(place: Path) -> list[str]:
    return ["export", str(place / "run"), "--to=trl", f"--out={place / 'out'}"]


def _train(place: Path, *more: str) -> list[str]:
    """A training that needs no step to end: only what comes before its model is read."""
    return ["train", str(place / "run"), f"--out={place / 'out'}", "--model=/no/model", *more]


@pytest.mark.parametrize("name", SPOILED)
def test_the_advice_of_a_refusal_is_followed(cli: Cli, place: Path, name: str) -> None:
    spoil, words_of = SPOILED[name]
    spoil(place)
    words = words_of(place)
    message = told(cli, *words)
    words = follow(message, words, cli)
    if words[0] == "train":
        assert told(cli, *words).endswith("/no/model: no such model directory")
        return
    for _ in range(1 + (words[0] == "generate")):  # the second time nothing is left to do
        done = cli(*words)
        assert done.exit_code in DONE, (message, done.output)
    if words[0] == "generate":
        run = next(word.removeprefix("--out=") for word in words if word.startswith("--out="))
        found = json.loads(cli("verify", run, "--json").stdout)
        assert {finding["state"] for finding in found} == {"ok"}, found
    if "--out=" not in "".join(words[:2]):
        assert (place / "prompts.jsonl").is_file()


VERIFIED = {
    "a digit": DIGIT,
    "a row twice": _twice,
    "pairs": _edited("run/pairs/train.jsonl", 1, '"content":"', '"content":"Not '),
    "a threshold": lambda place: edit_text(
        place / "run" / "pairs" / "filter.json", r'("kept": )\d+', r"\g<1>9"
    ),
    "no pairs": lambda place: shutil.rmtree(place / "run" / "pairs"),
    "a torn line": lambda place: (place / JOURNAL).write_bytes((place / JOURNAL).read_bytes()[:-9]),
    "a steering line": _edited(STEERING, 1, '"kind":"', '"kind": "x'),
    "a failure": _insert("run/failed.jsonl", "[1]\n"),
}


@pytest.mark.parametrize("name", VERIFIED)
def test_the_remedies_of_verify_are_followed(cli: Cli, place: Path, name: str) -> None:
    VERIFIED[name](place)
    found: list[dict[str, Any]] = json.loads(cli("verify", place / "run", "--json").stdout)
    [wrong, *_] = [one for one in found if one["state"] != "ok"]
    remedy = wrong["remedy"]
    if not remedy.startswith("run the command"):
        remedy = f"`{remedy}`" if remedy.startswith("sso-data") else remedy
        follow(f"{wrong['what']}: {wrong['detail']}; {remedy}", [], cli)
    assert cli(*_generate(place)).exit_code == 3
    found = json.loads(cli("verify", place / "run", "--json").stdout)
    assert {one["state"] for one in found} == {"ok"}, found


def test_a_later_format_is_read_after_an_upgrade(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = place / "run" / "run.json"
    content = json.loads(manifest.read_text()) | {"schema_version": migration.FORMAT + 1}
    write_json(manifest, content)
    assert told(cli, "show", place / "run").endswith("upgrade sso-data")
    monkeypatch.setattr(migration, "FORMAT", migration.FORMAT + 1)
    assert cli("show", place / "run").exit_code == 0


PROMPT_FILES: dict[str, tuple[str, bytes, str, bytes]] = {
    "an integer": ("a.jsonl", b'{"prompt":"x","n":%d}\n' % 2**70, "make it a text", b"%d" % 2**70),
    "nan": ("a.jsonl", b'{"prompt":"x","n":NaN}\n', "correct the row", b"NaN"),
    "tools": ("a.jsonl", b'{"prompt":"x","tools":[{"name":"f"}]}\n', "remove it", b',"tools":['),
    "quotes": ("a.csv", b'prompt\n"x\n', "check its quotes", b'"x'),
    "a header": ("a.csv", b"text\nx\n", "--column", b""),
    "a key": (
        "a.jsonl",
        b'{"prompt":[{"role":"user","content":"x","name":"Ann"}]}\n',
        "keep role and content only",
        b',"name":"Ann"',
    ),
    "an array": ("a.jsonl", b'[{"prompt":"x"}]\n', ".json", b""),
    "no JSON": ("a.json", b'[{"prompt":"x"},]', "correct it", b",]"),
}
MENDED = {
    "an integer": lambda data, part: data.replace(part, b'"%s"' % part),
    "nan": lambda data, part: data.replace(part, b"null"),
    "tools": lambda data, part: data.replace(part + b'{"name":"f"}]', b""),
    "quotes": lambda data, part: data.replace(part, b"x"),
    "a key": lambda data, part: data.replace(part, b""),
    "no JSON": lambda data, part: data.replace(part, b"]"),
}


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_advice_about_prompt_files_is_followed(cli: Cli, tmp_path: Path, name: str) -> None:
    """Mended as it says, the file is read: what is refused then is the model that is not there."""
    called, data, advice, part = PROMPT_FILES[name]
    file = tmp_path / called
    file.write_bytes(data)
    words = ["generate", file, f"--out={tmp_path / 'run'}", "--model=/no/model"]
    message = told(cli, *words)
    assert advice in message, message
    ways: list[list[Any]] = [words]
    if name == "a header":
        ways = [[*words, "--column=text"]]
    elif name == "an array":
        file = file.rename(file.with_suffix(".json"))
        ways = [["generate", file, *words[2:]]]
    else:
        file.write_bytes(MENDED[name](data, part))
    for way in ways:
        assert told(cli, *way).endswith("/no/model: no such model directory")
    if name == "tools":  # "or read the prompt's column alone (source.column, source.format=column)"
        file.write_bytes(data)
        alone = [*words, "--column=prompt", "--set=source.format=column"]
        assert told(cli, *alone).endswith("/no/model: no such model directory")
    if name in ("an integer", "tools", "a key"):  # "or leave such rows out with --skip-bad-rows"
        file.write_bytes(data + b'{"prompt":"y"}\n')
        assert "no such model directory" in told(cli, *words, "--skip-bad-rows")
