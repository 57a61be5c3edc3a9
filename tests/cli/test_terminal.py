"""Help, completion, errors and tables: what a person, a pipe and a script see."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from typer.main import get_command

from sso_data.cli import app, training
from sso_data.cli.completion import directories_or, recipes, settings_of, values_of
from sso_data.cli.output import console, findings
from sso_data.config.keys import KINDS, keys_of, template
from sso_data.config.run import RunConfig
from sso_data.config.training import TrainConfig
from sso_data.core.yaml_files import parse_yaml
from sso_data.doctor import Finding
from tests.cli.conftest import Cli
from tests.exporting.making import make_run
from tests.factories import make_row


def commands() -> dict[str, Any]:
    """Every command by its name."""
    found: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {sub}": one for sub, one in inner.items()} if inner else {name: command}
    return found


@pytest.mark.parametrize("columns", [80, 160])
def test_help_fits_and_names_values_in_words(
    cli: Cli, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in commands():
        text = cli(*name.split(), "--help").stdout
        assert max(map(cell_len, text.splitlines())) <= columns
        assert "......" not in text and "]...]" not in text, name
        assert not {"<bool>", "<str>", "<path>", "<int>", "{", "}"} & set(text.split()), name


def test_help_tells_the_defaults_of_the_configuration(cli: Cli) -> None:
    run, training = RunConfig(), TrainConfig()
    wanted: dict[str, dict[str, object]] = {
        "generate": {
            "--engine": run.engine.name,
            "--samples": run.sampling.samples,
            "--seed": run.seed,
            "--split": run.source.split,
            "--column": run.source.column,
            "--principles": "long",
        },
        "train": {
            "--objective": training.loss.objective,
            "--loss-type": training.loss.type,
            "--ref": training.reference.mode,
            "--seed": training.seed,
        },
        "iterate": {"--rounds": KINDS["iterate"]().rounds},  # type: ignore[attr-defined]
    }
    for name, defaults in wanted.items():
        options = {opt: one.help for one in commands()[name].params for opt in one.opts}
        for option, default in defaults.items():
            assert f"(default: {default})" in options[option], (name, option)


def test_completion_knows_values_keys_and_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = settings_of("generate")
    assert complete("filter.ste") == ["filter.steered="]
    assert complete("filter.steered=c") == ["filter.steered=chain", "filter.steered=contrast"]
    assert "train.loss.g=" in settings_of("iterate")("train.loss")
    assert values_of("source.format")("sh") == ["sharegpt"]
    assert values_of("source.take")("") == ["last-user", "first-user", "every-user"]
    assert recipes("llama3.1-8b-instruct-sso-d") == ["llama3.1-8b-instruct-sso-dpo"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    assert directories_or("long", "short")("sh") == ["short", "shapes"]


@pytest.mark.parametrize("command", [name for name in KINDS if name != "iterate"])
def test_a_template_uncommented_is_the_default(command: str) -> None:
    text = template(command)
    assert parse_yaml(text) is None, "as it is written it changes nothing"
    lines = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    kind = KINDS[command]
    assert kind.model_validate(parse_yaml("\n".join(lines))) == kind()
    assert {key.name for key in keys_of(kind)} == set(_leaves(parse_yaml("\n".join(lines))))


def _leaves(tree: Any, prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found += _leaves(value, f"{name}.") if isinstance(value, dict) and value else [name]
    return found


def test_config_and_recipes(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "made" / "run.yaml"
    assert cli("config", "init", "train", "--out", file).stdout == f"{file}\n"
    assert file.read_text() == template("train") == cli("config", "init", "train").stdout
    assert "exists already" in cli("config", "init", "--out", file).stderr
    found = json.loads(cli("config", "keys", "generate", "top_p", "--json").stdout)
    assert {"sampling.top_p", "sampling.min_p"} <= {one["key"] for one in found}
    assert "has no configuration" in cli("config", "keys", "demo").stderr
    assert "llama3.1-8b-instruct-sso-dpo\n" in cli("recipes", "list").stdout
    unknown = cli("recipes", "show", "sso").stderr
    assert (
        "did you mean 'qwen2-7b-sft-sso' or 'llama3-8b-sft-sso'?" in unknown and len(unknown) < 300
    )
    assert "`sso-data recipes list` lists them" in unknown
    shown = parse_yaml(cli("recipes", "show", "llama3.1-8b-instruct-sso-dpo").stdout)
    assert shown["train"]["loss"]["type"] == "dpo"


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (("filter", "nowhere", "--json"), "RunError", 1),
        (("train", "nowhere", "--out", "x", "--base", "dpo", "--json"), "ConfigError", 1),
        (("filter", "--json"), "UsageError", 2),
        (("dull", "--json"), "UsageError", 2),
        (("config", "dull", "--json"), "UsageError", 2),
        (("generate", "a", "--out", "b", "--dull", "--json"), "UsageError", 2),
        (("config", "keys", "demo", "--json"), "ConfigError", 1),
    ],
)
def test_errors_are_json_too(cli: Cli, arguments: tuple[str, ...], kind: str, code: int) -> None:
    done = cli(*arguments)
    assert done.exit_code == code
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert error["text"] and error["text"].split(":")[0] in done.stderr


@pytest.mark.parametrize("columns", [80, 160])
def test_tables_fit_and_are_plain_in_a_pipe(
    cli: Cli, tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [make_row(n, means={("good", "bad"): -0.53 - n / 8}) for n in range(6)]
    run = make_run(tmp_path / "run", rows)
    for arguments in (
        ("filter", run, "--dry-run"),
        ("filter", run, "--sweep"),
        ("principles", "stats", run),
        ("principles", "list"),
        ("config", "keys"),
        ("recipes", "list"),
        ("show", run, "-n", 2),
    ):
        done = cli(*arguments)
        assert done.exit_code == 0, done.output
        lines = [line for line in done.stdout.splitlines() if "rows 6" not in line]
        assert not set("".join(lines)) & set("\x1b│┃─━┏╭"), arguments
        assert max(map(cell_len, lines)) <= columns, arguments
        assert not any(line.endswith(" ") for line in done.stdout.splitlines()), arguments
        if arguments[:1] == ("filter",) and columns == 160 and "--dry-run" in arguments:
            note = "tokens of chosen / rejected / original"
            assert any(note in line and "means of" in line for line in lines), "one line"


def test_paragraphs_of_help_are_as_wide_as_the_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = cli("report", "--help").stdout
    assert "of an iteration, it shows the numbers and the answers to the same prompts side" in text


def test_files_are_named_in_full_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "runs/a-long-name-of-a-run/another-one/rows/00000.jsonl"
    found = [Finding(name, "warn", "12 bytes of an unfinished last line", "run the command again")]
    console().print(findings(found))
    assert capsys.readouterr().out.splitlines() == [
        f"warn  {name}: 12 bytes of an",
        "      unfinished last line",
        "      -> run the command again",
    ]


def test_what_one_reader_saw_is_not_said_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = {
        **{"steps": 4, "max_steps": 4, "data": {"training": 9}, "first": {}, "last": {}},
        **{"references": {"text": "references: the data"}, "comparison": {"text": "D of y+"}},
        "config": {"kind": "policy", "model": "m"},
    }
    for new_steps, is_one, is_said in ((4, True, False), (4, False, True), (0, True, True)):
        monkeypatch.setattr(training, "one_reader", lambda is_one=is_one: is_one)
        summary: Any = SimpleNamespace(
            out=Path("models/own"), manifest=manifest, new_steps=new_steps, seconds=9.0
        )
        training._show(summary, None)
        said = capsys.readouterr().out
        assert said.startswith("steps 4 of 4 on 9 rows")
        assert ("the data" in said) == ("D of y+" in said) == is_said


def test_every_bad_principle_file_is_reported(cli: Cli, tmp_path: Path) -> None:
    for name, text in (("a", "name: A\n"), ("b", "- b\n"), ("c", "{")):
        (tmp_path / f"{name}.yaml").write_text(text)
    done = cli("principles", "check", tmp_path)
    assert done.exit_code == 1
    said = [line.split(": ")[:2] for line in done.stdout.splitlines()[:3]]
    assert said == [["error", f"{name}.yaml"] for name in "abc"]
    assert done.stdout.endswith(": 0 principles, 3 errors, 0 warnings\n")
    found = json.loads(cli("principles", "check", tmp_path, "--json").stdout)
    assert [one["feature"] for one in found["findings"]] == ["a.yaml", "b.yaml", "c.yaml"]


def test_a_dry_push_writes_everything_and_needs_no_token(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    run = make_run(tmp_path / "run", [make_row(n) for n in range(4)])
    done = cli("push", run, "alice/pairs", "--dry-run", "--license", "mit", "--language", "en")
    assert done.exit_code == 0, done.output
    card = run / "push-dry-run" / "README.md"
    assert "license: mit" in card.read_text() and str(card) in done.stdout
    again = json.loads(cli("push", run, "alice/pairs", "--dry-run", "--json").stdout)
    assert {"README.md", "train.jsonl", "rows/00000.jsonl", "run.json"} <= again["files"].keys()
    assert "rows/00000.jsonl, read from " in done.stdout and "  README.md\n" in done.stdout
    assert not (run / ".push").exists()
    made = {str(file) for file in card.parent.rglob("*") if file.is_file()}
    listed = set(again["made_of"].values())
    assert made <= listed and all(Path(file).is_relative_to(run) for file in listed - made)
    before = [one for one in _verified(cli, run) if "/push-dry-run" in one["what"]]
    assert not before, "it is no run"
    assert "no run, training" in cli("verify", card.parent).stderr


def _verified(cli: Cli, run: Path) -> Any:
    return json.loads(cli("verify", run, "--json").stdout)


def test_the_next_line_can_be_run(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run", [make_row(n) for n in range(4)])
    done = cli("filter", run)
    first, second = (line for line in done.stdout.splitlines() if line.startswith("next: "))
    assert first == f"next: sso-data show '{run}'" and second.startswith("next: sso-data train")
    none = cli("filter", run, "--set", "filter.gap=9")
    (line,) = (line for line in none.stdout.splitlines() if line.startswith("next: "))
    assert line == f"next: sso-data show '{run}' --reason gap"
    assert "dropped by gap" in cli("show", run, "--reason", "gap").stdout
