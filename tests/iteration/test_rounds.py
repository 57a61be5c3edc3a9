"""Rounds of the tiny policy: lineage, accounting, going on, other kinds, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sso_data.cli.app import app
from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.config.migration import FORMAT
from sso_data.core.errors import InputError, ModelError, RunError
from sso_data.core.records import Row, View
from sso_data.core.trees import deep_merge
from sso_data.generation import generate as generation
from sso_data.iteration import report as iteration_report
from sso_data.iteration.report import Iterated, read_iteration
from sso_data.iteration.run import iterate
from sso_data.iteration.table import shown
from sso_data.iteration.training import Training
from sso_data.models.directory import model_fingerprint
from sso_data.runs.columns import representative, row_key
from sso_data.runs.files import locked_file
from sso_data.runs.journal import load_scores, read_rows
from sso_data.runs.workdir import write_json
from sso_data.templating.chat_template import load_tokenizer
from sso_data.world import policy_dir
from tests.iteration.conftest import PROMPTS, TINY, Heard, lines_of, run, tiny, train_here
from tests.reporting.test_report import index_of


def never(training: Training) -> None:
    raise AssertionError("trained again")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("iterate") / "out"


@pytest.fixture(scope="module")
def done(prompts: Path, out: Path) -> Iterated:
    """Two rounds."""
    return run(tiny(prompts), out)


@pytest.fixture
def copied(done: Iterated, out: Path, tmp_path: Path) -> Path:
    """The two rounds, to be changed."""
    return Path(shutil.copytree(out, tmp_path / "out"))


def rows_of(folder: Path) -> list[Row]:
    return list(read_rows(folder))


def longer_wins(folder: Path) -> str:
    """A judge to whom the longer answer is better; it scores nothing by itself."""
    (folder / "judge.py").write_text(
        "def said(one):\n"
        "    a, b = len(one['a']), len(one['b'])\n"
        "    return 0.5 + 0.5 * ((a > b) - (a < b))\n"
        "def longer(comparisons):\n"
        "    return [said(one) for one in comparisons]\n"
    )
    return f"{folder / 'judge.py'}:longer"


def content(folder: Path) -> dict[Path, bytes]:
    """Every file but locks, byte for byte."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return {file.relative_to(folder): file.read_bytes() for file in files}


def test_lineage(done: Iterated, out: Path) -> None:
    manifest = json.loads((out / "iterate.json").read_text())
    first, second = manifest["rounds"]
    assert first["policy"]["fingerprint"] == model_fingerprint(policy_dir())
    assert second["policy"] == first["model"]
    assert done.policy.to_json() == second["model"]
    seen: list[str] = []
    for one in (first, second):
        place = out / f"round-{one['round']}"
        rows = rows_of(place / "run")
        assert {row.model_fingerprint for row in rows} == {one["policy"]["fingerprint"]}
        assert {json.loads(row.metadata)["round"] for row in rows} == {one["round"]}
        assert model_fingerprint(place / "model") == one["model"]["fingerprint"]
        trained = json.loads((place / "model" / "train.json").read_text())
        assert trained["data"]["fingerprint"] == one["data"]
        assert trained["model"]["fingerprint"] == one["policy"]["fingerprint"]
        assert trained["references"]["source"] == "recorded"
        seen += [row.source_id or "" for row in rows]
        assert json.loads((place / "run" / "run.json").read_text())["peoples_chats"] is True
    assert sorted(seen) == sorted(f"q{number}" for number in range(2 * PROMPTS)), "disjoint"


