"""What must not get out: secrets, and texts and templates that steer what is not theirs."""

import io
import json
import os
import re
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.cli.outcome import SafeConsole, echo, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.cli.rows import visible
from sso_data.config.run import ViewsConfig, load_config
from sso_data.config.training import TrainConfig
from sso_data.core.errors import ConfigError, InputError, ModelError, harmless, without_secrets
from sso_data.core.jinja import Templates
from sso_data.core.limits import BYTES, TooMuchError, limited
from sso_data.core.markdown import inline
from sso_data.core.paths import public_name, templates_dir
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer
from sso_data.training.card import write_card
from sso_data.world import policy_dir
from tests.tiny_runs import tiny_run

TOKEN = "hf_" + "Ab1" * 10
ROOM = "https://host.example"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host/x", "https://<token>@host/x"),
        ("https://pa55word@host/x", "https://<token>@host/x"),
        (f"{ROOM}/x?a=1&token=abc&b=2", f"{ROOM}/x?a=1&token=<token>&b=2"),
        (f"{ROOM}/x?X-Amz-Signature=0a1b", f"{ROOM}/x?X-Amz-Signature=<token>"),
        (f"{ROOM}/x?sig=abc%2F", f"{ROOM}/x?sig=<token>"),
        (f"{ROOM}/{TOKEN}/x", f"{ROOM}/<token>/x"),
        (f"{ROOM}/v1/aB3dE5fG7hI9kL1mN3oP5qR7/chat", f"{ROOM}/v1/<token>/chat"),
        (f"hf://{TOKEN}@datasets/a/b", "hf://<token>@datasets/a/b"),
        (f"hf://datasets/a/b?api_key={TOKEN}", "hf://datasets/a/b?api_key=<token>"),
        ("https%3A%2F%2Fme%3Apa55%40host/x", "https://<token>@host/x"),
        ("see https%253A%252F%252Fme%253Apa55%2540host now", "see https://<token>@host now"),
        (f"%68f_{TOKEN[3:]}", "<token>"),
        (f"Bearer {TOKEN}:rest of it", "Bearer <token> of it"),
        ("ghp_" + "a1" * 18, "<token>"),
        ("AKIA" + "QYLPMN5HFIQR7XYA", "<token>"),
    ],
)
def test_secrets_in_addresses_are_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert str(InputError(f"{text}: refused")) == f"{shown}: refused"


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/me/data/resolve/0123456789abcdef0123456789abcdef01234567/a",
        "http://localhost:8000/v1",
        "hf://datasets/me/data@main/train.jsonl",
        "kept 61%, 2 failed",
        "/data/a%20b/prompts.jsonl",
        "sampling.top_p is 0.8 there and 0.5 here",
        "https://huggingface.co/Qwen/Qwen2.5-Math-1.5B-Instruct-Something-Long?tab=readme",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("key", ["model", "source.column", "steering.endpoint"])
def test_no_secret_gets_into_a_configuration(key: str) -> None:
    for address in (f"{ROOM}/v1?token=abcdef", "https%3A%2F%2Fme%3Apa55word%40host", TOKEN):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [f"{key}={address}"])
        assert "pa55word" not in str(caught.value) and TOKEN not in str(caught.value)


STEERING = "\u202eevil\u2066\x9b2J\x1b[2J\x7f"


