"""Comparisons for tests of judges."""

from collections.abc import Iterable

from sso_data.core.records import Message
from sso_data.evaluation.judges import Answered, Comparison, NoVerdict, Verdict


def compared(
    a: str, b: str, question: str = "What is a kite?", *, key: str = "", system: str = ""
) -> Comparison:
    """`a` against `b`; tokens are counted as words."""
    turns = [Message(role="system", content=system)] if system else []
    return Comparison(
        key=key or f"{a}|{b}",
        messages=(*turns, Message(role="user", content=question)),
        a=Answered(text=a, num_tokens=len(a.split())),
        b=Answered(text=b, num_tokens=len(b.split())),
    )


def verdicts_of(results: Iterable[Verdict | NoVerdict]) -> list[Verdict]:
    """The results, each of which is a verdict."""
    found = list(results)
    assert not [one for one in found if not isinstance(one, Verdict)]
    return [one for one in found if isinstance(one, Verdict)]
