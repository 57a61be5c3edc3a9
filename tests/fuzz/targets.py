"""What is fuzzed: functions that take bytes and fail with an AssertionError or a stray exception.

Each one knows which exceptions the code may raise; any other one is a finding.
"""

import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.config.loading import config_tree, load, validated
from sso_data.config.run import RunConfig, SourceConfig, ViewsConfig
from sso_data.config.training import TrainConfig
from sso_data.core.errors import (
    ConfigError,
    InputError,
    ModelError,
    RunError,
    SsoDataError,
    one_line,
    without_secrets,
)
from sso_data.core.jinja import render
from sso_data.core.records import Failure, Message, Row
from sso_data.core.yaml_files import parse_yaml
from sso_data.prompts import BadRow, Candidate, read_prompts
from sso_data.runs.columns import encode
from sso_data.runs.journal import Journal, load_scores, read_rows, side_file
from sso_data.runs.run import iterate_failures, read_run
from sso_data.steering.principles import load_principle
from sso_data.templating.chat_template import ChatTemplate, Unrenderable
from sso_data.training.encode import Encoder
from tests import tokenizers_of_the_field as field
from tests.factories import make_row, to_line, write_part
from tests.hostile import catalogues, configurations, runs
from tests.hostile.cases import ADDRESS

Target = Callable[[bytes], None]
NOT_A_ROW = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What `store` turns into the error that names the line."""


@cache
def scratch() -> Path:
    """A directory for files that are read at once, in memory where that is possible."""
    shm = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=shm if shm.is_dir() else None)
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[Any] = []


def _file(name: str, data: bytes) -> Path:
    file = scratch() / name
    file.write_bytes(data)
    return file


def check_line(error: SsoDataError) -> None:
    """An error's text is one line that a terminal can show."""
    text = str(error)
    assert text
    assert text.isprintable(), text
    assert len(text) <= 1300, len(text)


def source(suffix: str) -> Target:
    """Bytes as a prompt file: rows, bad rows or an InputError, and every row accounted for."""

    def run(data: bytes) -> None:
        file = _file(f"p.{suffix}", data)
        try:
            found = list(read_prompts(str(file), SourceConfig(skip_bad_rows=True)))
        except InputError as error:
            check_line(error)
            return
        if suffix in ("jsonl", "txt"):
            text = data.removeprefix(b"\xef\xbb\xbf")
            if b"\r" in text.rstrip() and b"\n" not in text:  # lines that end in CR alone
                text = text.replace(b"\r", b"\n")
            lines = [line for line in text.split(b"\n") if _is_row(line, suffix)]
            assert len(found) == len(lines), (len(found), len(lines))
        for row in found:
            _check_row(row)

    return run


def _is_row(line: bytes, suffix: str) -> bool:
    """Whether a line is more than white space: that of ASCII, in plain text Unicode's too."""
    try:
        return bool(line.strip() if suffix == "jsonl" else line.decode().strip())
    except UnicodeDecodeError:
        return True


def _check_row(row: Candidate | BadRow) -> None:
    if isinstance(row, BadRow):
        assert row.detail.isprintable()
        assert 0 < len(row.detail) <= 700
        assert len(row.raw) <= 200
        row.raw.encode()
        return
    assert isinstance(json.loads(row.metadata), dict)
    assert row.messages or row.messages == ()
    for text in (row.metadata, row.source_id or "", *(m.content for m in row.messages)):
        text.encode()


def journal_row(data: bytes) -> None:
    """A journal line: a row that can be written again as it is, or an exception that is named."""
    try:
        row = Row.from_json(orjson.loads(data))
        encode(row, data, 0)
    except (*NOT_A_ROW, RunError):  # RunError: of a later format
        return
    assert Row.from_json(orjson.loads(orjson.dumps(row.to_json()))) == row


def failure_line(data: bytes) -> None:
    try:
        failure = Failure.from_json(orjson.loads(data))
    except (*NOT_A_ROW, RunError):
        return
    assert Failure.from_json(orjson.loads(orjson.dumps(failure.to_json()))) == failure


def _fresh_run() -> Path:
    run = scratch() / "run"
    (run / "rows").mkdir(parents=True, exist_ok=True)
    for file in run.rglob("*"):
        if file.is_file():
            file.unlink()
    return run


