"""Makes the pictures of README.md: the terminal of `sso-data demo`, and the report of its run.

`python docs/pictures.py` writes docs/pictures/demo.svg and report.webp; it needs Chromium.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "pictures"
COLUMNS = 120
SIZE = {"width": 1200, "height": 820}


def sso_data(*words: str) -> str:
    """Run a command as in a terminal of COLUMNS columns; return what it shows."""
    shown = {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sso_data", *words]
    return subprocess.run(
        command, env=os.environ | shown, capture_output=True, text=True, check=True
    ).stdout


def draw_terminal(command: str, output: str) -> str:
    """Return a terminal with a command and the last row and all after it as SVG, without fonts."""
    last = output.rstrip().splitlines()
    first = max(place for place, line in enumerate(last) if "user:" in line) - 2
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}\n...", style="bold"))
    console.print(Text.from_ansi("\n".join(last[first:])), soft_wrap=True)
    svg = console.export_svg(title="sso-data", theme=MONOKAI)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def photograph(page: Path) -> bytes:
    """Return the top of a report, and below it the browser with its third row open, as WebP."""
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready]")
        shots = [tab.screenshot()]
        tab.select_option("#reason", "kept")
        for _ in range(3):
            tab.keyboard.press("j")
        tab.wait_for_selector("#detail .answers")
        tab.keyboard.press("d")
        tab.evaluate("document.getElementById('rows').scrollIntoView()")
        shots.append(tab.screenshot())
        browser.close()
    both = Image.new("RGB", (SIZE["width"], len(shots) * SIZE["height"]))
    for number, shot in enumerate(shots):
        both.paste(Image.open(io.BytesIO(shot)), (0, number * SIZE["height"]))
    made = io.BytesIO()
    both.save(made, "WEBP", quality=82, method=6)
    return made.getvalue()


def main() -> None:
    """Make both pictures of one run."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        shown = sso_data("demo", "--out", str(run)).replace(str(run), "runs/demo")
        (OUT / "demo.svg").write_text(draw_terminal("sso-data demo --out runs/demo", shown))
        sso_data("report", str(run))
        (OUT / "report.webp").write_bytes(photograph(Path(folder) / "demo-report" / "index.html"))


if __name__ == "__main__":
    main()
