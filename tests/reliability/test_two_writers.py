"""A second process on the same directory is refused; a killed one leaves no lock behind."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.generation.merge import merge
from sso_data.world import policy_dir
from tests.reliability.flow import Flow, check_whole, content, scripted, write_prompts
from tests.reliability.injector import tree_of

HOLDER = """
import sys
from pathlib import Path
from sso_data.runs.workdir import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Another process holds a run's rows or pairs, or a training's model; then it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
        process.kill()


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, what: str) -> None:
    """One line, exit code 1."""
    assert result.exit_code == 1, result.output
    assert f"another process is writing its {what}" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error")]) == 1
    assert "Traceback" not in result.stderr


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    scripted(monkeypatch)
    return Flow(prompts=write_prompts(tmp_path / "prompts.jsonl"))


def generate(flow: Flow, run: Path, *options: str) -> Result:
    return command("generate", flow.prompts, "--out", run, "-m", "x", "--skip-bad-rows", *options)


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_second_generate(flow: Flow, tmp_path: Path, options: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    flow(run)
    expected, before = content(run), tree_of(run)
    with held(run, "rows"):
        refused(generate(flow, run, *options), "rows")
        assert tree_of(run) == before
    assert generate(flow, run, *options).exit_code == 3, "the killed process left a lock"
    check_whole(run, expected)


def test_a_second_generate_before_anything_is_there(flow: Flow, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with held(run, "rows"):
        refused(generate(flow, run), "rows")
    assert generate(flow, run).exit_code == 3


def test_a_second_retry_and_a_second_merge(flow: Flow, tmp_path: Path) -> None:
    run, joined = tmp_path / "run", tmp_path / "joined"
    flow(run)
    merge([run], joined)
    before = tree_of(joined), tree_of(run)
    with held(run, "rows"), held(joined, "rows"):
        refused(command("retry", run), "rows")
        refused(command("merge", run, "--out", joined), "rows")
        assert (tree_of(joined), tree_of(run)) == before
    assert command("retry", run).exit_code == 3
    assert command("merge", run, "--out", joined).exit_code == 3


def test_a_second_filter(flow: Flow, tmp_path: Path) -> None:
    """Two filters at once are not possible; to filter what a running `generate` has made is."""
    run = tmp_path / "run"
    flow(run)
    expected, before = content(run), tree_of(run / "pairs")
    with held(run, "pairs"):
        refused(command("filter", run), "pairs")
        refused(generate(flow, run), "pairs")
        refused(generate(flow, run, "--overwrite"), "pairs")
        assert command("filter", run, "--dry-run").exit_code == 0
        assert tree_of(run / "pairs") == before
    with held(run, "rows"):
        assert command("filter", run).exit_code == 0
    expected["filter"] |= {"decided_by": "filter"}
    check_whole(run, expected)


def test_a_swap_of_another_filter_is_left_alone(flow: Flow, tmp_path: Path) -> None:
    """Between its two renames there is no `pairs/`; a `generate` must not bring the old one back
    under the hands of the filter that is at work."""
    run = tmp_path / "run"
    flow(run)
    (run / "pairs").rename(run / ".pairs.old")
    with held(run, "pairs"):
        refused(generate(flow, run), "pairs")
        assert (run / ".pairs.old").is_dir() and not (run / "pairs").exists()
    assert generate(flow, run).exit_code == 3
    assert (run / "pairs").is_dir() and not (run / ".pairs.old").exists()


def test_a_second_train(tmp_path: Path) -> None:
    """The lock is taken before the model is loaded."""
    out = tmp_path / "out"
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}\n' * 20)
    out.mkdir()
    arguments: tuple[object, ...] = (
        "train",
        rows,
        "--out",
        out,
        "--model",
        policy_dir(),
        "--objective",
        "pairs",
    )
    arguments += ("--set=optim.max_steps=1", "--set=log.plot=false")
    with held(out, "model"):
        refused(command(*arguments), "model")
        assert [path.name for path in out.iterdir()] == [".model.lock"]
    assert command(*arguments).exit_code == 0
