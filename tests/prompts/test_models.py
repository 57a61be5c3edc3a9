"""Models on the Hub: the real client against a Hub on the loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.hub_server import HubServer, Repo

CHILD = """
import json, sys
from sso_data.models.directory import resolve_model

for trusted in (False, True):
    folder = resolve_model("team/model", trust_remote_code=trusted)
    print(json.dumps(sorted(file.name for file in folder.iterdir())))
"""


def test_code_is_downloaded_only_for_those_who_trust_it(tmp_path: Path) -> None:
    files = ("config.json", "model.safetensors", "modeling_own.py", "pytorch_model.bin")
    with HubServer() as hub:
        hub.keep("model", "team/model", Repo.of(dict.fromkeys(files, b"{}"), kind="model"))
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            env=os.environ | hub.environment(tmp_path / "hf"),
            capture_output=True,
            text=True,
            check=True,
        )
    before, after = map(json.loads, done.stdout.splitlines())
    assert before == ["config.json", "model.safetensors"]
    assert after == ["config.json", "model.safetensors", "modeling_own.py"]
