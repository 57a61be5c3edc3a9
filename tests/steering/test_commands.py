"""The commands with models that steer: generate, preview, retry, and everything of `principles`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.publishing.public import public_json
from sso_data.steering.principles import load_catalogue
from sso_data.world import catalogue_dir, policy_dir, queries
from tests.chat.server import Reply, ScriptedServer, failed, said, serving
from tests.steering.scripted import GOOD_PAIR

KEY = "topsecret-0123456789"
INLINE = (
    f"--model={policy_dir()}",
    f"--principles={catalogue_dir()}",
    "--engine=transformers",
    "--set=engine.isolation=inline",
    "--set=engine.dtype=float32",
    "--set=sampling.max_tokens=24",
    "--set=steering.max_tokens=16",
)

Cli = Callable[..., Result]


@pytest.fixture
def cli() -> Cli:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Six queries, the first of them twice, and a blank one."""
    texts = queries(6, seed=5)
    rows = [{"prompt": text} for text in (*texts, texts[0], " ")]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pair(body: dict[str, Any], attempt: int) -> Reply:
    """A pair of the question's own, so that rows can be told apart."""
    number = len(body["messages"][-1]["content"])
    return said(GOOD_PAIR.replace("likely", f"{number} likely"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(pair) as running:
        yield running


def writer(server: ScriptedServer, name: str = "team/big") -> tuple[str, ...]:
    return (f"--principle-model={name}", f"--set=steering.endpoint={server.url}")


def done(result: Result, code: int = 0) -> Result:
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_endpoint_writes_the_principles_of_a_run(
    cli: Cli, prompts: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("generate", prompts, "--out", out, *INLINE, *writer(server), "--json")
    result = done(cli(*command), 3)
    summary = json.loads(result.stdout)
    rows = {row["id"]: row for row in lines_of(out / "rows" / "00000.jsonl")}
    assert summary["steering"]["prompts"] == len(rows) == 7
    assert summary["steering"]["choices"] == 0
    for row in rows.values():
        assert set(row["written_by"]) == {"team/big"}
        assert row["chosen_by"] == "random"
        assert set(row["paraphrase_good"]) == {0}
        assert row["system_template"] in ("system.j2", "system_2.j2", "system_3.j2")
        assert all(f"- {text}\n" in row["system_good"] for text in row["principles_good"])
        assert all(f"- {text}\n" in row["system_bad"] for text in row["principles_bad"])
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["steering"] == summary["steering"]
    assert manifest["identity"]["steering.writer"] == "endpoint:team/big"
    assert server.url not in public_json(manifest).decode()
    for file in out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()
    assert KEY not in result.stderr
    asked = len(server.bodies)
    twin = sorted(row["id"] for row in rows.values())
    assert any(one.endswith("-1") for one in twin)
    with serving(lambda body, attempt: failed(500)) as another:
        again = cli(*command, f"--set=steering.endpoint={another.url}")
        assert json.loads(done(again, 3).stdout)["new_rows"] == 0
        assert another.bodies == []
    assert len(server.bodies) == asked
    other = cli("generate", prompts, "--out", out, *INLINE, *writer(server, "team/huge"))
    assert "steering.writer is" in done(other, 1).stderr


def test_a_policy_that_cannot_choose_falls_back_and_the_run_says_so(
    cli: Cli, prompts: Path, tmp_path: Path
) -> None:
    """The tiny policy understands nothing of the shipped few-shot chat."""
    out, plain = tmp_path / "run", tmp_path / "plain"
    choose = ("--set=steering.choose=policy", "--set=steering.principles=written")
    result = done(cli("generate", prompts, "--out", out, *INLINE, *choose, "--limit", 2))
    assert "2 choices: 0 by the policy, 2 by rule (100.0%)" in result.stdout
    assert "principles: 0 written" in result.stdout
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert any("the rule chose the features of 100% of the prompts" in one for one in warnings)
    assert any("the catalogue gave 100% of the principles" in one for one in warnings)
    done(cli("generate", prompts, "--out", plain, *INLINE, "--limit", 2))
    by_id = {row["id"]: row for row in lines_of(plain / "rows" / "00000.jsonl")}
    for row in lines_of(out / "rows" / "00000.jsonl"):
        expected = by_id[row["id"]]
        assert row["chosen_by"] == "fallback"
        for key in ("principles", "principles_good", "system_bad", "chosen_token_ids"):
            assert row[key] == expected[key], "exactly what random would have made"


def test_a_source_is_read_twice_whatever_steers(
    cli: Cli, prompts: Path, tmp_path: Path, opened_sources: list[str]
) -> None:
    choose = ("--set=steering.choose=policy", "--set=steering.principles=written")
    done(cli("generate", prompts, "--out", tmp_path / "run", *INLINE, *choose, "--limit", 2))
    assert opened_sources == [str(prompts)] * 2


def test_by_rule_no_file_is_written(cli: Cli, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done(cli("generate", prompts, "--out", out, *INLINE, "--limit", 1))
    assert not (out / "steering.jsonl").exists()
    assert "steering" not in json.loads((out / "run.json").read_text())


def test_retry_steers_what_failed(
    cli: Cli, prompts: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    short = (*INLINE, *writer(server), "--set=engine.max_model_len=64")
    done(cli("generate", prompts, "--out", out, *short, "--limit", 2), 3)
    failures = lines_of(out / "failed.jsonl")
    assert {one["reason"] for one in failures} == {"prompt_too_long"}
    asked = len(server.bodies)
    result = done(cli("retry", out), 3)
    assert f"0 of {len(failures)} failed prompts are rows now" in result.stdout
    assert len(server.bodies) == asked, "what was written is known"


def test_a_preview_asks_and_writes_nothing(
    cli: Cli, prompts: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    settings = (
        "--set=steering.principles=written",
        "--set=steering.principle_model=team/big",
        f"--set=steering.endpoint={server.url}",
    )
    before = set(tmp_path.rglob("*"))
    result = done(cli("preview", prompts, "-n", 2, *INLINE, *settings, "--json"))
    rows = json.loads(result.stdout)["rows"]
    assert [row["written_by"] for row in rows] == [
        ["team/big"] * len(row["principles"]) for row in rows
    ]
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["steering.choose=none"], "set steering.principles=written"),
        (["steering.endpoint=http://localhost:1/v1"], "name its model in steering.principle_model"),
        (["steering.principle_model=x"], "set steering.principles=written"),
        (["steering.endpoint=ftp://x"], "write an address such as http://host:8000/v1"),
        (["steering.endpoint=http://user:pw@host/v1"], "without a key in it"),
        (["steering.endpoint=http://host/v1?key=x"], "without a key in it"),
        (["steering.api_key_env=sk-12 34"], "steering.api_key_env"),
        (["steering.choose=policy", "steering.count=7"], "the policy chooses from 7"),
        (["templates=nowhere"], "nowhere: not a directory of templates"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line(
    settings: list[str], words: str, cli: Cli, prompts: Path, tmp_path: Path
) -> None:
    options = [f"--set={setting}" for setting in settings]
    result = done(cli("generate", prompts, "--out", tmp_path / "run", *INLINE, *options), 1)
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line


def principle(number: int, **changes: Any) -> dict[str, Any]:
    names = ("Candour", "Rigour", "Warmth", "Economy")
    return {
        "name": names[number],
        "adjectives": {"good": f"Good{number}", "bad": f"Poor{number}"},
        "meaning": f"Whether it is {names[number]}.",
        "good": f"Bring out {names[number]} in the first sentence and keep it up to the end.",
        "bad": f"Let go of {names[number]} in the first sentence, then drop it to the end.",
        **changes,
    }


def made(*principles: dict[str, Any]) -> Reply:
    return said(json.dumps({"principles": list(principles)}))


def new(cli: Cli, server: ScriptedServer, out: Path, number: int = 2) -> Result:
    endpoint = ("--endpoint", server.url, "--model", "team/big")
    return cli("principles", "new", "legal work: careful", *endpoint, "--out", out, "-n", number)


def test_a_new_catalogue_loads_and_passes_its_check(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "legal"
    odd = principle(2, name="Wärme / Licht", extra="x")
    with serving(lambda body, attempt: made(principle(0), principle(1), odd)) as server:
        result = done(new(cli, server, out, 3))
    assert f"next: sso-data principles check {out}" in result.stdout
    assert sorted(file.name for file in out.iterdir()) == [
        "candour.yaml",
        "rigour.yaml",
        "warme_licht.yaml",
    ]
    assert list(load_catalogue(out).principles) == ["Candour", "Rigour", "Wärme / Licht"]
    assert yaml.safe_load((out / "candour.yaml").read_text())["good"] == principle(0)["good"]
    assert "legal work: careful" in server.bodies[0]["messages"][-1]["content"]
    assert "3 principles, 0 errors" in done(cli("principles", "check", out)).stdout
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_what_cannot_be_used_is_asked_for_again(cli: Cli, tmp_path: Path) -> None:
    """Answers: prose, one of two valid, a duplicate, and the missing one at last."""
    replies = [
        said("I would rather not."),
        made(principle(0), principle(1, good="", bad="x")),
        made(principle(0)),
        made(principle(1, bad=principle(1)["good"])),
        made(principle(3)),
    ]
    left = iter(replies)
    with serving(lambda body, attempt: next(left)) as running:
        done(new(cli, running, tmp_path / "legal"))
    asked = [body["messages"][-1]["content"] for body in running.bodies]
    assert len(asked) == 5
    assert "Write 2 features" in asked[1]
    assert all("Write 1 feature." in text and "Candour" in text for text in asked[2:])
    assert list(load_catalogue(tmp_path / "legal").principles) == ["Candour", "Economy"]


def test_too_few_principles_are_kept_and_every_answer_is_told_of(cli: Cli, tmp_path: Path) -> None:
    with serving(lambda body, attempt: made(principle(0))) as server:
        result = done(new(cli, server, tmp_path / "legal"), 3)
    assert list(load_catalogue(tmp_path / "legal").principles) == ["Candour"]
    assert "1 of 2 principles could be made; ask for the others" in result.stderr
    told = [line for line in result.stderr.splitlines() if "of at most 6" in line]
    assert len(told) == 5
    assert all("Candour: differs from Candour in case only" in line for line in told)
    assert "0/2 principles, answer 1" in result.stderr


def test_without_any_principle_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    refusal = principle(0, bad="I'm sorry, but I cannot help with that.")
    with serving(lambda body, attempt: made(refusal)) as server:
        result = done(new(cli, server, tmp_path / "legal"), 1)
    assert "none of 2 principles could be made of 6 answers" in result.stderr.splitlines()[-1]
    assert "warning: answer 6 of at most 6: Candour: refusal" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_before_the_server_failed_is_kept(cli: Cli, tmp_path: Path) -> None:
    replies = iter((made(principle(0)), failed(401, "who are you")))
    with serving(lambda body, attempt: next(replies)) as server:
        result = done(new(cli, server, tmp_path / "legal"), 1)
    assert f"1 of 2 principles are in {tmp_path / 'legal'}" in result.stderr
    assert list(load_catalogue(tmp_path / "legal").principles) == ["Candour"]


def test_new_takes_templates(cli: Cli, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "new_principles.j2").write_text("{{ count }} for {{ description }}, not {{ taken }}")
    with serving(lambda body, attempt: made(principle(0), principle(1))) as server:
        endpoint = ("--endpoint", server.url, "--model", "big", "--templates", own)
        done(cli("principles", "new", "a", *endpoint, "--out", tmp_path / "legal", "-n", 2))
    assert server.bodies[0]["messages"][-1]["content"] == "2 for a, not []"


def test_an_existing_directory_is_refused_before_anything_is_asked(
    cli: Cli, tmp_path: Path
) -> None:
    with serving(lambda body, attempt: made(principle(0))) as server:
        result = done(new(cli, server, tmp_path), 1)
    assert "exists already; name a new directory with --out" in result.stderr
    assert server.bodies == []


def test_new_and_write_want_a_model(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    result = done(cli("principles", "new", "x", "--out", tmp_path / "legal"), 1)
    assert "no model given: add --model DIRECTORY_OR_HUB_ID, or --endpoint URL" in result.stderr
    assert "no model given" in done(cli("principles", "write", prompts), 1).stderr


def test_write_shows_lines_in_the_order_of_the_queries(
    cli: Cli, prompts: Path, server: ScriptedServer
) -> None:
    endpoint = ("--endpoint", server.url, "--model", "team/big")
    result = done(cli("principles", "write", prompts, *endpoint, "-n", 4))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    texts = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    assert [line["prompt"][0]["content"] for line in lines] == texts[:4]
    assert {name for line in lines for name in line["written_by"]} == {"team/big"}
    assert "written, 0 from the catalogue (0.0%)" in result.stderr
    assert "writing principles" in result.stderr
    assert "0/4 prompts steered" in result.stderr
    refused = cli("principles", "write", prompts, *endpoint, "--set=steering.choose=policy")
    assert "an endpoint cannot choose features" in done(refused, 1).stderr


def test_write_with_the_policy_itself(cli: Cli, prompts: Path) -> None:
    options = [one for one in INLINE if not one.startswith("--set=sampling")]
    result = done(cli("principles", "write", prompts, *options, "-n", 1))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["written_by"] for line in lines] == [
        ["catalogue"] * len(line["principles"]) for line in lines
    ]


def test_check_says_what_is_wrong_and_ends_accordingly(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(principle(0)))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(principle(1, bad="Drop it.")))
    result = done(cli("principles", "check", tmp_path), 1)
    assert "error: Rigour: a side is" in result.stdout
    found = json.loads(done(cli("principles", "check", tmp_path, "--json"), 1).stdout)
    assert {one["severity"] for one in found["findings"]} >= {"error"}
    (tmp_path / "b.yaml").write_text(
        yaml.safe_dump(principle(1, good="Keep to it, firmly.", bad="Drop it at once, do."))
    )
    assert "0 errors" in done(cli("principles", "check", tmp_path)).stdout


def test_stats_of_a_run(cli: Cli, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    missing = done(cli("principles", "stats", out), 1)
    assert "no such directory; make a run" in missing.stderr
    done(cli("generate", prompts, "--out", out, *INLINE, "--set=filter.drop_truncated=false"), 3)
    rows = lines_of(out / "rows" / "00000.jsonl")
    kept = {row["id"] for row in lines_of(out / "pairs" / "train.jsonl")}
    found = json.loads(done(cli("principles", "stats", out, "--json")).stdout)
    for one in found:
        mine = [row for row in rows if one["principle"] in row["principles"]]
        assert one["rows"] == len(mine)
        assert one["kept"] == sum(row["id"] in kept for row in mine)
        gap = [
            (row["logp_good_good"] - row["logp_bad_good"]) / row["chosen_num_tokens"]
            for row in mine
        ]
        below = [
            row["logp_plain_plain"] / row["original_num_tokens"]
            - row["logp_plain_bad"] / row["rejected_num_tokens"]
            for row in mine
        ]
        assert one["gap_good"] == pytest.approx(sum(gap) / len(gap))
        assert one["below_rejected"] == pytest.approx(sum(below) / len(below))
    assert {one["principle"] for one in found} == {
        name for row in rows for name in row["principles"]
    }
    shares = [one["kept_share"] for one in found]
    assert shares == sorted(shares, reverse=True)
    words = json.loads(done(cli("principles", "stats", out, "--wordings", "--json")).stdout)
    for one in found:
        parts = [w for w in words if w["principle"] == one["principle"] and w["wording"]]
        assert sum(w["rows"] for w in parts) == one["rows"]
    assert "share" in done(cli("principles", "stats", out)).stdout
