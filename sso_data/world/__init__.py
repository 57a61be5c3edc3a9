"""The tiny world: an embedded policy, the queries it can answer, and an exact oracle."""

from __future__ import annotations

from pathlib import Path

from sso_data.world.oracle import Score, score
from sso_data.world.query import queries

__all__ = ["Score", "catalogue_dir", "policy_dir", "queries", "score", "skill_templates_dir"]


def policy_dir() -> Path:
    """The folder of the tiny policy: a Hugging Face checkpoint (Llama, safetensors, bf16)."""
    return Path(__file__).parent / "policy"


def catalogue_dir() -> Path:
    """The folder of the short catalogue: one YAML file per feature, in words of the world."""
    return Path(__file__).parent / "principles"


def skill_templates_dir() -> Path:
    """The folder of the short templates that the tiny policy was trained on."""
    return Path(__file__).parent / "templates"
