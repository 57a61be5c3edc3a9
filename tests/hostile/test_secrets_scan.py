"""No secret is in a file of the repository: what detect-secrets knows."""

import subprocess
from pathlib import Path

import pytest
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).parents[2]
NOISY = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector")
"""Plugins that guess: they take fingerprints and words such as `password` for secrets."""
MADE_UP = "Basic Auth Credentials"
"""Tests make up addresses with passwords, to see that they are hidden."""
_BINARY = (".safetensors", ".png", ".parquet", ".gz", ".npz")


def tracked() -> list[Path]:
    """What git has, or would take."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / line for line in done.stdout.splitlines()]
    return [file for file in files if file.is_file() and file.suffix not in _BINARY]


def scanned(files: list[Path]) -> dict[str, list[str]]:
    """The kinds of secrets found, by file."""
    plugins = [
        {"name": kind.__name__}
        for kind in get_mapping_from_secret_type_to_class().values()
        if kind.__name__ not in NOISY
    ]
    with transient_settings({"plugins_used": plugins}):
        found = SecretsCollection()
        for file in files:
            found.scan_file(str(file))
        return {name: [secret.type for secret in found[name]] for name in found.files}


def test_nothing_that_detect_secrets_knows() -> None:
    files = tracked()
    assert len(files) > 200
    found = {
        name: [kind for kind in kinds if kind != MADE_UP or "tests" not in Path(name).parts]
        for name, kinds in scanned(files).items()
    }
    assert not {name: kinds for name, kinds in found.items() if kinds}


def test_the_scan_finds_one(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(f'KEY = "{"AKIA" + "QYLPMN5HFIQR7XYA"}"\n')
    assert scanned([file])
