"""`eval` on the tiny policy: its numbers by hand, the accounting, going on, another judge."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sso_data.generation.generate
from sso_data.config.evaluation import EvalConfig
from sso_data.config.loading import load
from sso_data.config.migration import FORMAT
from sso_data.core.errors import RunError
from sso_data.core.records import VIEWS
from sso_data.demo import demo_config
from sso_data.engines.interface import Engine
from sso_data.evaluation.judges import Oracle
from sso_data.evaluation.run import _checked, evaluate
from sso_data.evaluation.statistics import length_controlled, rate_of
from sso_data.evaluation.verdicts import Comparison, NoVerdict, Verdict
from sso_data.generation.generate import generate
from sso_data.runs.journal import read_rows
from sso_data.runs.jsonl import sealed
from sso_data.runs.workdir import write_json
from sso_data.steering.stats import principle_stats
from sso_data.world import catalogue_dir, policy_dir, queries, score
from tests.chat.server import said, serving
from tests.evaluation.conftest import SETTINGS, Eval, done, lines_of, write_prompts
from tests.tiny_runs import Silent


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal but for the time it took, and the checksum."""
    return {**a, "seconds": 0, "crc": ""} == {**b, "seconds": 0, "crc": ""}


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From now on no model may be loaded to answer."""

    def refuse(*arguments: object, **options: object) -> Engine:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(sso_data.generation.generate, "start_engine", refuse)
    yield


def test_the_numbers_are_those_of_the_answers(made: Path) -> None:
    out, told = made, (made.parent / "told").read_text()
    found = json.loads((out / "eval.json").read_text())
    rows = {row.id: row for row in read_rows(out / "model")}
    theirs = {line["id"]: line["text"] for line in lines_of(out / "against/answers.jsonl")}
    assert rows.keys() == theirs.keys()
    assert len(rows) == 12
    pairs = [(row.messages[-1].content, row.responses["plain"].text, theirs[row.id])
             for row in rows.values()]  # fmt: skip
    scores = [(score(query, mine).total, score(query, other).total) for query, mine, other in pairs]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scores]
    assert found["win_rate"] == rate_of(wins).to_json()
    assert found["win_rate"]["value"] > 0.6
    lengths = [[len(one[side]) for one in pairs] for side in (1, 2)]
    controlled = length_controlled(wins, *lengths).to_json()
    assert found["length_controlled_win_rate"] == pytest.approx(controlled)
    assert found["model"]["score"] == pytest.approx(sum(a for a, _ in scores) / 12)
    assert found["against"]["score"] == pytest.approx(sum(b for _, b in scores) / 12)
    assert found["against"]["mean_chars"] == pytest.approx(sum(lengths[1]) / 12)
    assert (found["won"], found["tied"], found["lost"]) == (
        wins.count(1.0), wins.count(0.5), wins.count(0.0))  # fmt: skip
    good = [row.mean("good", "good") > row.mean("plain", "good") > row.mean("bad", "good")
            for row in rows.values()]  # fmt: skip
    assert found["steering"]["good"] == pytest.approx(sum(good) / 12)
    effect = found["steering"]["effect"]
    both = sum(
        row.mean("good", "good") > row.mean("bad", "good")
        and row.mean("bad", "bad") > row.mean("good", "bad")
        for row in rows.values()
    )
    assert (effect["rows"], effect["contrast"]) == (12, both)
    assert f"contrast in {both} rows, reverse in {effect['reverse']}, of 12" in told
    signal = [
        (
            score(query, row.responses["good"].text).total,
            score(query, row.responses["bad"].text).total,
        )
        for row, (query, *_) in zip(rows.values(), pairs, strict=True)
    ]
    assert found["signal_accuracy"]["value"] == pytest.approx(
        sum((a > b) + 0.5 * (a == b) for a, b in signal) / 12
    )
    assert "prompts 12 = judged 12" in told
    assert (found["prompts"], found["judged"], found["failed"]) == (12, 12, {})


def test_the_other_model_answers_as_a_run_of_its_own_would(
    made: Path, prompts: Path, spoilt: Path, tmp_path: Path
) -> None:
    """A third of the sampling, and token for token the same answers."""
    out = made
    there = json.loads((out / "setup.json").read_text())
    config = EvalConfig.model_validate(there["config"]).run_config(str(spoilt))
    config = config.model_copy(
        update={"views": config.views.model_copy(update={"date": there["date"]})}
    )
    generate(str(prompts), tmp_path / "whole", config, Silent())
    whole = {row.id: row.responses["plain"] for row in read_rows(tmp_path / "whole")}
    light = {line["id"]: line for line in lines_of(out / "against/answers.jsonl")}
    assert whole.keys() == light.keys()
    for identity, response in whole.items():
        assert light[identity]["text"] == response.text
        assert light[identity]["num_tokens"] == response.num_tokens
        assert light[identity]["finish_reason"] == response.finish_reason


def test_a_model_against_itself_ties_everywhere(
    evaluated: Eval, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eval"
    options = ("--prompts", prompts, "--judge=oracle", "--out", out, "--json")
    result = done(evaluated(*options, against=policy_dir()))
    found = json.loads(result.stdout)
    assert (found["won"], found["tied"], found["lost"]) == (0, 12, 0)
    assert found["win_rate"]["value"] == found["length_controlled_win_rate"]["value"] == 0.5
    assert found["model"]["mean_tokens"] == found["against"]["mean_tokens"]
    del found["out"], found["commands"]
    stored = json.loads((out / "eval.json").read_text())
    assert stored.pop("crc") and stored == found


@pytest.mark.long
def test_two_engines_make_the_evaluation_of_one(
    evaluated: Eval, made: Path, prompts: Path, tmp_path: Path
) -> None:
    """Of either model one after the other, on processes of their own."""
    out = tmp_path / "eval"
    two = ("--engines=2", "--set=generate.engine.isolation=subprocess")
    told = done(evaluated(*two, "--prompts", prompts, "--judge=oracle", "--out", out))
    assert told.stderr.count("2 engines: transformers") == 2
    for file in ("model/rows/00000.jsonl", "against/answers.jsonl"):
        one, other = (
            {
                line["id"]: line.get("original_token_ids") or line["text"]
                for line in lines_of(at / file)
            }
            for at in (made, out)
        )
        assert one == other and len(one) == 12


def test_every_prompt_is_in_the_books(evaluated: Eval, tmp_path: Path) -> None:
    """A blank prompt fails for the models, a foreign one for the judge, a long one for its room."""
    query = queries(1, seed=3, held_out=True)[0]
    long = "why " * 3000
    texts = [query, " ", "Why is the sky blue?", long]
    prompts = write_prompts(tmp_path / "p.jsonl", texts)
    out = tmp_path / "eval"
    told = done(evaluated("--prompts", prompts, "--judge=oracle", "--out", out), 3)
    found = json.loads((out / "eval.json").read_text())
    assert found["prompts"] == 4
    assert found["judged"] == 1
    assert found["failed"] == {
        "judge.foreign_prompt": 1,
        "model.blank_prompt": 1,
        "model.prompt_too_long": 1,
    }
    assert found["signal_failed"] == {"foreign_prompt": 1}
    assert (
        "prompts 4 = judged 1 + 1 judge.foreign_prompt + 1 model.blank_prompt + "
        "1 model.prompt_too_long" in told.output
    )
    answers = {line["id"]: line.get("reason") for line in lines_of(out / "against/answers.jsonl")}
    assert sorted(filter(None, answers.values())) == ["blank_prompt", "prompt_too_long"]


def test_malformed_rows_are_prompts_that_failed(evaluated: Eval, tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "p.jsonl", [*queries(2, seed=3), 17])
    out = tmp_path / "eval"
    one_line = done(evaluated("--prompts", file, "--judge=oracle", "--out", out), 1).stderr
    assert "--skip-bad-rows" in one_line
    done(evaluated("--prompts", file, "--judge=oracle", "--out", out, "--skip-bad-rows"), 3)
    found = json.loads((out / "eval.json").read_text())
    assert (found["prompts"], found["judged"], found["failed"]) == (3, 2, {"model.malformed": 1})


@pytest.mark.usefixtures("no_engine")
def test_again_costs_nothing_and_says_the_same(evaluated: Eval, prompts: Path, place: Path) -> None:
    first = json.loads((place / "eval.json").read_text())
    done(evaluated("--prompts", prompts, "--judge=oracle", "--out", place))
    assert same(json.loads((place / "eval.json").read_text()), first)


@pytest.mark.usefixtures("no_engine")
def test_the_rule_judges_the_same_answers_by_the_checks_of_their_principles(
    evaluated: Eval, prompts: Path, place: Path, tmp_path: Path
) -> None:
    """Every principle asks for at most 10 words; the numbers are counted here once more."""
    checked = tmp_path / "checked"
    shutil.copytree(catalogue_dir(), checked)
    for file in checked.iterdir():
        file.write_text(f"{file.read_text()}\ncheck: {{max_words: 10}}\n")
    options = ("--prompts", prompts, f"--judge=rule:{checked}", "--out", place, "--json")
    found = json.loads(done(evaluated(*options)).stdout)
    rows = list(read_rows(place / "model"))

    def follows(text: str) -> float:
        return min(1.0, 10 / max(len(text.split()), 1)) if text.strip() else 0.0

    pairs = [[follows(row.responses[view].text) for view in VIEWS] for row in rows]
    signal = [0.5 if good == bad else float(good > bad) for _, good, bad in pairs]
    assert found["judge"]["name"] == "rule"
    assert found["signal_accuracy"]["value"] == pytest.approx(sum(signal) / 12)
    assert found["model"]["score"] == pytest.approx(sum(plain for plain, *_ in pairs) / 12)
    manifest = json.loads((place / "model" / "run.json").read_text())
    manifest["config"]["principles"] = str(checked)
    write_json(place / "model" / "run.json", manifest)
    for one in principle_stats(place / "model"):
        own = [
            value
            for value, row in zip(signal, rows, strict=True)
            if one.principle in row.steering.features
        ]
        assert one.signal == pytest.approx(sum(own) / len(own))


def begun_with(place: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Change setup.json, and continue with settings that do not name `max_tokens`."""
    there = json.loads((place / "setup.json").read_text())
    write_json(place / "setup.json", there | manifest)
    settings = [one.removeprefix("--set=") for one in SETTINGS if one.startswith("--set=")]
    config = load(
        EvalConfig,
        None,
        [one for one in settings if "max_tokens" not in one],
        prompts=there["config"]["prompts"],
        judge__kind="oracle",
        generate__engine__name="transformers",
        generate__principles=catalogue_dir(),
    )
    evaluate(there["model"], there["against"], config, place)
    found: dict[str, Any] = json.loads((place / "setup.json").read_text())
    return found


