"""`train` end to end on the tiny policy: what it reads, writes, prints and returns."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.models.directory import model_fingerprint, tokenizer_fingerprint
from sso_data.world import policy_dir
from tests.training.command.conftest import QUICK, Train, lines_of, plain_set, weights, write_rows


def test_a_run_becomes_a_model(train: Train, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = train(run, out, "--json", "--set=log.plot=true")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["max_steps"], summary["stopped"]) == (3, 3, None)
    assert summary["references"]["source"] == "recorded"
    assert summary["references"]["d_at_step_0"] < 1e-5
    assert summary["first"]["loss_base"] == pytest.approx(6.25, rel=1e-4)
    assert summary["last"]["loss"] < summary["first"]["loss"]
    assert "difference (D) before training" in done.stderr

    names = {file.name for file in out.iterdir()}
    assert {"model.safetensors", "train.json", "metrics.jsonl", "README.md", "loss.png"} <= names
    assert not names & {"checkpoints", ".model", "training_args.bin"}
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [line["step"] for line in lines_of(out)] == [1, 2, 3]
    assert {"margin_good", "accuracy_bad", "weight", "logp_rejected", "tokens_chosen"} <= set(
        lines_of(out)[0]
    )


def test_the_model_is_the_policys_twin_with_other_weights(trained: Path) -> None:
    out = trained
    before, after = weights(policy_dir()), weights(out)
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert model_fingerprint(out) != model_fingerprint(policy_dir())
    assert tokenizer_fingerprint(out) == tokenizer_fingerprint(policy_dir())
    config = json.loads((out / "config.json").read_text())
    assert config == json.loads((policy_dir() / "config.json").read_text())
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (policy_dir() / name).read_bytes()
    AutoModelForCausalLM.from_pretrained(out)


def test_train_json_and_card_name_data_and_recipe(train: Train, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(run, out, "--loss-type", "dpo", "--seed", 4).exit_code == 0
    manifest = json.loads((out / "train.json").read_text())
    assert manifest["config"]["loss"]["type"] == "dpo"
    assert manifest["data"]["source"] == str(run)
    assert manifest["data"]["training"] == 24
    assert manifest["model"]["fingerprint"] == model_fingerprint(policy_dir())
    assert manifest["versions"].keys() >= {"torch", "transformers"}
    assert manifest["identity"]["optim.lr"] == 5e-4
    card = (out / "README.md").read_text()
    for part in (run.name, manifest["data"]["fingerprint"], "`loss.type` | `dpo`", "| loss |"):
        assert part in card
    assert "tags:\n- sso-data\n- sso\n- dpo\n---" in card
    for path in (run, policy_dir(), tmp_path):
        assert str(path) not in card
    assert "license" not in card
    assert "base_model" not in card, "a local path is no name on the Hub"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--objective", "pairs"), {"objective": "pairs"}),
        (("--objective", "pbaa", "--loss-type", "simpo"), {"objective": "pairs", "type": "simpo"}),
        (("--objective", "sso-generator"), {"objective": "sso-generator", "type": "dpo"}),
        (("--objective", "pairs", "--loss-type", "sigmoid"), {"type": "dpo", "beta": 0.2}),
        (("--no-w",), {"use_w": False, "use_g": True}),
        (("--no-g",), {"use_w": True, "use_g": False}),
        (("--loss-type", "orpo", "--set", "loss.g=1"), {"type": "orpo", "g": 1.0}),
    ],
)
def test_objectives(
    train: Train, run: Path, tmp_path: Path, options: tuple[str, ...], shown: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    done = train(run, out, "--set=optim.max_steps=1", *options)
    assert done.exit_code == 0, done.output
    loss = json.loads((out / "train.json").read_text())["config"]["loss"]
    assert {key: loss[key] for key in shown} == shown


@pytest.fixture(scope="module")
def trained(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's pairs, trained on once."""
    out = tmp_path_factory.mktemp("trained") / "out"
    options = ["--model", str(policy_dir()), *QUICK]
    assert CliRunner().invoke(app, ["train", str(run), "--out", str(out), *options]).exit_code == 0
    return out


@pytest.mark.parametrize("place", ["pairs/train.jsonl", "pairs/train.parquet", "pairs"])
def test_every_form_of_the_data_gives_the_same_weights(
    train: Train, run: Path, trained: Path, tmp_path: Path, place: str
) -> None:
    assert train(run / place, tmp_path / "out").exit_code == 0
    same(trained, tmp_path / "out")


