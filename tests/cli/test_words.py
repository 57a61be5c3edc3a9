"""What messages say: absolute paths, the nearest name, what a fingerprint stands for; and when."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from sso_data.config.loading import key_names
from sso_data.config.run import RunConfig
from sso_data.core.errors import ModelError, RunError, nearest
from sso_data.core.paths import shell_command
from sso_data.models.directory import SMOLLM2, is_offline, resolve_model, smollm2_dir
from sso_data.runs.workdir import differences, refuse_another
from tests.cli.conftest import INLINE, Cli

NO_FCNTL = "import sys; sys.modules['fcntl'] = None; sys.argv = ['sso-data', '--help']\n"


def told(cli: Cli, *words: object) -> str:
    """The one line of a refusal."""
    done = cli(*words)
    assert done.exit_code == 1, (done.output, done.exception)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return line


def test_without_posix_locks_one_line_names_wsl() -> None:
    for code in (
        NO_FCNTL + "from sso_data.cli import main; main()",
        NO_FCNTL + "import sso_data.cli",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        [line] = done.stderr.splitlines()
        assert line.startswith("error: sso-data runs on Linux and macOS") and "WSL" in line
    code = "import sys; sys.modules['fcntl'] = None; import sso_data.runs.files"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "on Windows, use WSL" in done.stderr.splitlines()[-1]


class TestMacOS:
    """As far as it can be tried elsewhere: no vLLM, no /proc, no prctl, no MPS here."""

    @pytest.fixture(autouse=True)
    def mac(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("psutil", "transformers.modeling_utils"):  # they bring this system's modules
            importlib.import_module(name)
        monkeypatch.setitem(sys.modules, "vllm", None)
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr("sso_data.core.limits.MEMORY_FILE", "/no/proc/self/statm")

    @pytest.mark.parametrize("isolation", ["inline", "subprocess"])
    def test_the_engine_is_that_of_transformers(
        self, cli: Cli, prompts: Path, tmp_path: Path, isolation: str
    ) -> None:
        words = [word for word in INLINE if "engine=" not in word and "isolation" not in word]
        if isolation == "subprocess":  # a real child, which is no Mac
            words.append("--engine=transformers")
        words += [f"--set=engine.isolation={isolation}", "--limit=1", f"--out={tmp_path / 'run'}"]
        assert cli("generate", prompts, *words).exit_code == 0
        engine = json.loads((tmp_path / "run" / "run.json").read_text())["engine"]
        assert (engine["name"], engine["device"]) == ("transformers", "cpu")

    def test_what_is_not_there_is_named(self, cli: Cli, prompts: Path, tmp_path: Path) -> None:
        out = f"--out={tmp_path / 'run'}"
        line = told(cli, "generate", prompts, f"{out}2", *INLINE[1:], "--engine=vllm")
        assert "sso-data[vllm]" in line
        assert "mps" in told(cli, "generate", prompts, out, *INLINE, "--set=engine.device=mps")


class TestPaths:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A working directory with a folder, and a Hub that nobody may ask."""
        (tmp_path / "models").mkdir()
        monkeypatch.chdir(tmp_path)

        def asked(*args: object, **options: object) -> None:
            raise AssertionError("the Hub was asked")

        monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
        monkeypatch.setattr("sso_data.prompts.tables._streamed", asked)

    def test_a_wrong_model_is_named_as_tried_and_not_looked_for_on_the_hub(
        self, cli: Cli, prompts: Path, tmp_path: Path
    ) -> None:
        line = told(cli, "generate", prompts, "--out=out", *INLINE[:-1], "--model=models/second")
        assert line == f"error: {tmp_path / 'models' / 'second'}: no such model directory"
        line = told(cli, "train", prompts, "--out=out", "--model=./x")
        assert "chosen" in line, "the data's fault is cheaper to find"

    def test_a_wrong_source(self, cli: Cli, tmp_path: Path) -> None:
        for name in ("models/prompts", "models/prompts.jsonl", "./prompts"):
            where = (tmp_path / name).absolute()
            assert str(where) in told(cli, "generate", name, "--out=out", *INLINE)
            assert str(where) in told(cli, "train", name, "--out=out", "--model=models")

    def test_a_hub_id_is_one(self) -> None:
        with pytest.raises(Exception, match="the Hub was asked"):
            resolve_model("me/model")


