"""No pickle is loaded, no code of others is run."""

import ast
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.generation import generate as generating
from sso_data.runs.workdir import write_json
from sso_data.training.reference import _Cache
from sso_data.world import catalogue_dir, policy_dir
from tests.cli.test_bad_input import one_line
from tests.generation.scripted import ScriptedEngine
from tests.hostile.model_dirs import MakesFile, put_remote_code
from tests.training.command.conftest import QUICK

PACKAGE = Path(__file__).parents[2] / "sso_data"
PICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
TALK = [{"role": "user", "content": "What is 2 plus 3?"}]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def generate(place: Path, *words: object, source: Path | None = None) -> Result:
    if source is None:
        source = place / "q.jsonl"
        source.write_text('{"prompt": "What is 2 plus 3?"}\n')
    given = [
        "--engine=transformers",
        "--set=engine.isolation=inline",
        "--set=sampling.max_tokens=8",
    ]
    chosen = [f"--principles={catalogue_dir()}", "--out", place / "run"]
    model = () if "--model" in words else ("--model", policy_dir())
    return invoke("generate", source, *given, *chosen, *model, *words)


class TestTheSource:
    """What may not stand in the package."""

    TREES = tuple(
        (file, ast.parse(file.read_text(encoding="utf-8")))
        for file in sorted(PACKAGE.rglob("*.py"))
    )

    def test_no_pickler_is_imported(self) -> None:
        for file, tree in self.TREES:
            for node in ast.walk(tree):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert not PICKLERS & {name.split(".")[0] for name in names}, file

    def test_loaders_are_told_to_load_data_only(self) -> None:
        for file, tree in self.TREES:
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if called == "torch.load":
                    assert options.get("weights_only") == "True", f"{file}:{node.lineno}"
                if called in ("np.load", "numpy.load"):
                    assert options.get("allow_pickle") == "False", f"{file}:{node.lineno}"
                assert called not in ("eval", "exec", "yaml.load", "os.system"), file
                assert options.get("shell") != "True", f"{file}:{node.lineno}"
                assert options.get("trust_remote_code") != "True", f"{file}:{node.lineno}"
                loader = called.removesuffix(".from_pretrained").rpartition(".")[2]
                data_only = ("AutoConfig", "AutoTokenizer", "PeftModel")
                if called.endswith(".from_pretrained") and loader not in data_only:
                    assert options.get("use_safetensors") == "True", f"{file}:{node.lineno}"


class TestPickles:
    """A pickle that makes a directory when it is loaded, in every place where one could stand."""

    @pytest.fixture
    def marker(self, tmp_path: Path) -> Path:
        return tmp_path / "loaded"

    @pytest.fixture
    def bomb(self, marker: Path) -> bytes:
        return pickle.dumps(MakesFile(marker))

    def test_the_bomb_works(self, bomb: bytes, marker: Path) -> None:
        pickle.loads(bomb)  # noqa: S301 - ours
        assert marker.is_dir()

    def test_weights_beside_a_stray_safetensors_file(
        self, tmp_path: Path, bomb: bytes, marker: Path
    ) -> None:
        model = Path(shutil.copytree(policy_dir(), tmp_path / "model"))
        (model / "model.safetensors").rename(model / "other.safetensors")
        (model / "pytorch_model.bin").write_bytes(bomb)
        one_line(generate(tmp_path, "--model", model), "model")
        assert not marker.exists()

    def test_beside_good_weights(self, tmp_path: Path, bomb: bytes, marker: Path) -> None:
        model = Path(shutil.copytree(policy_dir(), tmp_path / "model"))
        for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl", "optimizer.pt"):
            (model / name).write_bytes(bomb)
        assert generate(tmp_path, "--model", model).exit_code == 0
        assert not marker.exists()

    def test_an_adapter(self, tmp_path: Path, bomb: bytes, marker: Path) -> None:
        pytest.importorskip("peft")
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        content = {
            "peft_type": "LORA",
            "r": 4,
            "target_modules": ["q_proj"],
            "task_type": "CAUSAL_LM",
        }
        (adapter / "adapter_config.json").write_text(json.dumps(content))
        (adapter / "adapter_model.bin").write_bytes(bomb)
        chosen = ("--set", f"engine.adapter={adapter}")
        one_line(generate(tmp_path, *chosen), "not a LoRA adapter")
        shutil.copy(policy_dir() / "model.safetensors", adapter / "other.safetensors")
        one_line(generate(tmp_path, *chosen), "adapter")
        assert not marker.exists()

    @pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
    def test_a_checkpoint(self, training: Path, tmp_path: Path, name: str, marker: Path) -> None:
        """Going on with a training whose checkpoint was exchanged."""
        out = Path(shutil.copytree(training, tmp_path / "training"))
        [checkpoint] = (out / "checkpoints").glob("checkpoint-*")
        torch.save({"x": MakesFile(marker)}, checkpoint / name)
        one_line(train(training.parent / "pairs.jsonl", out), str(checkpoint))
        assert not marker.exists()

    def test_scored_references(self, tmp_path: Path, marker: Path) -> None:
        file = tmp_path / "references.npz"
        nats = np.array([[[MakesFile(marker)] * 2] * 3], dtype=object)
        np.savez(file, key=np.array("k"), nats=nats)
        assert np.isnan(_Cache(file=file, key="k", writes=False).read(1)).all()
        assert not marker.exists()

    def test_a_data_set(self, tmp_path: Path, bomb: bytes, marker: Path) -> None:
        """`datasets` knows formats that can hold pickles: pandas' own, WebDataset's archives."""
        for name in ("frame", "archive"):
            (tmp_path / name).mkdir()
        (tmp_path / "frame" / "train.pkl").write_bytes(bomb)
        for kind in ("pyd", "pth", "pickle", "npy"):
            (tmp_path / f"0.{kind}").write_bytes(bomb)
        with tarfile.open(tmp_path / "archive" / "train.tar", "w") as archive:
            for kind in ("pyd", "pth", "pickle", "npy"):
                archive.add(tmp_path / f"0.{kind}", arcname=f"0.{kind}")
        for name in ("frame", "archive"):
            one_line(generate(tmp_path, source=tmp_path / name), name)
        assert not marker.exists()

    def test_a_parquet_file(self, tmp_path: Path, bomb: bytes, marker: Path) -> None:
        """Arrow's extension type of old that carried a pickle in the schema."""
        import pyarrow as pa
        from pyarrow import parquet

        field = pa.field(
            "prompt",
            pa.string(),
            metadata={
                b"ARROW:extension:name": b"arrow.py_extension_type",
                b"ARROW:extension:metadata": bomb,
            },
        )
        table = pa.table([pa.array(["What is 2 plus 3?"])], schema=pa.schema([field]))
        parquet.write_table(table, tmp_path / "p.parquet")
        generate(tmp_path, source=tmp_path / "p.parquet")
        assert not marker.exists()


