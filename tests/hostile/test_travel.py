"""What leaves this machine: nothing. What is written of secrets: nothing."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sso_data.world import catalogue_dir, policy_dir, queries
from tests.waiting import CHILD_SECONDS

HOOK = Path(__file__).parent / "hook"
SECRETS = {
    "HF_TOKEN": "hf_" + "QxZ7" * 9,
    "HUGGING_FACE_HUB_TOKEN": "hf_" + "QxZ7" * 9,
    "OPENAI_API_KEY": "sk-proj-" + "Wv9_" * 12,
    "ANTHROPIC_API_KEY": "sk-ant-" + "Kj4T" * 10,
    "WANDB_API_KEY": "0fedcba9" * 5,
    "AWS_SECRET_ACCESS_KEY": "Geheim+Geheim/1234",
    "DB_PASSWORD": "Passw0rd-of-nobody",
}
PASSWORD = "address-passw0rd"
LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Journey:
    """Commands run one after the other, with secrets around them and a hook in every process."""

    folder: Path
    printed: str
    connections: list[str]


def surroundings(folder: Path) -> dict[str, str]:
    """A user's environment: online as far as it knows, with tokens; its home is in `folder`."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "VLLM_", "TRANSFORMERS_")) and name != "TMPDIR"
    }
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    return plain | {
        **SECRETS,
        "HF_ENDPOINT": f"http://somebody:{PASSWORD}@127.0.0.1:9",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "CONNECTIONS": str(folder / "connections"),
        "PYTHONPATH": os.pathsep.join([str(HOOK), *filter(None, [plain.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
    }


def run(folder: Path, *words: object) -> str:
    """One `sso-data` command that ends well; returns all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sso_data", *map(str, words)],
        env=surroundings(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """generate, filter and train on the tiny policy."""
    folder = tmp_path_factory.mktemp("journey")
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}) for text in queries(6, seed=2)]
    prompts.write_text("\n".join(lines) + "\n")
    chosen = ("--model", policy_dir(), "--principles", catalogue_dir(), "--engine", "transformers")
    quick = ("--set=sampling.max_tokens=48", "--set=engine.dtype=float32", "--set=engine.threads=1")
    loose = (
        "--set=filter.closeness=q1.0",
        "--set=filter.gap=q0.0",
        "--set=filter.drop_truncated=false",
    )
    printed = run(folder, "generate", prompts, "--out", folder / "run", *chosen, *quick, *loose)
    printed += run(folder, "filter", folder / "run", "--json")
    steps = ("--set=optim.max_steps=2", "--set=optim.batch_size=4", "--set=log.plot=false")
    data = (folder / "run", "--out", folder / "trained", "--model", policy_dir())
    printed += run(folder, "train", *data, *steps)
    noted = folder / "connections"
    return Journey(folder, printed, noted.read_text().splitlines() if noted.exists() else [])


def secrets_in(text: bytes) -> list[str]:
    known = {*SECRETS.values(), PASSWORD}
    return sorted(secret for secret in known if secret.encode() in text)


def written(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]


def test_the_whole_tree_of_processes_opens_no_connection(journey: Journey) -> None:
    assert not journey.connections


def test_no_secret_is_written_or_printed(journey: Journey) -> None:
    files = written(journey.folder)
    names = {str(file.relative_to(journey.folder)) for file in files}
    for wanted in ("run/run.json", "run/rows/00000.jsonl", "run/pairs/train.parquet"):
        assert wanted in names
    for wanted in ("trained/train.json", "trained/README.md", "trained/metrics.jsonl"):
        assert wanted in names
    for file in files:
        assert not secrets_in(file.read_bytes()), file
    assert not secrets_in(journey.printed.encode())


ONE_AFTER_THE_OTHER = """
import json, sys, time
time.sleep = lambda seconds: None  # the Hub's library tries again and again
from sso_data.cli import app
for words in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def test_no_secret_is_in_an_error(tmp_path: Path) -> None:
    """Errors that name what the user gave, or say what the Hub's library says."""
    token = SECRETS["HF_TOKEN"]
    prompts = tmp_path / "q.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    model = ("--model", policy_dir())
    commands = [
        ("generate", prompts, "--model", "nobody/nothing"),
        ("generate", "nobody/nothing", *model),
        ("generate", f"https://me:{PASSWORD}@host/p.jsonl", *model),
        ("generate", prompts, "--model", f"{token}/x"),
        ("generate", prompts, *model, f"--set=engine.vllm.hf_token={token}"),
        ("generate", prompts, *model, f"--set=seed={token}"),
        (
            "generate",
            prompts,
            *model,
            "--set",
            f"views.template_kwargs={{x: {SECRETS['DB_PASSWORD']}}}",
        ),
        ("train", f"/nowhere/{token}", *model),
    ]
    words = [[*map(str, command), "--out", str(tmp_path / "run")] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(words)],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    assert done.stdout.split() == ["exit", "1"] * len(commands), done.stderr
    assert done.stderr.count("error: ") == len(commands), done.stderr
    assert not secrets_in(done.stderr.encode()), done.stderr
    assert "Traceback" not in done.stderr
    for file in written(tmp_path):
        assert file.name == "connections" or not secrets_in(file.read_bytes()), file
    noted = (tmp_path / "connections").read_text()
    assert all(any(host in line for host in LOCAL) for line in noted.splitlines()), noted


def test_the_hook_sees_connections(tmp_path: Path) -> None:
    """Else the test above could not fail: one in the process, one in a child of it."""
    code = (
        "import socket, subprocess, sys\n"
        "try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except OSError: pass\n"
        "if len(sys.argv) == 1: subprocess.run([sys.executable, __file__, 'child'], check=True)\n"
        "a, b = socket.socketpair()\n"
    )
    (tmp_path / "connect.py").write_text(code)
    subprocess.run(
        [sys.executable, str(tmp_path / "connect.py")], env=surroundings(tmp_path), check=True
    )
    lines = (tmp_path / "connections").read_text().splitlines()
    assert len({line.split()[0] for line in lines if "socket.connect" in line}) == 2
    assert all("127.0.0.1" in line for line in lines if "socket.connect" in line)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.long])]
)
def test_the_kernel_sees_none_either(tmp_path: Path, engine: str) -> None:
    """strace, where it may trace: connections that native code opens, too; only this machine's own
    are let be. Hook and secrets are there as well, for vLLM's processes.
    """
    trace = tmp_path / "trace"
    strace = shutil.which("strace") or ""
    traced = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    if not strace or subprocess.run([strace, "-f", "true"], capture_output=True).returncode:
        traced = []
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": queries(1, seed=2)[0]}) + "\n")
    words = ["generate", str(prompts), "--out", str(tmp_path / "run"), "--model", str(policy_dir())]
    words += ["--principles", str(catalogue_dir()), "--engine", engine, "--set=engine.threads=1"]
    done = subprocess.run(
        [*traced, sys.executable, "-m", "sso_data", *words, "--set=sampling.max_tokens=32"],
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = trace.read_text().splitlines() if traced else []
    away = [line for line in seen if "AF_INET" in line]
    assert not [line for line in away if not any(f'"{host}"' in line for host in LOCAL)]
    noted = tmp_path / "connections"
    hooked = noted.read_text().splitlines() if noted.exists() else []
    assert not [line for line in hooked if not any(host in line for host in LOCAL)]
    assert not secrets_in((done.stdout + done.stderr).encode())
    for file in written(tmp_path):
        assert not secrets_in(file.read_bytes()), file