class TestCheapFirst:
    """With a model that would be found wrong later."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--set=steering.features=[Helpfulnes]"], "did you mean 'Helpfulness'?"),
            (["--principles=/no/where"], "/no/where: no such directory of principle files"),
            (["--templates=/no/where"], "/no/where"),
            (["--out=."], "not empty and not a run"),
            (["--column=question"], "question"),
        ],
    )
    def test_generate(
        self, cli: Cli, prompts: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
    ) -> None:
        monkeypatch.chdir(prompts.parent)
        first = [] if "--out=." in words else ["--out=out"]
        assert said in told(cli, "generate", prompts, *first, "--model=/no/model", *words)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["none.jsonl"], "none.jsonl: no such file"),
            (["--set=generate.steering.features=[Safty]"], "did you mean 'Safety'?"),
            (["--set=held_out.prompts=none.jsonl"], "none.jsonl: no such file"),
        ],
    )
    def test_iterate(self, cli: Cli, prompts: Path, words: list[str], said: str) -> None:
        given = [str(prompts), *words] if words[0].startswith("--") else words
        out = f"--out={prompts.parent / 'out'}"
        assert said in told(cli, "iterate", *given, out, "--model=/no/model", "--rounds=1")

    def test_preview_and_train(self, cli: Cli, prompts: Path) -> None:
        model = "--model=/no/model"
        assert "no such file" in told(cli, "preview", prompts.parent / "none.jsonl", model)
        out = f"--out={prompts.parent}"
        assert "not empty" in told(cli, "train", prompts, out, model)


class TestNearest:
    def test_a_name(self) -> None:
        known = ("Helpfulness", "Honesty", "Safety")
        assert nearest("helpfulnes", known) == "; did you mean 'Helpfulness'?"
        assert nearest("xyz", known, "list them") == "; `list them` lists them"
        assert nearest("Honest", known, "l") == "; did you mean 'Honesty'?; `l` lists them"

    def test_keys(self) -> None:
        assert {"seed", "sampling", "sampling.top_p", "engine.vllm"} <= set(key_names(RunConfig))

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--set=sampling.temprature=1"], "did you mean 'temperature'?"),
            (["--set=smpling.top_p=1"], "did you mean 'sampling'?"),
            (["--set=temperature=1"], "'steering.temperature' or 'sampling.temperature'?"),
            (["--set=sampling.top_p=abc"], "sampling.top_p: must be a number (got 'abc')"),
            (["--set=filter.preset=referense"], "did you mean 'reference'?"),
            (["--principles=shrt"], "did you mean 'short'?"),
            (["--set=steering.features=[Safty]"], "`sso-data principles list --principles "),
        ],
    )
    def test_of_options(self, cli: Cli, prompts: Path, words: list[str], said: str) -> None:
        assert said in told(cli, "generate", prompts, "--out=out", "--model=m/m", *words)

    def test_of_other_commands(self, cli: Cli, tmp_path: Path) -> None:
        line = told(cli, "principles", "show", "helpfull")
        assert "did you mean 'Helpfulness'?" in line
        command = line.partition("`sso-data ")[2].partition("`")[0]
        assert "Helpfulness" in cli(*command.split()).stdout, "the advice, followed"
        line = told(cli, "iterate", "--recipe=llama3.1-8b-sft-ss", f"--out={tmp_path / 'o'}")
        assert "did you mean 'llama3.1-8b-sft-sso'" in line


HASH, OTHER = "0123456789abcdef", "fedcba9876543210"


def test_a_fingerprint_is_told_by_what_it_stands_for() -> None:
    def said(key: str, then: object, now: object) -> str:
        [line] = differences({key: HASH}, {key: OTHER}, {key: then}, {key: now})
        return line

    assert said("principles", "/p", None) == "principles is another: --principles /p then, none now"
    assert said("model", "a/b", "c/d") == "model is another: --model a/b then, --model c/d now"
    assert "the content of a/b changed" in said("model", "a/b", "a/b")
    assert "the tokenizer's files changed" in said("tokenizer", None, None)
    assert differences({"x": HASH}, {"x": OTHER}) == [f"x is another: {HASH} then, {OTHER} now"]
    assert differences({"seed": 1}, {"seed": 2}) == ["seed is 1 there and 2 here"]


def test_of_a_real_run(cli: Cli, prompts: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "system.j2").write_text("Be so: {{ texts | join(' ') }}")
    words = ["generate", prompts, f"--out={tmp_path / 'run'}", "--limit=1", *INLINE]
    assert cli(*words, f"--templates={own}").exit_code == 0
    assert f"templates is another: --templates {own} then, none now" in told(cli, *words)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["templates"]


def test_a_tilde_that_the_shell_left_is_the_home_directory(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli("config", "init", "generate", "--out=~/keys.yaml").exit_code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["keys.yaml"]
    words = ["generate", "~/none.jsonl", "--out=~/run/", "--model=~/no", "--set=sampling.top_k=~"]
    assert "sampling.top_k" in told(cli, *words), "YAML's null stays what it is"
    assert told(cli, *words[:-1]).startswith(f"error: {tmp_path / 'none.jsonl'}: no such file")
    nobody = tmp_path / "~nobody at all"
    assert f"{nobody}/p.jsonl" in told(cli, "generate", "~nobody at all/p.jsonl", *words[2:-1])


def test_a_tilde_is_left_to_the_shell() -> None:
    assert shell_command("a", "~/m n", "~", "x y") == "a ~/'m n' '~' 'x y'"


def test_without_the_hub_the_copy_made_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"no network$") as caught:
        resolve_model(SMOLLM2)
    assert is_offline(caught.value)
    smollm2_dir().mkdir(parents=True)
    with pytest.raises(ModelError, match=f"made here: {smollm2_dir()}$"):
        resolve_model(SMOLLM2)


def test_another_run_is_told_with_the_options_of_the_command_line() -> None:
    there: dict[str, object] = {"principles": "a" * 32, "seed": 1}
    other: dict[str, object] = {"principles": "b" * 32}
    short: dict[str, object] = {"principles": "short"}
    run = (Path("x"), "run")
    nothing: dict[str, object] = {}
    configs = (short, nothing)
    with pytest.raises(RunError, match="that began it with --principles short "):
        refuse_another(*run, there, there | other, configs=configs)
    with pytest.raises(
        RunError, match=r"^x: holds another run: seed is 1 there and 2 here; use another"
    ):
        refuse_another(*run, there, there | {"seed": 2})
    both = there | other | {"seed": 2}
    with pytest.raises(RunError, match=r"--config that began it \(--principles short among them"):
        refuse_another(*run, there, both, configs=configs)
