"""Writes the parts of the documentation that are made from the code: options, commands, modules.

`python docs/generate.py` writes them, `python docs/generate.py --check` fails when one is stale.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydantic import BaseModel
from typer.main import get_command

from benchmarks import filter_tests, real_model, steering
from benchmarks.memory import Shape, TrainingMethod, training_bytes
from sso_data.cli import app
from sso_data.config.augmentation import AugmentConfig
from sso_data.config.evaluation import EvalConfig, JudgeConfig
from sso_data.config.iteration import IterateConfig
from sso_data.config.keys import Key, is_section, keys_of
from sso_data.config.migration import CHANGES
from sso_data.config.paper import LOSSES, RUN, TRAINING
from sso_data.config.recipes import load_recipe, recipe_names
from sso_data.config.run import RunConfig
from sso_data.config.training import TrainConfig
from tests.house.test_floors import FLOORS

_AT_THE_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md")
"""Pages of the site that do not lie in docs/."""

_CONFIGS: dict[str, type[BaseModel]] = {
    **{"run": RunConfig, "prompts": RunConfig, "training": TrainConfig, "judge": JudgeConfig},
    **{"iteration": IterateConfig, "augmentation": AugmentConfig},
}
"""The configuration of each kind of changes."""

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "sso_data"
ROOMS_START, ROOMS_END = "<!-- rooms: made by `make docs` -->", "<!-- end of rooms -->"
TREE_START, TREE_END = "<!-- tree: made by `make docs` -->", "<!-- end of tree -->"
KEYS_START, KEYS_END = "<!-- keys: made by `make docs` -->", "<!-- end of keys -->"
RECIPES_START, RECIPES_END = "<!-- recipes: made by `make docs` -->", "<!-- end of recipes -->"
UPGRADE_START, UPGRADE_END = "<!-- upgrade: made by `make docs` -->", "<!-- end of upgrade -->"
MEMORY_START, MEMORY_END = "<!-- memory: made by `make docs` -->", "<!-- end of memory -->"
PAPER_START, PAPER_END = "<!-- paper: made by `make docs` -->", "<!-- end of paper -->"
ARMS_START, ARMS_END = "<!-- arms: made by `make docs` -->", "<!-- end of arms -->"
"""Results of benchmarks that go on arm by arm."""


_SHAPES = {
    "SmolLM2 135M": (30, 576, 1536, 9, 3, 64, 49_152, True),
    "Qwen2.5 0.5B": (24, 896, 4864, 14, 2, 64, 151_936, True),
    "Qwen2.5 1.5B": (28, 1536, 8960, 12, 2, 128, 151_936, True),
    "Qwen2.5 3B": (36, 2048, 11_008, 16, 2, 128, 151_936, True),
    "Qwen3 8B": (36, 4096, 12_288, 32, 8, 128, 151_936, False),
    "Qwen2.5 14B": (48, 5120, 13_824, 40, 8, 128, 152_064, False),
}
"""Layers, hidden, intermediate, heads, key-value heads, head size, vocabulary, tied."""


def training_memory() -> str:
    """GiB of a training by model and method, for pairs of 1024 tokens, one and four rows."""
    fields = Shape.__dataclass_fields__
    lines = ["| model | rows | float32 | bfloat16 | LoRA |", "|---|---|---|---|---|"]
    for name, sizes in _SHAPES.items():
        shape = Shape(**dict(zip(fields, sizes, strict=True)))
        for rows in (1, 4):
            found = [
                sum(training_bytes(shape, method, tokens=2 * rows * 1024).values())
                for method in get_args(TrainingMethod)
            ]
            cells = " | ".join(f"{size / 2**30:.1f}" for size in found)
            lines.append(f"| {name} | {rows} | {cells} |")
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Every configuration key, its type, default and meaning."""
    head = (
        "# Configuration\n\n"
        "Every key below can be set in the YAML file of `--config`, or by `--set key=value`. "
        "Unknown keys are refused. Some of them have an option of their own.\n\n"
        "```yaml\nmodel: Qwen/Qwen3-8B\nsampling:\n  top_p: 0.9\nfilter:\n  gap: q0.5\n```\n\n"
        "This page is made from `sso_data/config/run.py` by `make docs`.\n"
    )
    return head + _sections(RunConfig, "Run", "A whole run.")


def train_configuration() -> str:
    """Every key of a training's configuration."""
    head = (
        "# Configuration of a training\n\n"
        "Every key below can be set in the YAML file of `sso-data train --config`, or by "
        "`--set key=value`. Unknown keys are refused, and so are keys without an effect. What they "
        "are for: [training.md](training.md).\n\n"
        "```yaml\nmodel: Qwen/Qwen3-8B\nloss:\n  type: dpo\n  beta: 0.1\noptim:\n"
        "  lr: 5.0e-7\n```\n\n"
        "This page is made from `sso_data/config/training.py` by `make docs`.\n"
    )
    return head + _sections(TrainConfig, "Training", "A whole training.")


