"""A user's mistake in training: one line that says where and what to do, exit code 1."""

import builtins
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sso_data.filtering.refilter import refilter, run_config
from sso_data.training.state import open_training
from sso_data.world import policy_dir
from tests.cli.test_bad_input import one_line
from tests.exporting.making import make_run
from tests.filtering.test_explain import LOOSE, no_effect
from tests.training.command.conftest import Train, plain_set, write_rows

Rows = list[dict[str, Any]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the tiny policy, to be changed."""
    return Path(shutil.copytree(policy_dir(), tmp_path / "model"))


def changed_weights(model: Path, factor: float) -> None:
    tensors = load_file(model / "model.safetensors")
    changed = {name: tensor * factor for name, tensor in tensors.items()}
    save_file(changed, model / "model.safetensors", metadata={"format": "pt"})


def content(folder: Path) -> dict[Path, bytes]:
    """Every file of a directory, byte for byte."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class TestModels:
    def test_the_wrong_model_for_the_data(
        self, train: Train, run: Path, tmp_path: Path, model: Path, pairs: Rows
    ) -> None:
        changed_weights(model, 1.01)
        made_by = pairs[0]["model_fingerprint"]
        done = train(run, tmp_path / "out", "--model", model)
        one_line(done, "sampled by", made_by, str(model), "--ref rescore")
        assert not (tmp_path / "out").exists()
        accepted = train(run, tmp_path / "out", "--model", model, "--ref", "rescore", "--json")
        assert accepted.exit_code == 0, accepted.output
        assert "off-policy" in accepted.stderr
        assert json.loads(accepted.stdout)["references"]["source"] == "scored"

    def test_pairs_of_another_model_are_scored_anew(
        self, train: Train, run: Path, tmp_path: Path, model: Path
    ) -> None:
        """The generator's pairs train the original policy."""
        changed_weights(model, 1.01)
        pairs = ("--objective", "pairs", "--model", model)
        done = train(run, tmp_path / "out", *pairs, "--json")
        assert json.loads(done.stdout)["references"]["source"] == "scored"
        one_line(train(run, tmp_path / "strict", *pairs, "--ref", "strict"), "sampled by")

    def test_a_template_that_changed(
        self, train: Train, run: Path, tmp_path: Path, model: Path
    ) -> None:
        template = model / "chat_template.jinja"
        template.write_text(template.read_text().replace("add_generation_prompt", "true") + "Well,")
        done = train(run, tmp_path / "out", "--model", model)
        one_line(done, "renders to different token ids", "template")

    def test_token_ids_beyond_the_vocabulary(
        self, train: Train, tmp_path: Path, pairs: Rows
    ) -> None:
        pairs[3]["chosen_token_ids"][0] = 5000
        data = write_rows(tmp_path / "rows.jsonl", pairs)
        one_line(train(data, tmp_path / "out"), pairs[3]["id"], "5000", "vocabulary")

    def test_no_model(self, train: Train, run: Path, tmp_path: Path) -> None:
        one_line(train(run, tmp_path / "out", "--model", ""), "--model")

    def test_a_lora_adapter(self, train: Train, run: Path, tmp_path: Path, model: Path) -> None:
        (model / "config.json").rename(model / "adapter_config.json")
        done = train(run, tmp_path / "out", "--model", model)
        one_line(done, str(model), "is a LoRA adapter", "--set lora.merge=true")

    def test_lora_without_peft(
        self, train: Train, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = builtins.__import__

        def without_peft(name: str, *rest: Any) -> Any:
            if name == "peft":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without_peft)
        one_line(train(run, tmp_path / "out", "--lora"), "sso-data[lora]")

    def test_lora_targets_that_are_none(self, train: Train, run: Path, tmp_path: Path) -> None:
        pytest.importorskip("peft")
        done = train(run, tmp_path / "out", "--lora", "--set=lora.targets=[no_such_layer]")
        one_line(done, "lora.targets", "no_such_layer")


class TestData:
    def test_sso_on_a_plain_preference_set(self, train: Train, tmp_path: Path, pairs: Rows) -> None:
        data = write_rows(tmp_path / "rows.jsonl", plain_set(pairs))
        done = train(data, tmp_path / "out")
        one_line(done, "rows.jsonl", "no token ids", "--objective pairs")

    @pytest.mark.parametrize("column", ["system_bad", "original_token_ids", "prompt_hash_good"])
    def test_a_missing_column(self, train: Train, tmp_path: Path, pairs: Rows, column: str) -> None:
        rows = [{key: value for key, value in row.items() if key != column} for row in pairs]
        data = write_rows(tmp_path / "rows.jsonl", rows)
        one_line(train(data, tmp_path / "out"), "rows.jsonl", column)

    def test_no_chosen(self, train: Train, tmp_path: Path) -> None:
        data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "b"}])
        one_line(train(data, tmp_path / "out"), "rows.jsonl:1", "'chosen'", "prompt, answer")

    def test_an_empty_file(self, train: Train, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text("")
        one_line(train(tmp_path / "rows.jsonl", tmp_path / "out"), "empty")

    def test_no_such_file(self, train: Train, tmp_path: Path) -> None:
        one_line(train(tmp_path / "no.jsonl", tmp_path / "out"), "no such file")

    def test_a_torn_line(self, train: Train, tmp_path: Path, pairs: Rows) -> None:
        data = write_rows(tmp_path / "rows.jsonl", pairs[:2])
        data.write_text(data.read_text()[:-40])
        one_line(train(data, tmp_path / "out"), "rows.jsonl:2")

    def test_a_run_without_pairs(self, train: Train, tmp_path: Path, run: Path) -> None:
        bare = Path(shutil.copytree(run, tmp_path / "run"))
        shutil.rmtree(bare / "pairs")
        one_line(train(bare, tmp_path / "out"), "no pairs", f"sso-data filter {bare}")

    def test_a_filter_that_kept_nothing(self, train: Train, tmp_path: Path, run: Path) -> None:
        bare = Path(shutil.copytree(run, tmp_path / "run"))
        refilter(bare, run_config(bare, ["filter.gap=9"], preset=None))
        done = train(bare, tmp_path / "out")
        one_line(done, "kept nothing", f"`sso-data filter {bare} --set filter.gap=")

    def test_texts_without_effect_are_warned_of_first(self, train: Train, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run", no_effect(), settings=LOOSE)
        done = train(run, tmp_path / "out")
        assert "no effect shown: contrast in" in done.stderr and "may be chance" in done.stderr

    def test_a_run_has_one_split(self, train: Train, tmp_path: Path, run: Path) -> None:
        done = train(run, tmp_path / "out", "--split", "validation")
        one_line(done, str(run), "only the split 'train'", "'validation'")

    def test_every_row_is_too_long(self, train: Train, tmp_path: Path, run: Path) -> None:
        done = train(run, tmp_path / "out", "--set=sequence.max_length=20")
        one_line(done, "none of 24 rows", "sequence.max_length", "too_long=truncate")

    def test_recorded_references_that_do_not_hold(
        self, train: Train, tmp_path: Path, pairs: Rows
    ) -> None:
        for row in pairs:
            row["logp_plain_good"] *= 1.5
        data = write_rows(tmp_path / "rows.jsonl", pairs)
        one_line(train(data, tmp_path / "a", "--ref", "strict"), "--ref strict", "--ref auto")
        done = train(data, tmp_path / "b", "--json")
        assert json.loads(done.stdout)["references"]["source"] == "scored"
        assert "recorded ones differ" in done.stderr


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            (("--set", "optim.learning_rate=1"), ("learning_rate", "train_configuration.md")),
            (("--set", "optim.lr=-1"), ("optim.lr", "greater than 0")),
            (("--set", "nonsense"), ("key=value",)),
            (("--objective", "kto"), ("kto", "sso, sso-generator, pairs (pbaa), reward")),
            (("--loss-type", "kto"), ("loss.type", "kto")),
            (("--base", "dpo"), ("--base", "--loss-type dpo")),
            (("--set", "loss.base=dpo"), ("loss.base", "loss.type")),
            (("--set", "optim.warmup=0.1"), ("optim.warmup", "optim.warmup_steps")),
            (("--set", "optim.warmup_steps=2.5"), ("optim.warmup_steps", "2.5")),
            (("--ref", "never"), ("reference.mode", "never")),
            (("--objective", "pairs", "--no-w"), ("use_w", "sso")),
            (("--objective", "reward", "--loss-type", "dpo"), ("loss", "reward")),
            (("--set", "reward.center_rewards_coefficient=1"), ("reward", "policy")),
            (("--set", "checkpoints.keep_best=true"), ("keep_best", "data.eval_share")),
            (("--set", "checkpoints.every=2.5"), ("checkpoints.every", "2.5")),
            (("--set", "log.report_to=[nothing]"), ("report_to", "nothing")),
            (("--set", "log.report_to=[trackio]"), ("trackio", "pip install trackio")),
            (("--set", "data.eval_share=1.0"), ("data.eval_share",)),
            (("--set", "data.eval_share=0.0001"), ("data.eval_share", "24 rows")),
        ],
    )
    def test_refused(
        self, train: Train, run: Path, tmp_path: Path, options: tuple[str, ...], parts: tuple[str]
    ) -> None:
        one_line(train(run, tmp_path / "out", *options), *parts)
        assert not (tmp_path / "out").exists()

    def test_a_config_file(self, train: Train, run: Path, tmp_path: Path) -> None:
        file = tmp_path / "train.yaml"
        file.write_text("optim:\n  lrr: 1\n")
        one_line(train(run, tmp_path / "out", "--config", file), "train.yaml", "optim.lrr")

    def test_an_unknown_option_exits_2(self, train: Train, run: Path, tmp_path: Path) -> None:
        assert train(run, tmp_path / "out", "--learning-rate", "1").exit_code == 2


