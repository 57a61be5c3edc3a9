"""`show`: three answers side by side or stacked, what dropped a row, and harmless hostile texts."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from sso_data.cli.app import app
from sso_data.cli.rows import RowView, visible
from sso_data.core.records import Message, Response, Row, View
from sso_data.filtering.measures import outcomes_of
from sso_data.runs.tokens import Answers, Tokens
from tests.cli.conftest import Cli
from tests.exporting.making import make_run
from tests.factories import make_row, strict

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07 \x9b31m [red]no markup[/red] \u202egnorts\u202c \u2066x\u2069 "
    "<script>\u200b\ud800 a\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301"
)


def drawn(row: Row, columns: int, *, color: bool = False, tokens: Answers | None = None) -> str:
    config = strict()
    screen = io.StringIO()
    console = Console(
        file=screen,
        width=columns,
        force_terminal=color,
        color_system=("truecolor" if tokens else "standard") if color else None,
        highlight=False,
        _environ={},
    )
    reason = next((test.reason for test in outcomes_of(row, config, {}) if test.fails), None)
    console.print(RowView(row, reason, outcomes_of(row, config, {}), tokens=tokens))
    return screen.getvalue()


def test_side_by_side_when_wide_and_stacked_when_narrow() -> None:
    wide, narrow = drawn(make_row(), 160), drawn(make_row(), 80)
    sides = ("chosen (drawn", "rejected (drawn", "original (drawn")
    assert any(all(side in line for side in sides) for line in wide.splitlines())
    assert not any(sum(side in line for side in sides) > 1 for line in narrow.splitlines())
    for text, columns in ((wide, 160), (narrow, 80)):
        assert max(map(cell_len, text.splitlines())) <= columns
        for part in ("+ Helpfulness:", "Be helpful.", "- Accuracy:", "Be inaccurate.", "kept"):
            assert part in text


def test_every_cell_stands_beside_its_threshold() -> None:
    row = make_row(means={("good", "bad"): -0.53, ("plain", "bad"): -0.51})
    lines = {line.split("  ")[0]: line.split() for line in drawn(row, 160).splitlines()}
    assert lines["log-prob under good"][-3:] == ["-0.500", "-0.530", "-"]
    assert lines["gap"] == ["gap", *["1.5", ">=", "0.05", "0.03", ">=", "0.05", "x"]]
    assert lines["off_policy: closeness"][-6:] == ["0.125", "<=", "0.3", "-0.365", "<=", "0.3"]
    assert "dropped by gap: gap of rejected is 0.03, must be >= 0.05: 0.02 short" in drawn(row, 80)


def test_differences_are_marked_unless_all_is_different() -> None:
    alike = make_row(
        texts={"good": "It flies very well today", "bad": "It flies rather well today"}
    )
    assert "It flies {+very+} well today" in drawn(alike, 80)
    assert "It flies [-rather-] well today" in drawn(alike, 80)
    assert "\x1b[1;32mvery\x1b[0m" in drawn(alike, 80, color=True)
    other = make_row(texts={"good": "one two three four", "bad": "five six seven eight"})
    assert "{+" not in drawn(other, 80)


def test_tokens_are_tinted_or_have_numbers() -> None:
    tokens = Tokens(
        texts=("It", " flies\x1b[2J", " well", ""),
        sizes=(1, 2, 1, 1),
        nats={"good": [-1.0, -1.0, -1.0, -3.0, -2.0], "bad": [-2.2, -1.0, -1.0, -1.0, -2.04]},
    )
    plain = drawn(make_row(), 80, tokens={"good": tokens})
    assert "It{+1.2} flies<U+001B>[2J well{-2.0}<end>" in plain
    assert "log-prob under good minus bad" in plain and "{+1.2} flies" in plain
    coloured = drawn(make_row(), 80, color=True, tokens={"good": tokens})
    assert "\x1b[38;2;0;0;0;48;2;127;173;255mIt\x1b[0m flies" in coloured, "from 1 nat on"
    assert "\x1b[38;2;0;0;0;48;2;255;106;80m well\x1b[0m<end>" in coloured, "from 2 nats on"
    assert "{+" not in coloured


@pytest.mark.parametrize("columns", [80, 160])
def test_hostile_texts_do_nothing(columns: int) -> None:
    row = make_row(texts={"good": HOSTILE, "bad": "A" * 5000, "plain": "b " * 50_000})
    steering = replace(row.steering, features=("[bold]\x1b[31mX", "Y"), good=(HOSTILE, HOSTILE))
    row = replace(
        row, steering=steering, source_id=HOSTILE, messages=(Message(role="user", content=HOSTILE),)
    )
    text = drawn(row, columns)
    assert not set(text) & set("\x1b\x07\x9b\u202e\u202c\u2066\u2069\u200b\ud800")
    for part in ("<U+001B>[2J", "<U+009B>", "<U+202E>", "[red]no markup[/red]", "<U+D800>"):
        assert part in text.replace("\n", "")
    assert "(97,000 more characters)" in " ".join(text.split())
    assert max(map(cell_len, text.splitlines())) <= columns
    assert len(text) < 60_000


def test_a_row_without_an_original_is_shown() -> None:
    row = make_row()
    sides: dict[View, Response] = {
        view: one for view, one in row.responses.items() if view != "plain"
    }
    logp = {cell: nats for cell, nats in row.logp.items() if cell[1] != "plain"}
    row = replace(row, responses=sides, logp=logp)
    screen = io.StringIO()
    Console(file=screen, width=160).print(RowView(row, "gap", ()))
    assert "original (not asked for)" in screen.getvalue()


def test_scripts_and_emoji_stay_readable() -> None:
    for text in ("नमस्ते", "می‌خواهم", "👩‍💻 ok", "日本語\nline", "plain"):
        assert visible(text) == text
    assert visible("a\tb\r\nc") == "a    b\nc"


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    rows = [make_row(0), make_row(1, means={("good", "bad"): -0.53, ("plain", "bad"): -0.51})]
    run = make_run(tmp_path / "run", rows)
    done = cli("show", run, "--reason", "gap")
    assert done.exit_code == 0 and "row 1 of 1, " in done.stdout and "\x1b" not in done.stdout
    assert "dropped by gap" in done.stdout
    found = json.loads(cli("show", run, "source-1", "--json").stdout)
    (one,) = found["shown"]
    assert (one["reason"], one["source_id"], found["matching"]) == ("gap", "source-1", 1)
    assert [test["reason"] for test in one["checks"] if test["fails"]] == ["gap"]
    none = cli("show", run, "--reason", "leak")
    assert (none.exit_code, none.stdout) == (0, "")
    assert none.stderr == "no row of 2 matches; they are 1 kept, 1 gap\n"
    bad = cli("show", run, "nobody", "--json")
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["error"]["type"] == "InputError"


def test_the_shell_completes_the_principles_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [make_row(0)])

    def offered(words: str) -> list[str]:
        shell = {
            "_SSO_DATA_COMPLETE": "complete_bash",
            "COMP_WORDS": f"sso-data show {words}",
            "COMP_CWORD": "4",
        }
        done = CliRunner().invoke(app, [], env=shell, prog_name="sso-data")
        return done.stdout.split()

    assert offered(f"{run} --principle H") == ["Helpfulness"]
    assert offered(f"{tmp_path / 'none'} --principle H") == []