def _sections(
    config: type[BaseModel], title: str, about: str, *, without: Collection[str] = ()
) -> str:
    """A table of a configuration's own keys, and one of each of its sections."""
    sections = [_table(title, about, keys_of(config, deep=False))]
    for name, field in config.model_fields.items():
        if name not in without and is_section(field.annotation):
            section: Any = field.annotation
            about = " ".join((section.__doc__ or "").split())
            rows = keys_of(section, f"{name}.", deep=False)
            sections.append(_table(f"`{name}`", about, rows))
    return "\n".join(sections)


def _table(title: str, about: str, keys: Iterable[Key]) -> str:
    lines = [f"\n## {title}\n", about + "\n", "| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key.name}` | `{key.shown or '(empty)'}` | {key.meaning} |" for key in keys]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its options."""
    lines = [
        "# Commands\n",
        "Results go to stdout, progress and errors to stderr; `--json` prints a summary for "
        "scripts. This page is made from the commands by `make docs`.\n",
        "| exit code | meaning |\n|---|---|",
        "| 0 | done |",
        "| 1 | something to correct: one line says where, what, and what to do |",
        "| 2 | an unknown option or a missing argument |",
        "| 3 | done, but some prompts failed: see `failed.jsonl` of the run |",
        "| 130, 143 | interrupted (Ctrl-C, SIGTERM): the same command continues |",
    ]
    for name, command in _walk(get_command(app), "sso-data"):
        lines += [f"\n## `{name}`\n", (command.help or "").strip() + "\n"]
        if command.epilog:
            lines.append(f"{command.epilog.replace('Example: ', 'Example: `')}`\n")
        lines += ["| | |", "|---|---|"]
        lines += [f"| {option} | {text} |" for option, text in _parameters(command)]
    return "\n".join(lines) + "\n"


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for sub_name, sub in command.commands.items():
        if getattr(sub, "commands", None):
            yield from _walk(sub, f"{name} {sub_name}")
        else:
            yield f"{name} {sub_name}", sub


def _parameters(command: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        names = ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len, reverse=True))
        label = names if is_option else f"`{parameter.name.upper()}`"
        required = " (required)" if parameter.required and is_option else ""
        yield label, f"{parameter.help or ''}{required}"


def architecture() -> str:
    """The architecture page, its tree of modules made anew from their docstrings."""
    page = _with_part("architecture.md", ROOMS_START, _rooms(), ROOMS_END)
    return _replaced(page, TREE_START, _tree(), TREE_END)


def augment() -> str:
    """The page of `augment`, its tables of keys made anew; those of a run are on their own page."""
    shared = RunConfig.model_fields.keys() & AugmentConfig.model_fields.keys()
    keys = _sections(AugmentConfig, "Augmentation", "A whole augmentation.", without=shared)
    return _with_part("augment.md", KEYS_START, keys, KEYS_END)


def evaluation() -> str:
    """The page of `eval`, its tables of keys made anew; those of a run are on their own page."""
    about = "A whole evaluation, for `--config` and `--set`."
    keys = _sections(EvalConfig, "Configuration", about, without=("source", "generate"))
    return _with_part("evaluation.md", KEYS_START, keys, KEYS_END)


def recipes() -> str:
    """The page of the recipes: which command reproduces what, and the paper's values."""
    page = _with_part("recipes.md", RECIPES_START, _places(), RECIPES_END)
    return _replaced(page, PAPER_START, _paper_values(), PAPER_END)


def _places() -> str:
    """A table of the paper's tables and figures, with a command for each of their experiments."""
    trees = {name: load_recipe(name) for name in recipe_names()}
    places = {place for tree in trees.values() for place in tree["reproduces"]}
    lines = [
        "\n## Which command reproduces what\n",
        "| of the paper | what | `sso-data iterate --out DIR` ... |",
        "|---|---|---|",
    ]
    for place in sorted(places, key=_by_number):
        lines += [
            f"| {place} | {tree['title']} | `--recipe {name}` |"
            for name, tree in trees.items()
            if place in tree["reproduces"]
        ]
    return "\n".join(lines) + "\n"


def _by_number(place: str) -> tuple[int, int, str]:
    """Tables before figures before what has no number."""
    kind, _, number = place.partition(" ")
    if not number.isdigit():
        return 2, 0, place
    return ("Table", "Figure").index(kind), int(number), ""


def _paper_values() -> str:
    """Tables of what `recipe: paper` means for a run, a training and each objective."""
    parts = {
        "Run": RUN,
        "Training": TRAINING,
        "Training with objective `sso`": LOSSES["sso"],
        "Training with objective `pairs`": LOSSES["pairs"],
        "Training with objective `sso-generator` (second version)": LOSSES["sso-generator"],
    }
    lines: list[str] = []
    for title, tree in parts.items():
        values = [
            f"`{section}.{key}: {str(value).lower() if isinstance(value, bool) else value}`"
            for section, keys in tree.items()
            for key, value in keys.items()
        ]
        lines.append(f"| {title} | {', '.join(values)} |")
    return "\n".join(["\n| | |", "|---|---|", *lines]) + "\n"


