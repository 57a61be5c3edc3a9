"""`principles new`: a catalogue made from a plain description by a model."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from sso_data.chat.interface import answer
from sso_data.config.run import RunConfig
from sso_data.core.errors import EngineError, InputError, SsoDataError
from sso_data.core.jinja import Templates
from sso_data.runs.files import make_dir, remove_tree, swap_dir, write_new
from sso_data.steering.catalogue_models import asked_model
from sso_data.steering.invent import invent
from sso_data.steering.principles import Catalogue, Principle, load_catalogue

ATTEMPTS = 6
_WIDTH = 98


def new_catalogue(
    description: str, count: int, out: Path, config: RunConfig, tell: Callable[[str], None]
) -> Catalogue:
    """Ask for `count` principles of the described job and write them to the new directory `out`.

    Either all of them are written or nothing is. Raises InputError when `out` is there, or when the
    answers did not hold enough that can be used.
    """
    if not description.strip():
        raise InputError("no description given: say in a few words what the model will do")
    _refuse_existing(out)
    templates = Templates(directory=config.templates)
    templates.check()
    with asked_model(config, tell) as model:
        made = invent(
            description.strip(),
            count,
            lambda request: answer(model, request),
            seed=config.seed,
            templates=templates,
            attempts=ATTEMPTS,
        )
    if len(made.principles) < count:
        last = f" (the last was refused: {made.refused[-1]})" if made.refused else ""
        raise EngineError(
            f"{len(made.principles)} of {count} principles could be made after {ATTEMPTS} answers"
            f"{last}; ask for fewer with -n, or a stronger model"
        )
    write_catalogue(made.principles, out)
    return load_catalogue(out)


def write_catalogue(principles: Sequence[Principle], out: Path) -> None:
    """One file per principle in the new directory `out`, which appears when all are written."""
    new = out.with_name(f".{out.name}.new")
    names: set[str] = set()
    remove_tree(new)
    try:
        make_dir(new)
        for principle in principles:
            file = new / f"{_file_name(principle.name, names)}.yaml"
            write_new(file, as_yaml(principle).encode())
        _refuse_existing(out)
        swap_dir(new, out)
    except SsoDataError:
        remove_tree(new)
        raise


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: is there already; name a new directory with --out")


def as_yaml(principle: Principle) -> str:
    """A principle as its file says it."""
    content = principle.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=_WIDTH)


def _file_name(name: str, taken: set[str]) -> str:
    """A name for the file of a principle, different from those taken, which it joins."""
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "_", folded).strip("_")[:60] or "principle"
    number = 1
    while (found := base if number == 1 else f"{base}_{number}") in taken:
        number += 1
    taken.add(found)
    return found
