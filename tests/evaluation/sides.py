"""Comparisons for tests of judges."""

from collections.abc import Sequence

from sso_data.core.records import Message
from sso_data.evaluation.verdicts import Answered, Comparison, Judge, NoVerdict, Verdict


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


def judged(judge: Judge, comparisons: Sequence[Comparison]) -> list[Verdict | NoVerdict]:
    """One verdict or reason for each comparison, in their order, whatever order they came in."""
    found = list(judge.compare(comparisons))
    assert sorted(one.key for one in found) == sorted(one.key for one in comparisons)
    by_key = {one.key: one for one in found}
    assert len(by_key) == len(found)
    return [by_key[one.key] for one in comparisons]


def verdicts_of(judge: Judge, comparisons: Sequence[Comparison]) -> list[Verdict]:
    """The same where every comparison has a verdict."""
    found = judged(judge, comparisons)
    verdicts = [one for one in found if isinstance(one, Verdict)]
    assert len(verdicts) == len(found), found
    return verdicts