def iterate() -> str:
    """The page of `iterate`, its tables of keys made anew."""
    keys = _sections(
        IterateConfig, "Iteration", "A whole iteration.", without=("generate", "train")
    )
    return _with_part("iterate.md", KEYS_START, keys, KEYS_END)


def _with_arms(name: str, study: ModuleType) -> str:
    """A page with the results of a study, from the finished arms in its file."""
    results = study.part(real_model.read(study.RESULTS))
    return _with_part(name, ARMS_START, f"\n{results}\n", ARMS_END)


def _with_part(name: str, start: str, part: str, end: str) -> str:
    """A page with the part between two marks replaced."""
    return _replaced((DOCS / name).read_text(encoding="utf-8"), start, part, end)


def _replaced(page: str, start: str, part: str, end: str) -> str:
    """`page` with the part between two marks replaced."""
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return before + start + "\n" + part + end + after


def _rooms() -> str:
    """The whole house: a line a room, floor by floor, the highest first."""
    lines = ["| floor | room | what happens there |", "|---|---|---|"]
    for room, floor in sorted(FLOORS.items(), key=lambda item: (-item[1], item[0])):
        path = PACKAGE / room
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if room and room != "__main__":
            about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            first = " ".join(about.split("\n\n")[0].split())
            lines.append(f"| {floor} | `{room}` | {first} |")
    return "\n".join(lines) + "\n"


def _tree() -> str:
    lines = ["```text"]
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).parts
        if parts[0] == "world" and parts[-1] != "__init__.py":
            continue
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        name = "/".join(parts).replace("/__init__.py", "/")
        first = " ".join(doc.split("\n\n")[0].split())
        lines.append(f"{name:<30}{first}")
    return "\n".join(lines) + "\n```\n"


def llms() -> str:
    """The list of pages for language models (llmstxt.org), in the order of the navigation."""
    project = tomllib.loads((DOCS.parent / "zensical.toml").read_text(encoding="utf-8"))["project"]
    lines = [f"# {project['site_name']}\n", f"> {project['site_description']}\n"]
    for entry in project["nav"]:
        [(title, pages)] = entry.items()
        lines.append(f"## {title}\n")
        for page in pages if isinstance(pages, list) else [entry]:
            [(name, file)] = page.items()
            lines.append(f"- [{name}]({file}): {_about(file)}")
        lines.append("")
    return "\n".join(lines)


def _about(page: str) -> str:
    """The first sentence of a page, without its links."""
    known = {"index.md": "../README.md"} | {name: f"../{name}" for name in _AT_THE_ROOT}
    text = (DOCS / known.get(page, page)).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$|^#.*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    first = re.sub(r"\[([^]]*)\]\([^)]*\)|\*\*", r"\1", text.strip().split("\n\n")[0])
    sentence = re.split(r"(?<=[.:])\s", " ".join(first.split()))[0]
    return f"{sentence.rstrip('.:')}."


def changelog() -> str:
    """The changelog, its tables of renamed keys and changed defaults made anew."""
    renamed = ["| key of 0.1.0 | now | values |", "|---|---|---|"]
    defaults = ["| key | of | directories of 0.1.0 keep | default now |", "|---|---|---|---|"]
    for change in CHANGES:
        if change.old is not None:
            values = ", ".join(f"`{old}` is `{new}`" for old, new in change.values.items())
            renamed.append(f"| `{change.old}` | `{change.key}` | {values} |")
        else:
            [of] = change.of
            now = {key.name: key.default for key in keys_of(_CONFIGS[of])}[change.key]
            now = list(now) if isinstance(now, tuple) else now
            if now != change.default:
                defaults.append(f"| `{change.key}` | {of} | `{change.default}` | `{now}` |")
    tables = ["", *renamed, "", *dict.fromkeys(defaults), ""]
    return _with_part("../CHANGELOG.md", UPGRADE_START, "\n".join(tables), UPGRADE_END)


PAGES = {
    "architecture.md": architecture,
    "augment.md": augment,
    "evaluation.md": evaluation,
    "configuration.md": configuration,
    "iterate.md": iterate,
    "training.md": lambda: _with_part("training.md", MEMORY_START, training_memory(), MEMORY_END),
    "train_configuration.md": train_configuration,
    "commands.md": commands,
    "recipes.md": recipes,
    "filter.md": lambda: _with_arms("filter.md", filter_tests),
    "real_model.md": lambda: _with_arms("real_model.md", real_model),
    "principles.md": lambda: _with_arms("principles.md", steering),
    "llms.txt": llms,
    "../CHANGELOG.md": changelog,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check only compare them; returns the exit code."""
    stale = []
    for name, make in PAGES.items():
        page, content = DOCS / name, make()
        if "--check" in arguments:
            if not page.exists() or page.read_text(encoding="utf-8") != content:
                stale.append(name)
        else:
            page.write_text(content, encoding="utf-8")
    if stale:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