def test_policies_are_carried_in_float32(done: Iterated, out: Path) -> None:
    """Nothing that a round trained is rounded away before the next one, and the table says so."""
    for number, line in enumerate(done.lines, start=1):
        model = out / f"round-{number}" / "model"
        tensors = load_file(model / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert any(not torch.equal(t.bfloat16().float(), t) for t in tensors.values())
        left = json.loads((model / "train.json").read_text())["comparison"]
        assert line["train_d_memory"] == line["train_d_saved"] == left["memory"][0]
        assert [line["train_d_loaded"], *line["train_d_loaded_interval"]] == left["loaded"]
        assert line["train_changed_saved"] > line["train_changed_loaded"] > 0
    shown_rows = dict(shown(done.lines))
    assert "D over the start, same rows: in memory / saved / in bfloat16" in shown_rows


def test_a_round_that_trains_nothing_stops(prompts: Path, tmp_path: Path) -> None:
    """A rate that moves no weight in bfloat16: the training fails, and the iteration says why."""
    nothing = {"optim": {"lr": 1e-12, "max_steps": 1}}
    config = tiny(prompts, rounds=2, carry_float32=False, train=nothing)
    for _ in range(2):
        ended = run(config, tmp_path / "out")
        assert ended.stop is not None and ended.stop.rule == "nothing_trained"
        assert ended.policy.path == str(policy_dir()) and len(ended.lines) == 1
        assert any("no weight of its policy differs" in text for text in ended.verdict)


def test_books_and_table(done: Iterated, out: Path) -> None:
    found = done.to_json()["totals"]
    assert found["prompts"] == 2 * PROMPTS == found["rows"] + found["failed"]
    lines = lines_of(out / "rounds.jsonl")
    assert lines == list(done.lines)
    for line in lines:
        for key in ("accuracy_kept", "unprompted", "closeness_chosen", "gap", "tokens_original"):
            assert line[key] is not None
        assert line["train_rows"] == line["kept"]
        assert line["train_margin_base"] is not None
    page = index_of(out / "report.html")
    every = (*page["tables"], *page["last_tables"])
    tables = {one["title"]: one["rows"] for one in every}
    assert [one[-1] for one in tables["Lineage"]][-1] == done.policy.fingerprint
    assert {name: cells for name, *cells in tables["Rounds"]} == dict(shown(done.lines))
    assert page["verdict"][-1] == done.account and "the policy: round-2/model" in page["verdict"][0]
    assert page["notes"] == ["They have no prompt in common: no answers stand side by side."]
    assert tables["Judges"][0][0] == "oracle: chosen against rejected"
    assert "length (tokens)" in [one["title"] for one in page["curves"]]


def test_the_report_of_an_iteration_again(done: Iterated, out: Path, tmp_path: Path) -> None:
    """The command makes the page from the directory alone; it holds a removed round's table."""
    assert read_iteration(out).to_json() | {"new_rounds": 2, "seconds": 0} == done.to_json() | {
        "seconds": 0
    }
    there = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(there / "round-1/run")
    words = ["report", str(there), "--single", "--out", str(tmp_path / "page"), "--json"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    page = index_of(Path(json.loads(told.stdout)["page"]))
    assert "Of 1 rounds there are no rows to show." in page["verdict"]
    assert str(tmp_path).encode() not in orjson.dumps(page)


def test_the_numbers_are_those_of_the_rows(done: Iterated, out: Path) -> None:
    """The table against a plain computation from the journal."""
    rows = rows_of(out / "round-1" / "run")
    line = done.lines[0]

    def mean(values: list[float]) -> Any:
        return pytest.approx(sum(values) / len(values), abs=1e-5)

    assert line["tokens_chosen"] == mean([row.responses["good"].num_tokens for row in rows])
    assert line["tokens_original"] == mean([row.responses["plain"].num_tokens for row in rows])
    own = [row.mean("plain", "plain") for row in rows]
    pairs = list(zip(own, rows, strict=True))
    assert line["closeness_chosen"] == mean([a - row.mean("plain", "good") for a, row in pairs])
    assert line["closeness_rejected"] == mean([a - row.mean("plain", "bad") for a, row in pairs])
    assert line["gap_bad"] == mean([r.mean("bad", "bad") - r.mean("good", "bad") for r in rows])
    steered = [
        row.mean("good", "good") > row.mean("plain", "good") > row.mean("bad", "good")
        and row.mean("bad", "bad") > row.mean("plain", "bad") > row.mean("good", "bad")
        for row in rows
    ]
    assert line["steered"] == mean([float(one) for one in steered])


def test_a_finished_iteration_is_not_done_again(
    done: Iterated, copied: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(copied)
    progress = Heard()
    again = run(tiny(prompts), copied, progress, by=never)
    assert again.lines == done.lines and again.new_rounds == 0
    assert not any("generating" in heading for heading in progress.notes)
    after = content(copied)
    moved = {Path("iterate.json")}  # it names where the model lies
    assert {file for file in before if before[file] != after[file]} <= moved
    monkeypatch.setattr(iteration_report, "contents", None)
    run(tiny(prompts), copied, by=never)  # the page is up to date, and no row is read
    (copied / "round-1/run/run.json").touch()
    with pytest.raises(TypeError):
        run(tiny(prompts), copied, by=never)


def test_more_rounds_later(done: Iterated, copied: Path, prompts: Path) -> None:
    before = content(copied / "round-2")
    more = run(tiny(prompts, rounds=3), copied)
    assert more.new_rounds == 1 and [line["round"] for line in more.lines] == [1, 2, 3]
    assert list(more.lines[:2]) == list(done.lines)
    assert content(copied / "round-2") == before
    with pytest.raises(InputError, match="5 rounds of 8 need 40"):
        run(tiny(prompts, rounds=5), copied)


def test_interrupted_steps_go_on(copied: Path, prompts: Path, done: Iterated) -> None:
    """A round whose last marks are missing: what its steps left is taken, not made again."""
    manifest = json.loads((copied / "iterate.json").read_text())
    manifest["rounds"].pop()
    write_json(copied / "iterate.json", manifest)
    file = copied / "round-2" / "round.json"
    facts = json.loads(file.read_text())
    facts["steps"] = {"sliced": facts["steps"]["sliced"]}
    write_json(file, facts)
    (copied / "rounds.jsonl").unlink()
    again = run(tiny(prompts), copied, by=never)
    assert again.lines == done.lines and again.new_rounds == 1


def test_it_goes_on_with_the_defaults_of_its_first_start(
    copied: Path, prompts: Path, done: Iterated
) -> None:
    """`max_tokens` as if nobody had given it and its default had been another one then."""
    file = copied / "iterate.json"
    manifest = json.loads(file.read_text())
    assert manifest["schema_version"] == FORMAT
    assert manifest["defaults"]["held_out"]["judged_rows"] == 1000
    assert "max_tokens" not in manifest["defaults"]["generate"]["sampling"]
    manifest["defaults"]["generate"]["sampling"]["max_tokens"] = 64
    manifest["rounds"].pop()
    write_json(file, manifest)
    facts = json.loads((copied / "round-2" / "round.json").read_text())
    facts["steps"] = {"sliced": facts["steps"]["sliced"]}
    write_json(copied / "round-2" / "round.json", facts)
    tree = deep_merge(TINY, {"prompts": str(prompts)})
    del tree["generate"]["sampling"]["max_tokens"]
    again = run(validated(IterateConfig, tree), copied, by=never)
    assert again.lines == done.lines and again.new_rounds == 1
    assert json.loads(file.read_text())["defaults"] == manifest["defaults"]


def test_a_later_format_is_refused_in_one_line(copied: Path, prompts: Path) -> None:
    file = copied / "iterate.json"
    write_json(file, json.loads(file.read_text()) | {"schema_version": FORMAT + 1})
    with pytest.raises(
        RunError, match=rf"iterate\.json: has format {FORMAT + 1} .* upgrade sso-data$"
    ):
        run(tiny(prompts), copied, by=never)


def test_another_judge_is_asked_about_the_rows_that_are_there(copied: Path, prompts: Path) -> None:
    judge = {"kind": "python", "callable": longer_wins(copied.parent)}
    held_out = {"judge": judge, "judged_rows": 5}
    progress = Heard()
    again = run(tiny(prompts, held_out=held_out), copied, progress, by=never)
    assert [line["judged"] for line in again.lines] == [5, 5]
    assert again.lines[0]["unprompted"] is None
    assert not any("generating" in heading for heading in progress.notes)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"train": {"loss": {"g": 0.5}}}, "train.loss.g is 0.1 there and 0.5 here"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"slices": {"order": "same"}}, "slices.order"),
        ({"generate": {"principles": None}}, "principles is"),
    ],
)
def test_another_iteration_is_refused_by_name(
    copied: Path, prompts: Path, changes: dict[str, Any], part: str
) -> None:
    before = content(copied)
    with pytest.raises(RunError) as caught:
        run(tiny(prompts, **changes), copied, by=never)
    assert part in str(caught.value) and "--overwrite" in str(caught.value)
    assert content(copied) == before