def test_a_plain_preference_set_trains_pairs(
    train: Train, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Without log-probs its references are scored here, once: the second time from the cache."""
    data = write_rows(tmp_path / "set.jsonl", plain_set(pairs))
    done = train(data, tmp_path / "out", "--objective", "pairs", "--json")
    assert done.exit_code == 0, done.output
    references = json.loads(done.stdout)["references"]
    assert (references["source"], references["scored_rows"]) == ("scored", 24)
    assert references["d_at_step_0"] < 1e-5
    assert (tmp_path / "out" / "references.npz").is_file()


def test_rescored_and_recorded_references_agree(
    train: Train, run: Path, trained: Path, tmp_path: Path
) -> None:
    assert train(run, tmp_path / "b", "--ref", "rescore").exit_code == 0
    for one, two in zip(lines_of(trained), lines_of(tmp_path / "b"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_held_out_rows_and_the_best_checkpoint(train: Train, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = train(
        run,
        out,
        "--json",
        "--set=data.eval_share=0.3",
        "--set=checkpoints.every=1",
        "--set=checkpoints.keep_best=true",
        "--set=checkpoints.keep_finished=true",
    )
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)["data"]
    assert data["training"] + data["held_out"] == 24
    assert data["held_out"] > 0
    losses = {line["step"]: line["eval_loss"] for line in lines_of(out) if "eval_loss" in line}
    assert sorted(losses) == [1, 2, 3]
    manifest = json.loads((out / "train.json").read_text())
    assert manifest["best_checkpoint"] == min(losses, key=lambda step: losses[step])
    kept = sorted(folder.name for folder in (out / "checkpoints").iterdir())
    assert kept == sorted({"checkpoint-3", f"checkpoint-{manifest['best_checkpoint']}"})


def test_truncated_and_dropped_rows_are_counted(train: Train, run: Path, tmp_path: Path) -> None:
    short = "--set=sequence.max_length=150"
    dropped = train(run, tmp_path / "a", "--json", short)
    assert dropped.exit_code == 0, dropped.output
    report = json.loads(dropped.stdout)["data"]["encoding"]
    assert report["rows"] == report["encoded"] + report["too_long"] == 24
    assert report["too_long"] > 0
    assert f"too long {report['too_long']}" in dropped.stderr
    cut = train(run, tmp_path / "b", "--json", short, "--set=sequence.too_long=truncate")
    report = json.loads(cut.stdout)["data"]["encoding"]
    assert report["cut_responses"] >= report["eos_lost"] > 0
    assert "lost their end-of-sequence token" in cut.stderr


def test_a_collapse_stops_early_and_says_so(train: Train, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = train(
        run,
        out,
        "--set=optim.lr=0.02",
        "--set=optim.max_steps=12",
        "--set=stop.chosen_drop=0.2",
        "--set=stop.warn_chosen_drop=0.1",
        "--json",
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["steps"] < 12
    assert "nats/token" in summary["stopped"]
    assert "warning: stopped early: step" in done.stderr
    assert "(stopped early)" in (out / "README.md").read_text()


def test_uneven_lengths_are_warned_about(train: Train, run: Path, tmp_path: Path) -> None:
    done = train(run, tmp_path / "out", "--set=stop.warn_length_ratio=1.0001")
    assert "warning: rejected responses are 1." in done.stderr


def test_few_rows_taken_often_are_warned_about(train: Train, run: Path, tmp_path: Path) -> None:
    few = "--set=data.limit=2"
    done = train(run, tmp_path / "often", few)
    assert "warning: each of 2 rows is trained on 12 times (optim.max_steps)" in done.stderr
    done = train(run, tmp_path / "less", few, "--set=optim.max_steps=2")
    assert "is trained on" not in done.stderr


def test_reward_models(train: Train, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = train(run, out, "--objective", "reward", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads((out / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]
    assert "score.weight" in weights(out)
    assert {"accuracy", "margin"} <= set(lines_of(out)[0])


def same(one: Path, two: Path, *, atol: float = 0.0) -> None:
    """Two saved models hold the same weights."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0.0, atol=atol)


class TestLora:
    def test_an_adapter_is_saved(self, train: Train, run: Path, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft")
        out = tmp_path / "out"
        done = train(run, out, "--lora", "--set=lora.r=4", "--set=optim.lr=1e-2")
        assert done.exit_code == 0, done.output
        assert not (out / "model.safetensors").exists()
        base = AutoModelForCausalLM.from_pretrained(policy_dir())
        peft.PeftModel.from_pretrained(base, out)
        assert lines_of(out)[-1]["loss"] < lines_of(out)[0]["loss"]

    def test_merged_it_is_a_model(self, train: Train, run: Path, tmp_path: Path) -> None:
        pytest.importorskip("peft")
        out = tmp_path / "out"
        done = train(run, out, "--lora", "--set=lora.merge=true", "--set=optim.lr=1e-2")
        assert done.exit_code == 0, done.output
        before, after = weights(policy_dir()), weights(out)
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_saved_dataset(
    train: Train, run: Path, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """`datasets` on disk, with a split of another name."""
    datasets = pytest.importorskip("datasets")
    saved = datasets.DatasetDict({"prefs": datasets.Dataset.from_list(pairs)})
    saved.save_to_disk(str(tmp_path / "set"))
    done = train(tmp_path / "set", tmp_path / "out", "--split", "prefs", "--set=optim.max_steps=1")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "train.json").read_text())["data"]["training"] == 24


def test_tensorboard(train: Train, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    done = train(run, out, "--set=log.report_to=[tensorboard]", "--set=optim.max_steps=1")
    assert done.exit_code == 0, done.output
    assert list((out / "logs").rglob("events.out.tfevents.*"))


def test_without_matplotlib_there_is_no_plot_and_a_line_says_so(
    train: Train, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "out"
    done = train(run, out, "--set=log.plot=true", "--set=optim.max_steps=1")
    assert done.exit_code == 0, done.output
    assert "sso-data[train]" in done.stderr
    assert not (out / "loss.png").exists()


def test_an_objective_overrides_the_files_kind(train: Train, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("kind: reward\n")
    done = train(run, tmp_path / "out", "--config", file, "--objective", "sso")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "out" / "train.json").read_text())["config"]
    assert (config["kind"], config["loss"]["objective"]) == ("policy", "sso")
