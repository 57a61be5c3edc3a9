"""Where the shipped files lie, in a checkout or inside an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def _shipped(name: str) -> Path:
    """The folder `name`: `sso_data/_shipped/<name>` in a wheel, the top level in a checkout."""
    in_wheel = _PACKAGE / "_shipped" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


def principles_dir() -> Path:
    """The folder of the shipped principle catalogue, one YAML file per principle pair."""
    return _shipped("principles")


def templates_dir() -> Path:
    """The folder of the shipped Jinja templates."""
    return _shipped("templates")


def examples_dir() -> Path:
    """The folder of the shipped examples: `recipes`, and `accelerate` with its launch files."""
    return _shipped("examples")


def world_dir() -> Path:
    """The folder of the tiny world: its `policy`, `principles`, `templates` and `data`."""
    return _PACKAGE / "world"
