"""A user's mistake: one line that says where and what to do, exit code 1, nothing lost."""

import json
import resource
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import Result

from sso_data.runs.workdir import locked, write_json
from sso_data.world import catalogue_dir, policy_dir
from tests.cli.conftest import INLINE, Cli, rows_of

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
"""What Git leaves in place of a large file that LFS did not fetch."""


def one_line(done: Result, *parts: str, code: int = 1) -> None:
    """The command ended with one `error:` line that holds every part."""
    assert done.exit_code == code, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.output
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the tiny policy, to be broken."""
    return Path(shutil.copytree(policy_dir(), tmp_path / "model"))


class TestPromptFiles:
    @pytest.mark.parametrize(
        ("content", "parts"),
        [
            (None, ("no such file",)),
            ("", ("empty",)),
            ('{"prompt": "a"}\n{"prompt": \n', (":2",)),
            ('{"text": "a"}\n', (":1", "prompt", "text")),
            ('{"prompt": 7}\n', (":1",)),
            ('{"prompt": [{"role": "robot", "content": "a"}]}\n', (":1", "robot")),
        ],
    )
    def test_named_with_file_and_line(
        self, cli: Cli, tmp_path: Path, content: str | None, parts: tuple[str, ...]
    ) -> None:
        file = tmp_path / "in.jsonl"
        if content is not None:
            file.write_text(content)
        done = cli("generate", file, "--out", tmp_path / "run", *INLINE)
        one_line(done, "in.jsonl", *parts)
        assert not (tmp_path / "run" / "rows").exists()

    def test_skipped_rows_go_to_failed_jsonl(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "in.jsonl"
        file.write_text('{"prompt": "What is 2 plus 3?"}\n{"prompt": \n{"prompt": ""}\n')
        run = tmp_path / "run"
        done = cli("generate", file, "--out", run, "--skip-bad-rows", "--json", *INLINE)
        assert done.exit_code == 3, done.output
        summary = json.loads(done.stdout)
        assert (summary["prompts"], summary["rows"], summary["failed"]) == (3, 1, 2)
        failures = [json.loads(line) for line in (run / "failed.jsonl").read_text().splitlines()]
        assert [failure["reason"] for failure in failures] == ["malformed", "blank_prompt"]
        assert failures[0]["detail"].startswith(f"{file}:2: ")
        assert "2 prompts failed (blank_prompt 1, malformed 1); see " in done.stderr

    def test_a_prompt_longer_than_the_context_fails_alone(
        self, cli: Cli, tmp_path: Path, prompts: Path
    ) -> None:
        with prompts.open("a") as stream:
            stream.write(json.dumps({"prompt": "word " * 5000, "id": "long"}) + "\n")
        run = tmp_path / "run"
        done = cli("generate", prompts, "--out", run, *INLINE)
        assert done.exit_code == 3, done.output
        assert len(rows_of(run)) == 12
        failure = json.loads((run / "failed.jsonl").read_text())
        assert (failure["source_id"], failure["reason"]) == ("long", "prompt_too_long")
        assert "prompts 13 = rows 12 + failed 1" in done.stdout

    def test_missing_column_names_those_there_are(self, cli: Cli, tmp_path: Path) -> None:
        file = tmp_path / "in.csv"
        file.write_text("topic,answer\na,b\n")
        one_line(cli("generate", file, "--out", tmp_path / "run", *INLINE), "topic", "prompt")


class TestOptions:
    @pytest.mark.parametrize(
        ("setting", "parts"),
        [
            ("sampling.temprature=1", ("temprature",)),
            ("sampling.temperature=-1", ("sampling.temperature", "greater than 0", "-1")),
            ("sampling.top_p=1.5", ("sampling.top_p",)),
            ("sampling=1", ("sampling",)),
            ("sampling.top_p.x=1", ("sampling.top_p",)),
            ("filter.gap=p50", ("filter.gap",)),
            ("steering.features=[Kindness]", ("Kindness", "Accuracy")),
            ("steering.choose=fixed", ("steering.features",)),
            ("engine.name=tensorrt", ("engine.name",)),
            ("nonsense", ("key=value",)),
            ("a=2026-99-99", ("unknown key 'a'",)),
            ("views.date=2024-13-45", ("views.date",)),
            ("views.date=20240701", ("views.date", "20240701")),
            ("filter.closeness=q2", ("a quantile from q0 to q1",)),
            ("steering.features=Safety", ("must be a list",)),
            ("engine.vllm.dtype=bfloat16", ("engine.vllm.dtype",)),
            ("engine.vllm.generation_config=auto", ("engine.vllm.generation_config",)),
            ("engine.adapter=/nowhere", ("/nowhere", "not a LoRA adapter")),
            ("scoring.verify_rows=100000", ("scoring.verify_rows",)),
            ("seed=-1", ("seed",)),
        ],
    )
    def test_settings(
        self, cli: Cli, tmp_path: Path, prompts: Path, setting: str, parts: tuple[str, ...]
    ) -> None:
        done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, "--set", setting)
        one_line(done, *parts)

    @pytest.mark.parametrize(
        ("content", "parts"),
        [
            ("sampling:\n  temperatur: 1\n", ("temperatur", "run.yaml")),
            ("- a\n", ("mapping",)),
            ("a: [", ("YAML",)),
            ("1: 2\n", ("mapping",)),
            ("views:\n  date: 2024-13-45\n", ("views.date",)),
        ],
    )
    def test_config_files(
        self, cli: Cli, tmp_path: Path, prompts: Path, content: str, parts: tuple[str, ...]
    ) -> None:
        file = tmp_path / "run.yaml"
        file.write_text(content)
        done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, "--config", file)
        one_line(done, "run.yaml", *parts)

    def test_a_missing_config_file(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        done = cli("generate", prompts, "--out", tmp_path / "r", "--config", tmp_path / "no.yaml")
        one_line(done, "no.yaml")

    def test_an_unquoted_date_is_a_date(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        done = cli(
            "generate",
            prompts,
            "--out",
            tmp_path / "run",
            *INLINE,
            "--limit",
            1,
            "--set",
            "views.date=2024-07-01",
        )
        assert done.exit_code == 0, done.output

    def test_no_model(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        one_line(cli("generate", prompts, "--out", tmp_path / "run"), "--model")

    @pytest.mark.parametrize("arguments", [("--limit", "many"), ("--sed", "1")])
    def test_typer_refuses_with_2(
        self, cli: Cli, tmp_path: Path, prompts: Path, arguments: tuple[str, ...]
    ) -> None:
        done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, *arguments)
        assert done.exit_code == 2


class TestPrinciples:
    GOOD: ClassVar[dict[str, object]] = {
        "name": "Warmth",
        "adjectives": {"good": "Warm", "bad": "Cold"},
        "meaning": "How kind it is.",
        "good": "Be warm.",
        "bad": "Be cold.",
    }

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            ({"bad": None}, ("bad",)),
            ({"good": ""}, ("good",)),
            ({"colour": "red"}, ("colour",)),
            ({"adjectives": {"good": "Warm"}}, ("adjectives.bad",)),
            ({"bad": "Be warm."}, ("same text",)),
        ],
    )
    def test_a_broken_principle_file(
        self, cli: Cli, tmp_path: Path, change: dict[str, object], parts: tuple[str, ...]
    ) -> None:
        content = {key: value for key, value in (self.GOOD | change).items() if value is not None}
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "warmth.yaml").write_text(json.dumps(content))
        one_line(cli("principles", "list", "--principles", tmp_path / "p"), "warmth.yaml", *parts)
        checked = cli("principles", "check", tmp_path / "p")
        assert checked.exit_code == 1 and "error: warmth.yaml: " in checked.stdout

    def test_no_such_directory(self, cli: Cli, tmp_path: Path) -> None:
        one_line(cli("principles", "list", "--principles", tmp_path / "no"), "no such directory")

    def test_no_such_feature(self, cli: Cli) -> None:
        one_line(cli("principles", "show", "Kindness"), "Kindness", "Accuracy")


class TestModels:
    def refused(self, cli: Cli, tmp_path: Path, prompts: Path, model: object, *parts: str) -> None:
        done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, "--model", model)
        one_line(done, *parts)
        assert not (tmp_path / "run").exists()

    def test_not_a_directory(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        self.refused(cli, tmp_path, prompts, tmp_path / "no", "no such model directory")

    def test_not_a_model(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        self.refused(cli, tmp_path, prompts, tmp_path, "config.json")

    def test_a_file(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        self.refused(cli, tmp_path, prompts, prompts, "is a file")

    def test_an_unreachable_hub_id(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        self.refused(cli, tmp_path, prompts, "nobody/nothing", "nobody/nothing", "Hub")

    def test_no_tokenizer(self, cli: Cli, tmp_path: Path, prompts: Path, model: Path) -> None:
        (model / "tokenizer.json").unlink()
        self.refused(cli, tmp_path, prompts, model, "tokenizer")

    def test_no_chat_template(self, cli: Cli, tmp_path: Path, prompts: Path, model: Path) -> None:
        (model / "chat_template.jinja").unlink()
        self.refused(cli, tmp_path, prompts, model, "no chat template")

    def test_an_unknown_template_variable(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path
    ) -> None:
        (model / "chat_template.jinja").write_text("{{ persona.name }}{{ messages[0].content }}")
        self.refused(cli, tmp_path, prompts, model, "chat template", "persona")

    def test_pickled_weights_only(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path
    ) -> None:
        (model / "model.safetensors").rename(model / "pytorch_model.bin")
        self.refused(cli, tmp_path, prompts, model, "safetensors")

    @pytest.mark.parametrize(
        "engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]
    )
    def test_missing_weights(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path, engine: str
    ) -> None:
        config = json.loads((model / "config.json").read_text())
        config["num_hidden_layers"] += 1
        (model / "config.json").write_text(json.dumps(config))
        chosen = ("--model", model, "--engine", engine, "--set", "engine.isolation=subprocess")
        done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, *chosen)
        one_line(done, "weights")
        assert not rows_of(tmp_path / "run")

    def test_a_shard_that_is_missing(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path
    ) -> None:
        shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        (model / "model.safetensors").rename(model / shards[0])
        index = {"weight_map": dict(zip("ab", shards, strict=True))}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refused(cli, tmp_path, prompts, model, "1 of the 2 files", shards[1])
        assert shards[1] in cli("doctor", f"--model={model}", "--json").stdout
        (model / "model.safetensors.index.json").write_text("[]")
        self.refused(cli, tmp_path, prompts, model, "names no files of weights")
        (model / "model.safetensors.index.json").unlink()
        self.refused(cli, tmp_path, prompts, model, "1 of the 2 files", "their numbers", shards[1])

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_what_lfs_did_not_fetch(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path, name: str
    ) -> None:
        (model / "pytorch_model.bin").write_text(LFS)  # not needed
        assert "LFS" not in cli("doctor", f"--model={model}", "--json").stdout
        (model / name).write_text(LFS)
        self.refused(cli, tmp_path, prompts, model, name, "a Git LFS pointer", "`git lfs pull`")

    def test_an_adapter(self, cli: Cli, tmp_path: Path, prompts: Path, model: Path) -> None:
        (model / "config.json").rename(model / "adapter_config.json")
        advice = f"give its base model and --set engine.adapter={model}"
        self.refused(cli, tmp_path, prompts, model, "is a LoRA adapter", advice)

    def test_cut_weights(self, cli: Cli, tmp_path: Path, prompts: Path, model: Path) -> None:
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        self.refused(cli, tmp_path, prompts, model, "model.safetensors", "download the model again")


class TestEngines:
    def test_vllm_asked_for_and_not_installed(
        self, cli: Cli, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import importlib.util

        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else real(name, *a)
        )
        done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, "--engine", "vllm")
        one_line(done, "sso-data[vllm]", "--engine transformers")


class TestRunDirectories:
    def test_another_run_is_refused_by_name(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        run = tmp_path / "run"
        assert cli("generate", prompts, "--out", run, *INLINE).exit_code == 0
        before = rows_of(run)
        done = cli("generate", prompts, "--out", run, *INLINE, "--set", "sampling.top_p=0.5")
        one_line(done, "sampling.top_p is 0.8 there and 0.5 here", "--overwrite")
        assert rows_of(run) == before

    def test_another_model_is_refused(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path
    ) -> None:
        run = tmp_path / "run"
        assert cli("generate", prompts, "--out", run, *INLINE).exit_code == 0
        tensors = load_file(model / "model.safetensors")
        save_file(
            {name: tensor * 1.01 for name, tensor in tensors.items()},
            model / "model.safetensors",
            metadata={"format": "pt"},
        )
        done = cli("generate", prompts, "--out", run, *INLINE, "--model", model)
        one_line(done, "model is")

    def test_a_directory_of_something_else(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        done = cli("generate", prompts, "--out", tmp_path, *INLINE)
        one_line(done, "not empty and not a run")

    @pytest.mark.parametrize(
        "change",
        [{"generation_config.json": {"eos_token_id": 3}}, {"engine": {"dtype": "bfloat16"}}],
    )
    def test_what_would_change_rows_is_refused(
        self, cli: Cli, tmp_path: Path, prompts: Path, model: Path, change: dict[str, object]
    ) -> None:
        """Other end-of-sequence ids; another number format than the rows that are there."""
        run = tmp_path / "run"
        chosen = ("--out", run, *INLINE, "--model", model)
        assert cli("generate", prompts, *chosen, "--limit", 4).exit_code == 0
        if "engine" in change:
            manifest = json.loads((run / "run.json").read_text())
            manifest["engine"] |= change["engine"]
            write_json(run / "run.json", manifest)
        else:
            (model / "generation_config.json").write_text(json.dumps(*change.values()))
        advice = "another --out" if "engine" in change else "--overwrite"
        one_line(cli("generate", prompts, *chosen), advice)
        assert len(rows_of(run)) == 4

    def test_two_processes_do_not_write_pairs_at_once(
        self, cli: Cli, tmp_path: Path, prompts: Path
    ) -> None:
        run = tmp_path / "run"
        assert cli("generate", prompts, "--out", run, *INLINE).exit_code == 0
        with locked(run, "pairs"):
            one_line(cli("filter", run), "another process is writing its pairs")
            assert cli("filter", run, "--dry-run").exit_code == 0
        with locked(run, "rows"):
            assert cli("filter", run).exit_code == 0

    def test_filter_wants_a_run(self, cli: Cli, tmp_path: Path) -> None:
        one_line(cli("filter", tmp_path), "no run.json", "sso-data generate")
        one_line(cli("filter", tmp_path / "no"), "no such directory")

    def test_filter_reads_filter_keys_only(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        run = tmp_path / "run"
        assert cli("generate", prompts, "--out", run, *INLINE).exit_code == 0
        one_line(cli("filter", run, "--set", "sampling.top_p=1"), "filter.*")
        one_line(cli("filter", run, "--preset", "strict"), "filter.preset")

    def test_a_full_disk(self, cli: Cli, tmp_path: Path, prompts: Path) -> None:
        """A file-size limit stands in for the full disk; afterwards the run goes on."""
        run = tmp_path / "run"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            done = cli("generate", prompts, "--out", run, *INLINE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        one_line(done, "cannot write", "00000.jsonl")
        written = rows_of(run)
        assert 0 < len(written) < 12
        assert cli("generate", prompts, "--out", run, *INLINE).exit_code == 0
        fresh = tmp_path / "fresh"
        assert cli("generate", prompts, "--out", fresh, *INLINE).exit_code == 0
        assert {row["id"] for row in rows_of(run)} == {row["id"] for row in rows_of(fresh)}
        assert rows_of(run)[: len(written)] == written

    def test_a_read_only_place(self, cli: Cli, prompts: Path) -> None:
        one_line(cli("generate", prompts, "--out", "/proc/run", *INLINE), "/proc/run")


def test_catalogue_of_the_tests_is_the_worlds() -> None:
    assert (catalogue_dir() / "safety.yaml").is_file()


@pytest.mark.parametrize(
    "words",
    [
        "generate PROMPTS --out LOOP",
        "generate PROMPTS --out run --except LOOP",
        "merge LOOP LOOP --out joined",
        "merge LOOP other --out joined",
        "report LOOP",
        "export LOOP --to trl --out LOOP",
        "train PROMPTS --out LOOP",
        "augment PROMPTS -n 2 --out LOOP.jsonl/new.jsonl",
        "iterate PROMPTS --out LOOP",
    ],
)
def test_a_loop_of_links_is_one_line(cli: Cli, tmp_path: Path, prompts: Path, words: str) -> None:
    for name in ("loop", "loop.jsonl"):
        (tmp_path / name).symlink_to(tmp_path / name)
    places = words.replace("PROMPTS", str(prompts)).replace("LOOP", str(tmp_path / "loop"))
    taken = words.split()[0] in ("generate", "train", "augment", "iterate")
    one_line(cli(*places.split(), *(("--model", policy_dir()) if taken else ())), "loop")
