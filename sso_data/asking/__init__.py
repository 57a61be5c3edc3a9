"""Steering by a model, for all prompts of a run, in a stage of its own before sampling."""

from sso_data.asking.books import Book, MemoryBook, Tally
from sso_data.asking.rounds import Round
from sso_data.asking.stage import Guide, Models, look_up, prompts_of, steer_all

__all__ = [
    "Book",
    "Guide",
    "MemoryBook",
    "Models",
    "Round",
    "Tally",
    "look_up",
    "prompts_of",
    "steer_all",
]