def test_a_policy_that_was_replaced_is_refused(copied: Path, prompts: Path) -> None:
    shutil.copy(policy_dir() / "model.safetensors", copied / "round-2/model/model.safetensors")
    with pytest.raises(ModelError, match="is not what the training wrote"):
        run(tiny(prompts, rounds=3), copied, by=never)


def test_models_of_earlier_rounds_may_be_removed(copied: Path, prompts: Path) -> None:
    shutil.rmtree(copied / "round-1" / "model")
    assert run(tiny(prompts, rounds=3), copied).new_rounds == 1


def test_strangers_and_second_processes(copied: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"thesis\.tex"):
        run(tiny(prompts), tmp_path / "thesis", by=never)
    with locked_file(copied / ".iterate.lock"), pytest.raises(RunError, match="another process"):
        run(tiny(prompts), copied, by=never)


def test_a_stop_names_the_last_good_policy_and_looser_limits_go_on(
    copied: Path, prompts: Path
) -> None:
    strict = tiny(prompts, rounds=3, stop={"signal_accuracy": 1.0, "gap": 9.0})
    stopped = run(strict, copied, by=never)
    assert stopped.stop is not None and stopped.stop.good_until == 2
    assert stopped.policy.path == str(copied / "round-2" / "model")
    verdict = "\n".join(stopped.verdict)
    assert "stopped after 2 of 3 rounds" in verdict and "advice: " in verdict
    assert json.loads((copied / "iterate.json").read_text())["stopped"]["good_until"] == 2
    went_on = run(tiny(prompts, rounds=3), copied)
    assert went_on.stop is None and went_on.new_rounds == 1


