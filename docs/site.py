"""Builds the site of the documentation in build/site, from the pages of docs/ and zensical.toml.

`python docs/site.py ZENSICAL...` stages the pages in build/docs (README.md becomes the home page),
with the report of a run of the demo's policy, runs `ZENSICAL... build --strict` (a link that leads
nowhere fails), and checks that no page loads anything from elsewhere.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
STAGED, SITE = BUILD / "docs", BUILD / "site"
DEMO_PROMPTS = 64
SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme loads to search pages that are opened from disk; docs/assets has a copy."""

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)="?(https?:)?//"""
    r"""|<link\b(?![^>]*rel="?(?:canonical|next|prev|edit))[^>]*\bhref="?(https?:)?//"""
    r"""|(?:@import\s+["']?|url\(\s*["']?)(?:https?:)?//""",
    re.IGNORECASE,
)
"""What a browser fetches from elsewhere when it opens a page or its style sheets."""


def stage() -> None:
    """Make build/docs: the pages, the files that they show, and what else they link to."""
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.copytree(ROOT / "docs", STAGED, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        page = STAGED / name.replace("README", "index")
        page.write_text(text.replace("](docs/", "]("), encoding="utf-8")
    for page in STAGED.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(\.\./([^)#]+)", text):
            (STAGED / link).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / link).is_dir() else shutil.copy
            copy(ROOT / link, STAGED / link)
        page.write_text(text.replace("](../", "]("), encoding="utf-8")


def stage_report() -> None:
    """Put the report of a run of the demo's policy beside the pages."""
    sys.path.insert(0, str(ROOT))
    from sso_data import generate
    from sso_data.demo import tiny_story
    from sso_data.reporting.page import report

    shutil.rmtree(BUILD / "demo", ignore_errors=True)
    story = tiny_story(DEMO_PROMPTS)
    generate(list(story.prompts), BUILD / "demo", config=story.run)
    report(BUILD / "demo", STAGED / "demo")


def build(zensical: list[str]) -> None:
    """Run Zensical, and put the sources of the pages, which llms.txt links to, beside them."""
    shutil.rmtree(SITE, ignore_errors=True)
    subprocess.run([*zensical, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    for page in SITE.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(SHIM, "assets/iframe-worker.js"), encoding="utf-8")
    for page in STAGED.glob("*.md"):
        shutil.copy(page, SITE)


def from_elsewhere(site: Path) -> Iterator[str]:
    """Yield every resource of pages and style sheets that a browser would fetch from elsewhere."""
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for found in _LOADED.finditer(file.read_text(encoding="utf-8")):
            yield f"{file.relative_to(site)}: {found[0]}"


def main(zensical: list[str]) -> int:
    """Build the site; returns the exit code."""
    stage()
    stage_report()
    build(zensical)
    found = list(from_elsewhere(SITE))
    for line in found:
        print(f"loads from elsewhere: {line}", file=sys.stderr)  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