def test_texts_of_others_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a {STEERING} of https://me:pa55@host")
    echo(STEERING)
    SafeConsole(width=80).print(f"[bold]{STEERING}[/]")
    with showing_progress() as progress:
        progress.note(STEERING)
    shown = capsys.readouterr()
    assert shown.out.count("?evil?") == 2 and "pa55" not in shown.err
    assert not set(shown.out + shown.err) & set("\u202e\u2066\x9b\x1b\x7f")
    print_json({"text": STEERING, "words": "schön 日本"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"text": STEERING, "words": "schön 日本"}
    assert "\\u202e" in text and "\\u009b" in text and "schön 日本" in text
    assert not set(text) & set("\u202e\u2066\x9b\x1b\x7f")


def test_a_terminal_gets_its_own_colours() -> None:
    file = io.StringIO()
    console = SafeConsole(width=80, force_terminal=True, color_system="standard", file=file)
    console.print(f"[bold]{STEERING}[/]", highlight=False)
    assert file.getvalue() == "\x1b[1m?evil??2J?[2J?\x1b[0m\n"


def test_a_models_name_is_text_in_its_card(tmp_path: Path) -> None:
    name = "/models/`x` | <img src=x> [y](z)\n# H"
    manifest = {
        "sso_data": "1",
        "model": {"name": name, "fingerprint": "f"},
        "data": {"source": name, "fingerprint": "f", "made_by": [], "training": 1, "held_out": 0}
        | {"encoding": {"too_long": 0}},
        "config": TrainConfig().model_dump(mode="json"),
        "references": {"text": "none"},
        "steps": 1,
        "max_steps": 1,
        "stopped": None,
    }
    write_card(manifest, [], tmp_path / "README.md")
    card = (tmp_path / "README.md").read_text()
    assert "\n# H" not in card
    heading = next(line for line in card.splitlines() if line.startswith("# "))
    assert heading.startswith(f"# {inline(public_name(name))}, trained") and "<" not in heading
    rows = [line for line in card.splitlines() if line.startswith("| model |")]
    assert len(rows) == 1 and rows[0].count(" | ") == 1


class TestEndlessTemplates:
    """A template is a program of its author."""

    TURN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    HUGE = "{% for a in range(9999) %}{{ 'x' * 10000000 }}{% endfor %}"
    BIGGER = "{{ messages[0].content * 10000000000 }}"

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        function: Any = limited
        monkeypatch.setattr(function.__wrapped__, "__defaults__", (0.2, BYTES // 4))
        yield

    @pytest.mark.parametrize(
        ("source", "why"), [(ENDLESS, "not end"), (HUGE, "memory"), (BIGGER, "memory")]
    )
    def test_of_a_model(self, source: str, why: str, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(policy_dir())
        tokenizer.chat_template = self.TURN + source
        began = time.process_time()
        with pytest.raises(ModelError, match=why) as caught:
            ChatTemplate(tokenizer, ViewsConfig(), today="2026-01-01")
        assert "\n" not in str(caught.value)
        assert time.process_time() - began < 30

    def test_of_a_user(self, tmp_path: Path) -> None:
        (tmp_path / "system.j2").write_text(self.ENDLESS)
        with pytest.raises(ConfigError, match=r"system\.j2: it does not end"):
            Templates(directory=tmp_path).render("system.j2", texts=["a"])

    def test_the_limits_end_with_the_block(self) -> None:
        with pytest.raises(TooMuchError), limited(seconds=0.05):
            while True:
                pass
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        assert len(bytes(BYTES // 2)) == BYTES // 2


def test_a_umask_is_kept_by_all_that_train_writes(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, 6, seed=3, keep=True, max_tokens=200)
    out = tmp_path / "private"
    words = [
        "--set=optim.max_steps=2",
        "--set=optim.micro_batch_rows=2",
        "--set=checkpoints.every=1",
    ]
    kept = ["--set=checkpoints.keep_finished=true", f"--model={policy_dir()}"]
    before = os.umask(0o077)
    try:
        done = CliRunner().invoke(app, ["train", str(run), f"--out={out}", *words, *kept])
    finally:
        os.umask(before)
    assert done.exit_code == 0, done.output
    files = [out, *out.rglob("*")]
    assert {file.name for file in files} >= {"model.safetensors", "README.md", "checkpoints"}
    assert not [file for file in files if stat.S_IMODE(file.stat().st_mode) & 0o077]
    shutil.rmtree(out)
    done = CliRunner().invoke(app, ["train", str(run), f"--out={out}", *words, *kept])
    assert stat.S_IMODE((out / "model.safetensors").stat().st_mode) == 0o644 & ~before


def test_the_page_and_the_terminal_mark_what_messages_neutralise() -> None:
    """Page and terminal mark the same characters, and all that messages neutralise."""
    script = (templates_dir() / "report/page.js").read_text()
    [(kept, kinds)] = re.findall(r"HIDDEN = /\(\?!\[(.*?)\]\)\[(.*?)\]/gu", script)
    left, hidden = kept.encode().decode("unicode_escape"), re.findall(r"\\p\{(..)\}", kinds)
    for code in (*range(0x11000), *range(0xE0000, 0xE0080)):
        char = chr(code)
        on_page = unicodedata.category(char) in hidden and char not in left
        assert on_page == (visible(char) != char) or char == "\t", hex(code)
        assert on_page or harmless(char) == char, hex(code)