def journal_file(data: bytes) -> None:
    """A journal part: all of its whole lines are rows, or the line that is none is named."""
    run = _fresh_run()
    part = run / "rows" / "00000.jsonl"
    part.write_bytes(data)
    whole = data.count(b"\n")
    try:
        scores = load_scores(run, dry=True)
    except RunError as error:
        check_line(error)
        return
    assert len(scores) == whole
    assert len(list(read_rows(run))) == whole
    with io.BytesIO(data[: data.rfind(b"\n") + 1]) as before:
        journal = Journal(run)
        journal.append(make_row(77))
        journal.close()
        assert part.read_bytes() == before.getvalue() + _line(make_row(77))
    assert len(load_scores(run, dry=True)) == whole + 1


def _line(row: Row) -> bytes:
    from sso_data.runs.jsonl import to_line as journal_line

    return journal_line(row.to_json())


@cache
def _good_rows() -> tuple[Row, ...]:
    return tuple(make_row(number) for number in range(3))


def side_files(data: bytes) -> None:
    """A side file, whatever it holds, changes nothing of what the journal says."""
    run = _fresh_run()
    part = write_part(run, list(_good_rows()))
    wanted = load_scores(run, dry=True).rows
    side_file(part).write_bytes(data)
    found = load_scores(run, dry=True).rows
    assert np.array_equal(found.tobytes(), wanted.tobytes()), "the side file was believed"


def failed_file(data: bytes) -> None:
    run = _fresh_run()
    (run / "failed.jsonl").write_bytes(data)
    try:
        found = list(iterate_failures(run))
    except RunError as error:
        check_line(error)
        return
    assert len(found) == data.count(b"\n")


def manifest(data: bytes) -> None:
    run = _fresh_run()
    (run / "run.json").write_bytes(data)
    try:
        found = read_run(run)
    except RunError as error:
        check_line(error)
        return
    assert found is not None
    assert isinstance(found["config"], dict)
    assert isinstance(found["identity"], dict)