def train(data: Path, out: Path, *words: object) -> Result:
    kept = ("--set=checkpoints.every=1", "--set=checkpoints.keep=2")
    given = ("--objective", "pairs", "--set=checkpoints.keep_finished=true", *kept, *QUICK)
    model = ("--model", policy_dir()) if "--model" not in words else ()
    return invoke("train", data, "--out", out, *model, *given, *words)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of three steps that looks as if it had been interrupted after two."""
    folder = tmp_path_factory.mktemp("training")
    rows = [{"prompt": TALK, "chosen": f"{n} is good.", "rejected": "No."} for n in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "out"
    done = train(folder / "pairs.jsonl", out)
    assert done.exit_code == 0, done.output
    shutil.rmtree(out / "checkpoints" / "checkpoint-3")
    manifest = json.loads((out / "train.json").read_text())
    del manifest["finished"]
    write_json(out / "train.json", manifest)
    return out


class TestCodeOfOthers:
    @pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
    def test_it_is_not_run_and_the_key_is_named(self, tmp_path: Path, where: str) -> None:
        model = Path(shutil.copytree(policy_dir(), tmp_path / "model"))
        marker = put_remote_code(model, tmp_path, where)
        one_line(
            generate(tmp_path, "--model", model), "Python code", "engine.trust_remote_code=true"
        )
        data = tmp_path / "pairs.jsonl"
        data.write_text(json.dumps({"prompt": TALK, "chosen": "a", "rejected": "b"}) + "\n")
        done = train(data, tmp_path / "out", "--model", model)
        one_line(done, "Python code", "trust_remote_code=true")
        assert not marker.exists()

    def test_only_a_word_of_the_user_runs_it(self, tmp_path: Path) -> None:
        """The marker can fire: with trust, the code is run (and is no tokenizer)."""
        model = Path(shutil.copytree(policy_dir(), tmp_path / "model"))
        marker = put_remote_code(model, tmp_path, "tokenizer_config.json")
        done = generate(tmp_path, "--model", model, "--set", "engine.trust_remote_code=true")
        one_line(done, "tokenizer cannot be loaded")
        assert marker.exists()


def test_resuming_is_not_refused_for_honest_checkpoints(training: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(training, tmp_path / "training"))
    done: Any = train(training.parent / "pairs.jsonl", out)
    assert done.exit_code == 0, done.output


def test_what_is_shown_does_not_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, ids and reasons that `preview` shows hold escape sequences."""
    monkeypatch.setattr(generating, "start_engine", lambda *_, **__: ScriptedEngine())
    prompts = tmp_path / "q.jsonl"
    rows = [{"prompt": "Clear\x1b[2J it\x9b2J\x07"}, {"prompt": " ", "id": "\x1b]0;owned\x07"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--engine=transformers", f"--principles={catalogue_dir()}", "--model", policy_dir())
    done = invoke("preview", prompts, *given)
    assert done.exit_code == 3, done.output
    assert "Clear<U+001B>[2J it" in done.stdout, "control characters are shown as marks"
    assert "?]0;owned?" in done.stderr
    for steering in ("\x1b", "\x9b", "\x07"):
        assert steering not in done.output