@pytest.mark.usefixtures("no_engine")
def test_it_goes_on_with_the_defaults_of_its_first_start(place: Path) -> None:
    """`max_tokens` as if nobody had given it and its default had been another one then."""
    there = json.loads((place / "setup.json").read_text())
    assert there["schema_version"] == FORMAT
    assert "max_tokens" not in there["defaults"]["generate"]["sampling"]
    with pytest.raises(RunError, match=r"sampling\.max_tokens is 96 there"):
        begun_with(place, {})
    defaults = {"generate": {"sampling": {"max_tokens": 96}}}
    assert begun_with(place, {"defaults": defaults})["defaults"] == defaults


@pytest.mark.usefixtures("no_engine")
def test_a_format_of_an_earlier_version_goes_on_and_a_later_one_is_refused(
    evaluated: Eval, prompts: Path, place: Path
) -> None:
    options = ("--prompts", prompts, "--judge=oracle", "--out", place)
    file = place / "setup.json"
    there = json.loads(file.read_text())
    del there["defaults"]
    engine = there["config"]["generate"]["engine"]
    engine["process"] = engine.pop("isolation")
    write_json(file, there | {"schema_version": 1})
    done(evaluated(*options))
    done(evaluated(*options, "--set=signal=false"))  # what changes is written in the new format
    found = json.loads(file.read_text())
    assert found["schema_version"] == FORMAT
    assert found["config"]["generate"]["engine"]["isolation"] == "inline"
    write_json(file, found | {"schema_version": FORMAT + 1})
    (line,) = done(evaluated(*options), 1).stderr.strip().splitlines()[-1:]
    assert f"setup.json: has format {FORMAT + 1}" in line and line.endswith("upgrade sso-data")


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (example,) = re.findall(r"## In Python\n.*?```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    made = sso_data.generate(queries(2, seed=5), "runs/second", config=demo_config())
    names: dict[str, Any] = {}
    exec(example, names)
    assert len(names["verdicts"]) == made.account.rows == 2


@pytest.mark.usefixtures("no_engine")
def test_without_a_judge_lengths_and_steering_are_told(
    evaluated: Eval, prompts: Path, place: Path
) -> None:
    judged = json.loads((place / "eval.json").read_text())
    told = done(evaluated("--prompts", prompts, "--judge=none", "--out", place)).output
    assert "prompts 12 = answered 12" in told
    assert "win rate" not in told
    found = json.loads((place / "eval.json").read_text())
    assert found["steering"] == judged["steering"]
    assert "win_rate" not in found
    assert found["signal_accuracy"] is None


@pytest.mark.usefixtures("no_engine")
def test_another_judge_judges_the_same_answers(
    evaluated: Eval, prompts: Path, place: Path, tmp_path: Path
) -> None:
    out = place
    (tmp_path / "mine.py").write_text("def first(cs): return [1.0] * len(cs)\n")
    judge = f"--judge=python:{tmp_path}/mine.py:first"
    done(evaluated("--prompts", prompts, judge, "--out", out))
    found = json.loads((out / "eval.json").read_text())
    assert found["win_rate"]["value"] == 1.0
    assert found["model"]["score"] is None
    assert found["judge"]["kind"] == "python"
    names = sorted(path.name.partition("-")[0] for path in (out / "judges").iterdir())
    assert names == ["oracle", "python"]
    with serving(lambda body, attempt: said('{"reason": "", "better": "first"}')) as server:
        llm = ("--judge=llm:big", f"--judge-endpoint={server.url}")
        told = done(evaluated("--prompts", prompts, *llm, "--out", out, "--set=signal=false"))
        assert len(server.bodies) == 24
    assert "0 won, 0 tied, 12 contradicted, 0 lost" in told.output
    assert "the judge: both orders agree 0.0%, first place 100.0%" in told.output
    assert "warning: the win rate says little: both orders agree 0.0%" in told.output
    found = json.loads((out / "eval.json").read_text())
    assert found["win_rate"]["value"] == 0.5
    assert (found["agreement"], found["signal_accuracy"]) == (0.0, None)
    assert (found["first_share"], found["contradicted"], found["tied"]) == (1.0, 12, 0)


@pytest.mark.usefixtures("no_engine")
def test_a_judge_that_fails_is_asked_again_for_what_is_missing(
    evaluated: Eval, prompts: Path, place: Path
) -> None:
    """The endpoint gives no verdicts at first; a second call asks about those pairs alone."""
    out, broken = place, {"is": True}
    good = '{"reason": "", "better": "tie"}'

    def say(body: dict[str, Any], attempt: int) -> Any:
        about = body["messages"][-1]["content"].split("Request:")[1].split("=====")[1]
        return said("no idea") if broken["is"] and len(about) % 2 else said(good)

    with serving(say) as server:
        options = ("--prompts", prompts, "--judge=llm:big", f"--judge-endpoint={server.url}",
                   "--out", out, "--set=signal=false")  # fmt: skip
        done(evaluated(*options), 3)
        found = json.loads((out / "eval.json").read_text())
        failed = found["failed"]["judge.no_verdict"]
        assert 0 < failed < 12
        assert found["win_rate"]["n"] == 12 - failed
        broken["is"] = False
        before = len(server.bodies)
        done(evaluated(*options))
        assert len(server.bodies) - before == 2 * failed
    assert json.loads((out / "eval.json").read_text())["judged"] == 12


def test_an_interrupted_judge_goes_on(
    evaluated: Eval, prompts: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after five verdicts: they are kept, the hint says how to go on, the rest follows."""
    plain = Oracle.compare
    calls = {"number": 0}

    def interrupted(
        self: Oracle, comparisons: Sequence[Comparison]
    ) -> Iterator[Verdict | NoVerdict]:
        for verdict in plain(self, comparisons):
            calls["number"] += 1
            if calls["number"] == 6:
                raise KeyboardInterrupt
            yield verdict

    out = place
    shutil.rmtree(out / "judges")
    options = ("--prompts", prompts, "--judge=oracle", "--out", out)
    monkeypatch.setattr(Oracle, "compare", interrupted)
    told = done(evaluated(*options), 130)
    assert f"every answer and verdict is safe in {out}" in told.stderr
    (journal,) = (out / "judges").glob("*/verdicts.jsonl")
    with journal.open("ab") as stream:
        stream.write(b'{"key": "torn')
    done(evaluated(*options))
    assert calls["number"] == 6 + 24 - 5
    keys = [line["key"] for line in lines_of(journal)]
    assert len(keys) == len(set(keys)) == 1 + 24


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("against/answers.jsonl", {"id": "a", "reason": "blank_prompt"}),
        ("against/answers.jsonl", {"id": "a", "text": "", "num_tokens": 1, "finish_reason": 3}),
        ("judges/*/verdicts.jsonl", {"key": "a"}),
        ("judges/*/verdicts.jsonl", {"key": "a", "preference": 1.0, "mood": "good"}),
    ],
)
def test_a_stored_line_of_another_form_is_named(
    evaluated: Eval, prompts: Path, place: Path, file: str, line: dict[str, Any]
) -> None:
    (path,) = place.glob(file)
    with path.open("ab") as stream:
        stream.write(sealed(line))
    told = done(evaluated("--prompts", prompts, "--judge=oracle", "--out", place), 1).stderr
    number = len(lines_of(path))
    expected = f"error: {path}:{number}: not a valid line; remove the line"
    assert told.strip().splitlines()[-1] == expected


def test_what_is_another_evaluation_is_refused(
    evaluated: Eval, prompts: Path, spoilt: Path, place: Path, tmp_path: Path
) -> None:
    out = place
    options = ("--prompts", prompts, "--judge=oracle", "--out", out)

    def refused(*more: object, **models: object) -> str:
        lines = done(evaluated(*options, *more, **models), 1).stderr.strip().splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1]

    text = refused("--set=generate.sampling.temperature=0.9")
    assert "holds another evaluation: sampling.temperature is 0.7 there and 0.9 here" in text
    assert "--overwrite" in text
    assert "seed is 0 there and 1 here" in refused("--seed=1")
    assert "against.model is" in refused(against=policy_dir())
    assert "model is" in refused(model=spoilt)
    assert "holds answers to 2 prompts that are missing from the source" in refused("--limit=10")
    more = tmp_path / "more.jsonl"
    more.write_text(prompts.read_text() + json.dumps({"prompt": queries(1, seed=99)[0]}) + "\n")
    done(evaluated("--prompts", more, *options[2:]))
    assert json.loads((out / "eval.json").read_text())["judged"] == 13
    done(evaluated(*options, "--limit=3", "--seed=1", "--overwrite"))
    assert json.loads((out / "eval.json").read_text())["prompts"] == 3
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("x")
    text = done(evaluated("--prompts", prompts, "--judge=oracle", "--out", stranger), 1).stderr
    assert "not empty and not an evaluation (it holds thesis.txt)" in text
    assert (stranger / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--judge=oracel",),
            "--judge oracel: write it as oracle, rule, rule:CATALOGUE, reward:MODEL",
        ),
        (("--judge-endpoint=http://x/v1",), "name the model there with --judge llm:MODEL"),
        (("--judge=reward:/no/where",), "/no/where: no such model directory"),
        (
            ("--judge=python:nothing_here_at_all:f",),
            "judge nothing_here_at_all:f: cannot be loaded",
        ),
        (("--judge=oracle", "--set=judge.engines=1"), "docs/evaluation.md"),
        (("--judge=oracle", "--set=generate.seed=3"), "generate.seed is set by the evaluation"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    evaluated: Eval, prompts: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "eval"
    result = done(evaluated("--prompts", prompts, "--out", out, *options), 1)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert not out.exists()


def test_without_prompts_it_says_so(evaluated: Eval, tmp_path: Path) -> None:
    assert "no prompts given" in done(evaluated("--out", tmp_path / "e"), 1).stderr


LM_EVAL = {
    "--model", "--model_args", "--tasks", "--apply_chat_template", "--fewshot_as_multiturn",
    "--batch_size", "--output_path",
}  # fmt: skip
"""Options of `lm_eval run` in lm_eval 0.4.13, as far as the command uses them."""


def test_answers_for_benchmarks_and_the_commands(evaluated: Eval, tmp_path: Path) -> None:
    query, other = queries(2, seed=9, held_out=True)
    turns = [{"role": "user", "content": query}, {"role": "assistant", "content": "Yes."},
             {"role": "user", "content": other}]  # fmt: skip
    rows = [{"prompt": query, "id": 1}, {"prompt": turns, "question_id": 81}]
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "an eval's"
    done(evaluated("--prompts", prompts, "--judge=oracle", "--out", out))
    exports = out / "exports"
    mine = json.loads((exports / "alpaca-eval/model_outputs.json").read_text())
    theirs = json.loads((exports / "alpaca-eval-reference/model_outputs.json").read_text())
    assert [one["instruction"] for one in mine] == [one["instruction"] for one in theirs] == [query]
    assert (mine[0]["generator"], theirs[0]["generator"]) == ("policy", "spoilt")
    answers = {line["text"] for line in lines_of(out / "against/answers.jsonl")}
    assert theirs[0]["output"] in answers
    (bench,) = lines_of(exports / "mt-bench/policy.jsonl")
    (reference,) = lines_of(exports / "mt-bench-reference/spoilt.jsonl")
    assert bench["question_id"] == reference["question_id"] == 81
    assert bench["choices"][0]["turns"][0] == reference["choices"][0]["turns"][0] == "Yes."
    assert reference["model_id"] == "spoilt"
    script = out / "commands.sh"
    assert script.read_text().startswith("#!/usr/bin/env bash\n# Benchmarks")
    called = calls_of(script, tmp_path)
    lm_eval = called["lm_eval"][0]
    assert {word for word in lm_eval if word.startswith("--")} == LM_EVAL
    assert lm_eval[3:5] == ["--model_args", f"pretrained={policy_dir().resolve()},dtype=float32"]
    assert lm_eval[-1] == str(exports / "lm-eval")
    head_to_head, leaderboard = called["alpaca_eval"]
    assert head_to_head[4] == str(exports / "alpaca-eval-reference/model_outputs.json")
    assert leaderboard[1:] == ["--model_outputs", str(exports / "alpaca-eval/model_outputs.json")]
    assert [call[1:] for call in called["python"]] == [
        ["gen_judgment.py", "--model-list", "policy", "spoilt", "--parallel", "2"],
        ["show_result.py", "--model-list", "policy", "spoilt"],
    ]
    there = tmp_path / "FastChat/fastchat/llm_judge/data/mt_bench/model_answer"
    assert sorted(path.name for path in there.iterdir()) == ["policy.jsonl", "spoilt.jsonl"]


def calls_of(script: Path, folder: Path) -> dict[str, list[list[str]]]:
    """What a script calls, by program, each call with all its words."""
    programs, fastchat = folder / "bin", folder / "FastChat"
    programs.mkdir()
    (fastchat / "fastchat/llm_judge/data/mt_bench/model_answer").mkdir(parents=True)
    log = folder / "calls"
    for name in ("lm_eval", "alpaca_eval", "python"):
        program = programs / name
        program.write_text(f"#!/usr/bin/env bash\nprintf '%s\\n' {name} \"$@\" . >> '{log}'\n")
        program.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "FASTCHAT": str(fastchat)}
    subprocess.run(["bash", "-eu", str(script)], check=True, env=environment)
    found: dict[str, list[list[str]]] = {}
    for call in log.read_text().removesuffix("\n.\n").split("\n.\n"):
        words = call.split("\n")
        found.setdefault(words[0], []).append(words)
    return found


def test_a_configuration_survives_its_own_dump() -> None:
    config = EvalConfig.model_validate({"prompts": "p", "judge": {"kind": "oracle"}, "seed": 3})
    assert EvalConfig.model_validate(config.model_dump(mode="json")) == config


def test_an_adapter_is_part_of_the_evaluated_model_alone(prompts: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(2)}, adapter / "adapter_model.safetensors")
    config = EvalConfig.model_validate(
        {
            "prompts": str(prompts),
            "generate": {"engine": {"adapter": str(adapter), "name": "transformers"}},
        }
    )
    plan = _checked(str(policy_dir()), str(policy_dir()), config, tmp_path / "out", overwrite=False)
    base, _, added = plan.model.identity["model"].partition("+")
    assert len(added) == 32
    assert plan.against.identity["model"] == base
    assert plan.against.config.engine.adapter is None