def test_nothing_kept_is_a_stop(prompts: Path, tmp_path: Path) -> None:
    none, heard = {"preset": "closeness", "gap": 50.0}, Heard()
    done = run(tiny(prompts, generate={"filter": none}), tmp_path / "out", heard, by=never)
    told = "\n".join(heard.warnings)
    assert "no pairs: 0 of 8 rows" in told and "try: --set generate.filter.gap=" in told
    assert done.stop is not None and done.stop.rule == "nothing_kept"
    assert done.stop.advice[0].endswith("of 8 rows (tried; with a new --out)")
    with pytest.raises(RunError, match=r"generate\.filter\.gap"):
        run(tiny(prompts), tmp_path / "out", by=never)
    assert done.policy.path == str(policy_dir())
    assert done.to_json()["totals"]["kept"] == 0


def test_the_same_prompts_and_a_judge_that_scores_nothing(prompts: Path, tmp_path: Path) -> None:
    """The own answers of later rounds stand against those of the first."""
    judge = {"kind": "python", "callable": longer_wins(tmp_path)}
    config = tiny(prompts, slices={"order": "same"}, held_out={"judge": judge})
    done = run(config, tmp_path / "out")
    texts = [
        {row.id: row.responses["plain"].text for row in rows_of(tmp_path / f"out/round-{n}/run")}
        for n in (1, 2)
    ]
    assert texts[0].keys() == texts[1].keys()
    wins = [
        0.5 + 0.5 * ((len(texts[1][key]) > len(old)) - (len(texts[1][key]) < len(old)))
        for key, old in texts[0].items()
    ]
    assert done.lines[0]["unprompted_win_rate"] == 0.5, "against itself"
    assert done.lines[1]["unprompted_win_rate"] == pytest.approx(sum(wins) / len(wins), abs=1e-6)


