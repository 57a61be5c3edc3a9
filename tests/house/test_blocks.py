"""Every code block of the documentation: commands parse, settings load, Python compiles."""

import ast
import importlib
import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from sso_data.cli import app
from sso_data.config.keys import KINDS
from sso_data.config.loading import load
from sso_data.config.run import RunConfig
from sso_data.core.errors import SsoDataError
from sso_data.steering.principles import Principle

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHERS = {
    *("accelerate", "echo", "exec", "hf", "pip", "python", "torchrun", "trl", "uv", "vllm"),
    ".venv/bin/pre-commit",
}
"""Programs whose options are not checked here; an sso-data command behind them is."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines without indentation, and where it is."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^( *)```(\S*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        lines = [line.removeprefix(found[1]) for line in found[3].splitlines()]
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[2], "\n".join(lines) + "\n")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language in languages]
    assert found
    return pytest.mark.parametrize("block", found, ids=str)


def parsed(words: list[str]) -> tuple[str, Any]:
    """The name of an sso-data command, and its options as its function gets them."""
    command, name = get_command(app), ""
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no command {name} {words[:1]}"
        name = f"{name} {words[0]}".strip()
        command, words = command.commands[words[0]], words[1:]
    return name, command.make_context(name, words).params


def check_command(line: str) -> None:
    """Refuse an unknown command or option, a `--set` that does not load, an unknown target."""
    words = shlex.split(re.sub(r"\$\w+", "1", line), comments=True)
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words = words[1:]
    if not words:
        return
    for place, word in enumerate(words):
        if word == "sso-data" or (word == "sso_data" and words[place - 1] == "-m"):
            check_settings(*parsed(words[place + 1 :]))
            return
    program, *rest = words
    for extra in re.findall(r"sso-data\[([a-z,-]+)\]", line):
        assert set(extra.split(",")) <= EXTRAS.keys(), extra
    if program == "make":
        assert {one for one in rest if "=" not in one} <= TARGETS, rest
    elif program == "python" and rest[:2] != ["-m", "pytest"]:
        file = rest[1].replace(".", "/") if rest[0] == "-m" else rest[0]
        assert (ROOT / file).exists() or (ROOT / f"{file}.py").exists(), line
    else:
        assert program in OTHERS, f"{program}: teach this test about it"


def check_settings(name: str, params: dict[str, Any]) -> None:
    """Load what `--set` gives into the command's configuration."""
    if settings := params.get("settings"):
        writer = params.get("principle_model")
        more = {"principle_model": writer, "principles": "written"} if writer else {}
        load(KINDS.get(name, RunConfig), None, settings, base={"steering": more} if more else {})


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in ("bash", "python", "yaml", "json", "jsonl", "text", "jinja")
    if block.language == "text":
        assert not re.search(r"^(sso-data|pip|make|python) ", block.text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    text = re.sub(r"^( *)```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"^    +(sso-data|pip|make|python) ", text, re.MULTILINE)


@of("bash")
def test_commands(block: Block) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in line.split(" && ") if "#" not in line else [line]:
            check_command(part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`sso-data ([^`]+)`", text):
        words = code.replace("...", "").split()
        command: Any = get_command(app)
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command, words = command.commands[words.pop(0)], words
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        known |= {"--help", "--install-completion", "--show-completion"}
        given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert given <= known, code


@of("yaml")
def test_settings_load(block: Block) -> None:
    tree = yaml.safe_load(block.text)
    refused = []
    kinds: tuple[type[BaseModel], ...] = (*KINDS.values(), Principle)
    for kind in kinds:
        try:
            kind.model_validate(tree)
            return
        except (ValueError, SsoDataError) as error:
            refused.append(f"{kind.__name__}: {error}")
    assert "extends" in tree or block.page.name == "recipes.md", "\n".join(refused)


def pairs_of_words(text: str) -> list[tuple[str, str]]:
    words = re.findall(r"[^\W\d_]+", text)
    return list(itertools.pairwise(words))


def printed() -> set[tuple[str, str]]:
    """Words that stand side by side in the code and the templates, without what is filled in."""
    found: set[tuple[str, str]] = set()
    for file in [*(ROOT / "sso_data").rglob("*.py"), *(ROOT / "templates").glob("*.j2")]:
        text = re.sub(r'"\s*\n\s*(\+ )?f?"', "", file.read_text())
        found.update(pairs_of_words(re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{[^{}]*\}", " ", text)))
    return found


def test_outputs_are_worded_as_the_code_words_them() -> None:
    """Of a long line of output most words stand beside each other in what prints it.

    Counts, answers of models and lists of files are not looked at.
    """
    known, looked = printed(), 0
    for block in BLOCKS:
        if block.language != "text" or block.page.name not in ("training.md", "tutorial.md"):
            continue
        for line in block.text.splitlines():
            pairs = pairs_of_words(line)
            if len(pairs) < 6 or re.match(r" |\d|[A-Z]+/|\w+ \(drawn", line):
                continue
            looked += 1
            assert sum(pair in known for pair in pairs) >= 0.6 * len(pairs), f"{block}: {line}"
    assert looked >= 10
    assert pairs_of_words("most rows vanish at the gate") and ("rows", "vanish") not in known


def test_accounts_in_outputs_add_up() -> None:
    found = [
        match for block in BLOCKS for match in re.finditer(r"rows (\d+) = (kept .*)", block.text)
    ]
    assert found
    for match in found:
        assert int(match[1]) == sum(map(int, re.findall(r"\d+", match[2]))), match[0]


@of("json", "jsonl")
def test_json_is_json(block: Block, tmp_path: Path) -> None:
    for line in block.text.splitlines():
        assert isinstance(json.loads(line), dict)


@of("python")
def test_python_compiles_and_what_it_imports_is_there(block: Block) -> None:
    tree = compile(block.text, str(block), "exec", ast.PyCF_ONLY_AST)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sso_data"):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
