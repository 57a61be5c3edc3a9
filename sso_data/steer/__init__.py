"""Steering: which features a prompt gets, and the texts that ask for their good and bad side."""

from sso_data.steer.rules import (
    CONCISION,
    FREE_FORM,
    Rules,
    Steered,
    check_features,
    steer,
    system_text,
)

__all__ = [
    "CONCISION",
    "FREE_FORM",
    "Rules",
    "Steered",
    "check_features",
    "steer",
    "system_text",
]