def test_rounds_of_rows_that_were_asked_for_what_decides_them(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own answers and shares are those of the rows that are complete by design.

    With the same prompts in each round and a judge that scores nothing the own answers of a round
    stand against those of the first.
    """
    monkeypatch.setattr(generation, "_FIRST_ROWS", 2)
    judge = {"kind": "python", "callable": longer_wins(tmp_path)}
    checks = {"preset": "closeness", "steered": "chain", "gap": 0.07}
    config = tiny(
        prompts,
        slices={"order": "same"},
        held_out={"judge": judge},
        generate={"scoring": {"when": "needed", "verify_rows": 2}, "filter": checks},
    )
    done = run(config, tmp_path / "out")
    assert [line["rows"] for line in done.lines] == [PROMPTS, PROMPTS]
    for line in done.lines:
        place = tmp_path / f"out/round-{line['round']}"
        rows = {row_key(row.id): row for row in rows_of(place / "run")}
        whole = representative(load_scores(place / "run", dry=True).rows)["key"].tolist()
        lean = [row for row in rows.values() if row.rest_not_asked]
        for view in ("good", "plain"):
            assert any(view not in row.responses for row in lean), "it is not there to be judged"
        assert line["not_asked"] == len(lean) <= sum(line["dropped"].values())
        assert 2 <= len(whole) < PROMPTS - len(lean), "others passed"
        tokens = [rows[key].responses["plain"].num_tokens for key in whole]
        assert line["tokens_original"] == pytest.approx(sum(tokens) / len(tokens))
        (file,) = (place / "judges").glob("*/verdicts.jsonl")
        said = {one["key"]: one["preference"] for one in lines_of(file) if "preference" in one}
        kept = {one["id"] for one in lines_of(place / "run/pairs/train.jsonl")}
        for_all = {rows[key].id for key in whole}
        assert said.keys() == {f"{one}/own" for one in for_all} | {
            f"{one}/signal" for one in for_all | kept
        }
        for share, those in (("accuracy_all", for_all), ("accuracy_kept", kept)):
            preferences = [said[f"{one}/signal"] for one in those]
            assert line[share] == pytest.approx(sum(preferences) / len(those), abs=1e-6)
        assert line["unprompted_win_rate"] is not None
        assert line["judged"] == len(for_all | kept)
    lacked = done.to_json()["totals"]["not_asked"]
    assert done.account.endswith(f"of the dropped rows {lacked} were not asked for everything")


def test_labelled_pairs(done: Iterated, out: Path, prompts: Path, tmp_path: Path) -> None:
    """Rows of the first round, as plain pairs: references are scored by each round's policy."""
    pairs = lines_of(out / "round-1" / "run" / "pairs" / "train.jsonl")
    file = tmp_path / "pairs.jsonl"
    plain = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in plain))
    loss = {"objective": "pairs"}
    config = tiny(
        prompts, labelled={"data": str(file)}, slices={"prompts": 4}, train={"loss": loss}
    )
    found = run(config, tmp_path / "out")
    assert [line["kept"] for line in found.lines] == [4, 4]
    assert found.lines[0]["tokens_rejected"] is not None
    assert "tokens_original" not in found.lines[0]
    for number in (1, 2):
        trained = json.loads((tmp_path / f"out/round-{number}/model/train.json").read_text())
        assert trained["references"]["source"] == "scored"
        assert {row["round"] for row in lines_of(tmp_path / f"out/round-{number}/pairs.jsonl")} == {
            number
        }


def test_a_judge_of_labelled_pairs_is_given_tokens_of_the_policy(
    done: Iterated, out: Path, prompts: Path, tmp_path: Path
) -> None:
    """As many as the rows' responses have, which words are not."""
    rows = rows_of(out / "round-1" / "run")
    file = tmp_path / "pairs.jsonl"
    texts = [{side: row.responses[view].text for view, side in SIDES} for row in rows]
    prompted = [{"prompt": row.messages[-1].content} for row in rows]
    pairs = [prompt | pair for prompt, pair in zip(prompted, texts, strict=True)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "judge.py").write_text(
        "import json, pathlib\n"
        "def counted(comparisons):\n"
        f"    with pathlib.Path({str(tmp_path / 'seen')!r}).open('a') as stream:\n"
        "        stream.writelines(json.dumps(one) + '\\n' for one in comparisons)\n"
        "    return [0.5] * len(comparisons)\n"
    )
    judge = {"kind": "python", "callable": f"{tmp_path / 'judge.py'}:counted"}
    config = tiny(
        prompts,
        rounds=1,
        labelled={"data": str(file)},
        slices={"prompts": len(pairs)},
        held_out={"judge": judge},
        stop={"signal_accuracy": 0.6},
    )
    found = run(config, tmp_path / "out", by=never)
    assert found.stop is not None and found.stop.rule == "signal_accuracy"
    tokenizer = load_tokenizer(policy_dir())
    seen = lines_of(tmp_path / "seen")
    assert len(seen) == len(pairs)
    for one in seen:
        for side in ("a", "b"):
            ids = tokenizer(one[side], add_special_tokens=False)["input_ids"]
            assert one[f"{side}_num_tokens"] == len(ids)
    assert any(one["a_num_tokens"] != len(one["a"].split()) for one in seen)


SIDES: tuple[tuple[View, str], ...] = (("good", "chosen"), ("bad", "rejected"))