def config_file(data: bytes) -> None:
    """A --config file: a configuration that a run.json can hold, or a ConfigError."""
    try:
        config = validated(RunConfig, config_tree(_file("c.yaml", data), None), origin="c.yaml")
    except ConfigError as error:
        check_line(error)
        return
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def setting(data: bytes) -> None:
    """The text after --set."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        config = validated(RunConfig, config_tree(None, [text]), origin="configuration")
    except ConfigError as error:
        check_line(error)
        return
    config.model_dump_json()


def train_setting(data: bytes) -> None:
    try:
        load(TrainConfig, None, [data.decode("utf-8", "replace")])
    except ConfigError as error:
        check_line(error)


def plain_yaml(data: bytes) -> None:
    """Whatever YAML stands for, it is bounded and of JSON's own kinds."""
    try:
        found = parse_yaml(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert _count(found) <= 60_000


def _count(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(_count(key) + _count(item) for key, item in value.items())
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    assert value is None or isinstance(value, str | int | float | bool), type(value)
    return 1


def principle(data: bytes) -> None:
    """A principle file: texts that can be shown, or an InputError that names the file."""
    try:
        found = load_principle(_file("a.yaml", data))
    except InputError as error:
        check_line(error)
        assert "a.yaml" in str(error)
        return
    for text in (found.name, found.meaning, found.good, found.bad):
        assert text.replace("\n", "").replace("\t", "").encode()
        assert "\x1b" not in text


def own_template(data: bytes) -> None:
    """A template of ours, changed: text, or a ConfigError."""
    (scratch() / "templates").mkdir(exist_ok=True)
    _file("templates/t.j2", data)
    try:
        render("t.j2", directory=scratch() / "templates", texts=["a", "b"])
    except ConfigError as error:
        check_line(error)


def chat_template(data: bytes) -> None:
    """A model's chat template: usable, or a ModelError; never more control tokens than its own."""
    tokenizer = _tokenizer()
    tokenizer.chat_template = data.decode("utf-8", "replace") or "x"
    try:
        made = ChatTemplate(tokenizer, ViewsConfig(), today="2026-01-01")
        made.views((Message(role="user", content="Hi <|im_end|>"),), "Be kind.", "Be cruel.")
    except ModelError as error:
        check_line(error)
    except Unrenderable as refusal:
        assert refusal.reason


@cache
def _tokenizer() -> Any:
    return field.build(field.CHATML)


@cache
def _templates() -> tuple[ChatTemplate, ...]:
    kinds: Iterable[tuple[str, dict[str, bool]]] = (
        (field.CHATML, {}),
        (field.LLAMA3, {"bos": True}),
        (field.GEMMA, {"bos": True}),
    )
    return tuple(
        ChatTemplate(field.build(kind, **more), ViewsConfig(), today="2026-01-01")
        for kind, more in kinds
    )


def prompt_text(data: bytes) -> None:
    """A prompt's text: no control token more or less, and the text comes back, or a refusal."""
    template = _templates()[data[0] % 3 if data else 0]
    text = data[1:].decode("utf-8", "replace")
    controls = set(template.tokenizer.added_tokens_decoder)
    honest = [t for t in template.ids((Message(role="user", content="Hi"),)) if t in controls]
    try:
        ids = template.ids((Message(role="user", content=text),))
    except Unrenderable as refusal:
        assert refusal.reason == "control_tokens"
        return
    assert [token for token in ids if token in controls] == honest
    assert text.strip() in template.tokenizer.decode(ids)


def preference_row(data: bytes) -> None:
    """A row of somebody's preference set: encoded, or an InputError."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(row, dict) or row.get("chosen") is None or row.get("rejected") is None:
        return
    encoder = Encoder(
        template=_templates()[0],
        config=load(TrainConfig).sequence,
        terms=("base",),
        eos_ids=frozenset([_tokenizer().eos_token_id]),
        vocab_size=400,
    )
    try:
        found = encoder.encode([row])
    except InputError as error:
        check_line(error)
        return
    assert len(found) == encoder.report.encoded


def messages(data: bytes) -> None:
    """Whatever a library says becomes one line that can be shown, without the secret in it.

    Inside a word (`rlhf_...`) it is none.
    """
    text = data.decode("utf-8", "surrogateescape")
    check_line(RunError(f"x{text}"))
    token = "hf_" + "a" * 34
    shown = re.compile(rf"\b{token}", re.ASCII)
    assert not shown.search(str(RunError(f"{text} {token}")))
    assert not shown.search(one_line(f"{text[:50]} {token}"))
    assert without_secrets(without_secrets(text)) == without_secrets(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzzed:
    """A target, inputs to start from, and pieces that mutations put in."""

    run: Target
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


JSON_WORDS = tuple(
    b'{ } [ ] " : , null true NaN 1e999 -1 18446744073709551616 "prompt" "role" "content" "user" '
    b'"system" "assistant" "id" \\ud800 \\u0000 \xff \xef\xbb\xbf \n \r\n'.split(b" ")
)
ROW_WORDS = tuple(f'"{name}":'.encode() for name in runs.ROW)
YAML_WORDS = (
    b"&a ", b"*a", b"<<: ", b"!!python/object:x ", b"---\n", b": ", b"- ", b"{", b"}", b"[", b"]",
    b"|", b">", b"\t", b"'", b'"', b"#", b"~", b".nan", b".inf", b"0x", b"1:2", b"\\e", b"\xff",
)  # fmt: skip
KEYS = tuple(
    f"{section}.{key}".encode()
    for section, part in RunConfig().model_dump().items()
    if isinstance(part, dict)
    for key in part
)
JINJA_WORDS = (
    b"{{ ", b" }}", b"{% for m in messages %}", b"{% endfor %}", b"{% if ", b"{% endif %}",
    b"messages", b"m['content']", b"m.role", b"bos_token", b".__class__", b"|attr('x')", b"|trim",
    b"add_generation_prompt", b"raise_exception('x')", b"<|im_start|>", b"<|im_end|>",
    b"{% set x = ", b" %}", b"namespace(a=1)", b"strftime_now('%Y')", b"'", b"[", b"]", b"~",
    b" + ", b"loop.index",
)  # fmt: skip
CONTROL_WORDS = (
    *(control.encode() for control in field.CONTROLS),
    b"<|", b"|>", b"im_", b"<think>", b" ", b"\n", "\uff1c".encode(), b"Qz9000zQ", b"\xff",
)  # fmt: skip

_TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_ROW = to_line(make_row())
_PROMPTS = (
    b'{"prompt": "a", "id": 1}\n{"prompt": [{"role": "user", "content": "b"}]}\n',
    b'{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "m": {}}',
    b'\xef\xbb\xbf{"prompt": "\\ud83d\\ude00"}\r\n\r\nnull\n',
)
_YAMLS = (
    b"model: m\nseed: 3\nsampling: {temperature: 0.7}\nsteering:\n  features: [Safety]\n",
    b"filter:\n  closeness: q0.8\n  gap: 0.1\nviews: {date: 2024-07-01, template_kwargs: {a: 1}}\n",
    configurations.LAUGHS.encode()[:700],
)

TARGETS: dict[str, Fuzzed] = {
    "source jsonl": Fuzzed(run=source("jsonl"), seeds=_PROMPTS, words=JSON_WORDS),
    "source json": Fuzzed(
        run=source("json"),
        seeds=tuple(b"[" + b",".join(p.split(b"\n")[:1]) + b"]" for p in _PROMPTS),
        words=JSON_WORDS,
    ),
    "source csv": Fuzzed(
        run=source("csv"),
        seeds=(b"prompt,id\na,1\n", b'id,prompt\r\n1,"a ""b""\n"\r\n'),
        words=(b'"', b",", b"\n", b"\r", b"prompt", b"\x00", b"\xff", b"\xef\xbb\xbf"),
    ),
    "source tsv": Fuzzed(run=source("tsv"), seeds=(b"prompt\tid\na\t1\n",), words=(b'"', b"\t")),
    "source txt": Fuzzed(
        run=source("txt"), seeds=(b"a\nb\r\n\n c \n",), words=(b"\n", b"\r", b"\x00", b"\xff")
    ),
    "journal row": Fuzzed(run=journal_row, seeds=(_ROW,), words=JSON_WORDS + ROW_WORDS),
    "journal file": Fuzzed(
        run=journal_file, seeds=(_ROW, _ROW + _ROW[:90]), words=JSON_WORDS + ROW_WORDS
    ),
    "side file": Fuzzed(run=side_files, seeds=(b"SSOSCORE" + bytes(400),), words=(b"SSOSCORE",)),
    "failure line": Fuzzed(
        run=failure_line, seeds=(json.dumps(runs.FAILURE).encode(),), words=JSON_WORDS
    ),
    "failed file": Fuzzed(run=failed_file, seeds=(runs.line(runs.FAILURE) * 2,), words=JSON_WORDS),
    "run.json": Fuzzed(run=manifest, seeds=(json.dumps(runs.MANIFEST).encode(),), words=JSON_WORDS),
    "config file": Fuzzed(run=config_file, seeds=_YAMLS, words=YAML_WORDS + KEYS),
    "--set": Fuzzed(
        run=setting,
        seeds=(b"sampling.top_p=0.9", b"steering.features=[Safety]", b"filter.gap=q0.5"),
        words=(*YAML_WORDS, *KEYS, b"=", b".", b"q"),
    ),
    "train --set": Fuzzed(
        run=train_setting,
        seeds=(b"optim.lr=1e-6", b"lora.targets=[q_proj]", b"loss.type=dpo"),
        words=(*YAML_WORDS, b"=", b".", b"optim.", b"loss.", b"checkpoints."),
    ),
    "YAML": Fuzzed(run=plain_yaml, seeds=_YAMLS, words=YAML_WORDS),
    "principle": Fuzzed(
        run=principle,
        seeds=(
            catalogues.WARMTH.encode(),
            b"name: Warmth\nadjectives: {good: Warm, bad: Cold}\nmeaning: m\ngood: g\nbad: b\n",
        ),
        words=(*YAML_WORDS, b"good: ", b"bad: ", b"name: ", b"paraphrases: "),
    ),
    "our template": Fuzzed(
        run=own_template,
        seeds=(b"{% for text in texts -%}\n- {{ text }}\n{% endfor -%}",),
        words=(*JINJA_WORDS, b"texts", b"text"),
    ),
    "chat template": Fuzzed(
        run=chat_template,
        seeds=tuple(t.encode() for t in (field.CHATML, field.LLAMA3, field.GEMMA)),
        words=JINJA_WORDS,
    ),
    "prompt text": Fuzzed(
        run=prompt_text, seeds=(b"\x00How are you?", b"\x01a <|eot|> b"), words=CONTROL_WORDS
    ),
    "preference row": Fuzzed(
        run=preference_row,
        seeds=(
            b'{"prompt": "a", "chosen": "b", "rejected": "c"}',
            json.dumps({"chosen": _TALK, "rejected": _TALK, "id": "x"}).encode(),
        ),
        words=JSON_WORDS + CONTROL_WORDS,
    ),
    "error text": Fuzzed(
        run=messages,
        seeds=(b"a\nb\x1b[2J", ADDRESS.encode(), b"Bearer abcdefgh"),
        words=(b"hf_", b"sk-", b"://", b"@", b":", b"\n", b"\x1b", "\u202e".encode(), b"\xff"),
    ),
}
