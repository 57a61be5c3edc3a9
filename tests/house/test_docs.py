"""The generated pages of docs/ are what the code says now; the house speaks only of itself."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [
    file
    for pattern in (
        "*.md",
        "docs/*.md",
        "templates/**/*",
        "principles/*/*.yaml",
        "sso_data/**/*.py",
    )
    for file in filter(Path.is_file, sorted(ROOT.glob(pattern)))
]


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_page_is_in_the_navigation() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed = re.findall(r"'([\w-]+\.md)'", str(config["project"]["nav"]))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted({*pages, "index.md", "CHANGELOG.md", "CONTRIBUTING.md"})


@pytest.mark.parametrize(
    ("text", "is_fetched"),
    [
        ('<script src="https://cdn.example/x.js">', True),
        ("<img alt=x src=//cdn.example/x.png>", True),
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ("@import url(https://fonts.example/css);", True),
        ('@font-face {src: url("//fonts.example/x.woff2")}', True),
        ('<a href="https://arxiv.org/abs/2410.17131">', False),
        ('<script src="assets/x.js">', False),
        ('<svg xmlns="http://www.w3.org/2000/svg">', False),
        ('<link rel="canonical" href="https://docs.example/x.html">', False),
    ],
)
def test_what_a_page_of_the_site_would_fetch_is_found(
    tmp_path: Path, text: str, is_fetched: bool
) -> None:
    (tmp_path / "page.html").write_text(text)
    assert bool(list(_site().from_elsewhere(tmp_path))) == is_fetched


def _site() -> Any:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", [file for file in TEXTS if file.suffix == ".md"], ids=str)
def test_links_lead_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / link).exists(), link


@pytest.mark.parametrize("file", TEXTS, ids=str)
def test_nothing_is_left_for_later(file: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", file.read_text(encoding="utf-8"))