def test_a_generator_makes_the_pairs_of_the_policy(prompts: Path, tmp_path: Path) -> None:
    generator = {"train": {"loss": {"objective": "sso-generator"}, "optim": dict(_STEPS)}}
    loss = {"objective": "pairs", "type": "dpo", "beta": 0.1}
    config = tiny(prompts, rounds=1, generator=generator, train={"loss": loss})
    done = run(config, tmp_path / "out")
    place = tmp_path / "out" / "round-1"
    first = model_fingerprint(policy_dir())
    made = json.loads((place / "generator" / "train.json").read_text())
    trained = json.loads((place / "model" / "train.json").read_text())
    assert made["model"]["fingerprint"] == trained["model"]["fingerprint"] == first
    pairs = rows_of(place / "generator-run")
    assert {row.model_fingerprint for row in pairs} == {model_fingerprint(place / "generator")}
    assert {row.model_fingerprint for row in rows_of(place / "run")} == {first}
    assert trained["references"]["source"] == "scored", "off-policy"
    assert done.lines[0]["rows"] == len(pairs)
    assert done.lines[0]["train_rows"] == len(lines_of(place / "generator-run/pairs/train.jsonl"))
    assert done.policy.path == str(place / "model")
    own = [row.responses["plain"].num_tokens for row in rows_of(place / "run")]
    assert done.lines[0]["tokens_original"] == pytest.approx(sum(own) / len(own))


_STEPS = {"lr": 3e-4, "max_steps": 1, "batch_size": 4, "warmup_steps": 0.0, "schedule": "constant"}


def test_a_reward_model(prompts: Path, tmp_path: Path) -> None:
    train: dict[str, Any] = {
        "kind": "reward",
        "loss": {},
        "optim": dict(_STEPS),
        "log": {"plot": False},
    }
    config = tiny(prompts).model_copy(
        update={"rounds": 1, "train": type(tiny(prompts).train)(**train)}
    )
    done = run(config, tmp_path / "out")
    assert done.reward_model == str(tmp_path / "out" / "round-1" / "model")
    assert done.policy.path == str(policy_dir()), "the policy stays as it was"
    assert done.lines[0]["train_accuracy"] is not None
    assert run(config, tmp_path / "out", by=never).reward_model == done.reward_model


def test_an_adapter_is_merged(prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = tiny(prompts, rounds=1, train={"lora": {"enabled": True, "r": 4}})
    done = run(config, tmp_path / "out")
    model = tmp_path / "out" / "round-1" / "model"
    assert not (model / "adapter_config.json").exists()
    whole = model_fingerprint(model)
    assert done.policy.fingerprint == whole != model_fingerprint(policy_dir())


def test_overwrite_starts_anew_and_leaves_strangers_files(copied: Path, prompts: Path) -> None:
    (copied / "notes.txt").write_text("mine")
    changed = tiny(prompts, rounds=1, seed=4)
    done = iterate(changed, copied, Heard(), overwrite=True, train=train_here)
    assert len(done.lines) == 1 and not (copied / "round-2").exists()
    assert (copied / "notes.txt").read_text() == "mine"


def test_held_out_prompts(done: Iterated, copied: Path, prompts: Path, tmp_path: Path) -> None:
    held_out = {"prompts": str(prompts), "limit": 4}
    found = run(tiny(prompts, held_out=held_out), copied, by=never)
    assert found.lines[0]["win_rate"] is None, "only the last policy"
    assert found.lines[1]["win_rate"] is not None
    assert found.lines[1]["held_out_tokens_first"] is not None
    every = tiny(prompts, held_out=held_out | {"every_round": True})
    found = run(every, copied, by=never)
    assert all(line["win_rate"] is not None for line in found.lines)


def test_order_of_rows_changes_no_weight(done: Iterated, out: Path, tmp_path: Path) -> None:
    """Rows finished in another order train the same policy."""
    pairs = out / "round-1" / "run" / "pairs" / "train.jsonl"
    other = tmp_path / "pairs.jsonl"
    other.write_text("".join(reversed(pairs.read_text().splitlines(keepends=True))))
    manifest = json.loads((out / "round-1" / "model" / "train.json").read_text())
    config = type(tiny(other).train)(**manifest["config"])
    train_here(Training(source=other, out=tmp_path / "model", config=config))
    assert model_fingerprint(tmp_path / "model") == model_fingerprint(out / "round-1" / "model")