class TestWriting:
    def test_a_directory_of_something_else(self, train: Train, run: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        one_line(train(run, tmp_path, "--overwrite"), "not a training", "thesis.tex")
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"], "nothing is left there"

    def test_a_file(self, train: Train, run: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        one_line(train(run, tmp_path / "out"), "is a file, not a directory")

    @pytest.mark.parametrize("inside", ["", "checkpoints/checkpoint-3"])
    def test_the_model_in_out_is_not_deleted(
        self, train: Train, run: Path, tmp_path: Path, inside: str
    ) -> None:
        out = tmp_path / "out"
        model = Path(shutil.copytree(policy_dir(), out / inside))
        (out / "train.json").write_text('{"identity": {}}')
        before = content(out)
        done = train(run, out, "--model", model, "--overwrite")
        one_line(done, f"--model {model}", f"--out {out}")
        assert content(out) == before

    def test_the_data_in_out_is_not_deleted(
        self, train: Train, run: Path, tmp_path: Path, pairs: Rows
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "train.json").write_text('{"identity": {}}')
        data = write_rows(out / "metrics.jsonl", plain_set(pairs))
        before = content(out)
        (tmp_path / "link").symlink_to(out)
        for source in (data, out, tmp_path / "link" / "metrics.jsonl"):
            one_line(train(source, out, "--overwrite"), f"DATA {source}", f"--out {out}")
        mix = f"--set=reward.mix=[{{data: {data}}}]"
        done = train(run, out, "--overwrite", "--objective", "reward", mix)
        one_line(done, f"reward.mix {data}")
        assert content(out) == before

    def test_no_space_for_checkpoints(self, train: Train, run: Path, tmp_path: Path) -> None:
        """A file-size limit stands in for the full disk; afterwards the training goes on."""
        out = tmp_path / "out"
        every = "--set=checkpoints.every=1"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            done = train(run, out, every)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        one_line(done, "checkpoint-1: cannot write", "free some space", "to continue")
        assert not list((out / "checkpoints").glob("checkpoint-*"))
        assert train(run, out, every).exit_code == 0

    def test_a_read_only_place(self, train: Train, run: Path) -> None:
        one_line(train(run, "/proc/out"), "/proc/out")


def test_a_loss_that_is_no_number_stops_with_the_rows(
    train: Train, run: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the log-probs of a step are NaN."""
    from sso_data.models.head import CompletionScorer

    real = CompletionScorer.totals
    calls = []

    def broken(self: CompletionScorer, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        nats = real(self, *arguments)
        return nats * torch.nan if torch.is_grad_enabled() else nats

    monkeypatch.setattr(CompletionScorer, "totals", broken)
    done = train(run, tmp_path / "out")
    one_line(done, "step 1: the loss is not finite for rows", "-0", "learning rate")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_overwrite_leaves_a_strangers_file_and_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"identity": {"seed": 1}}))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "notes.txt").write_text("mine")
    opened = open_training(tmp_path, identity={"seed": 2}, details={}, overwrite=True)
    assert opened.manifest["identity"] == {"seed": 2}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "metrics.jsonl").exists()
