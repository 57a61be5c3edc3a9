"""Malformed answers of every kind, through a real server: accepted, asked again, or replaced.

A kind that is of no use is said once before a good answer (retried), and twice (fallback).
"""

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import pytest

from sso_data.chat.endpoint import EndpointCompletions
from sso_data.config.section import EndpointSection
from sso_data.core.records import JsonRow, Message, Prompt, content_hash, row_id
from sso_data.runs.steering import MemorySteeringStore
from sso_data.steering.by_model import ACCEPTED, CUT_OFF, PassTask
from sso_data.steering.passes import Pass
from sso_data.steering.rules import FREE_FORM
from tests.chat.server import Reply, said, serving
from tests.steering.malformed import BAD, CHOICES, GOOD, PAIRS, REQUEST
from tests.steering.scripted import GOOD_CHOICE, GOOD_PAIR, prompt, rules, steer

Times = Literal["once", "always"]


class Case(NamedTuple):
    """One prompt of the exchange: which answer it gets, and how often."""

    what: Literal["choose", "write"]
    kind: str
    times: Times

    @property
    def text(self) -> str:
        return f"{REQUEST} [{self.what}: {self.kind}, {self.times}]"


TIMES: tuple[Times, Times] = ("once", "always")
CASES = [
    *(Case("choose", kind, times) for kind in CHOICES for times in TIMES),
    *(Case("write", kind, times) for kind in PAIRS for times in TIMES),
]
BY_TEXT = {case.text: case for case in CASES}


def script(body: dict[str, Any], attempt: int) -> Reply:
    """The malformed answer that the question names, as often as it says."""
    question = body["messages"][-1]["content"]
    case = next(case for text, case in BY_TEXT.items() if text in question)
    chooses = case.what == "choose"
    answer = (CHOICES if chooses else PAIRS)[case.kind][0]
    if attempt and case.times == "once":
        answer = GOOD_CHOICE if chooses else GOOD_PAIR
    return said(answer)


def prompt_of(case: Case) -> Prompt:
    messages = (Message(role="user", content=case.text),)
    return Prompt(id=row_id(content_hash(messages), 0), messages=messages)


@pytest.fixture(scope="module")
def lines() -> Iterator[dict[Case, JsonRow]]:
    """What became of every case, from one exchange with the server."""
    found: dict[str, JsonRow] = {}
    choosing = PassTask(rules=rules(choose="policy"), choose=True, write=False)
    fixed = {"choose": "fixed", "features": ["Helpfulness"], "principles": "written"}
    writing = PassTask(rules=rules(**fixed), choose=False, write=True, writer="server")
    with serving(script) as server:
        model = EndpointCompletions("m", EndpointSection(endpoint=server.url, endpoint_in_flight=8))
        for what, task in (("choose", choosing), ("write", writing)):
            prompts = [prompt_of(case) for case in CASES if case.what == what]
            for _ in Pass(
                task,
                lambda: model,
                MemorySteeringStore(),
                on_line=lambda line: found.update({line["id"]: line}),
            ).run(prompts):
                pass
        model.close()
    yield {case: found[prompt_of(case).id] for case in CASES}


def outcomes(told: JsonRow) -> list[str]:
    return [attempt["outcome"] for attempt in told["attempts"]]


def test_there_are_fifty_kinds_and_more() -> None:
    assert len(CHOICES) + len(PAIRS) >= 50


@pytest.mark.parametrize("kind", CHOICES)
def test_what_becomes_of_a_choice(kind: str, lines: dict[Case, JsonRow]) -> None:
    expected = CHOICES[kind][1]
    once, always = (lines[Case("choose", kind, times)] for times in ("once", "always"))
    if expected == ACCEPTED:
        assert outcomes(once["choice"]) == outcomes(always["choice"]) == [ACCEPTED]
        assert once["principles"] == always["principles"] == ["Safety", "Accuracy"]
        assert always["chosen_by"] == "policy"
        return
    assert outcomes(once["choice"]) == [expected, ACCEPTED]
    assert once["principles"] == ["Safety", "Accuracy"]
    assert once["chosen_by"] == "policy"
    assert outcomes(always["choice"]) == [expected, expected]
    assert always["chosen_by"] == "fallback"
    drawn = rules(choose="random").draw(always["id"])
    assert tuple(always["principles"]) == drawn, "what random would have drawn"


@pytest.mark.parametrize("kind", PAIRS)
def test_what_becomes_of_a_pair(kind: str, lines: dict[Case, JsonRow]) -> None:
    expected = PAIRS[kind][1]
    once, always = (lines[Case("write", kind, times)] for times in ("once", "always"))
    assert once["chosen_by"] == always["chosen_by"] == "fixed"
    if expected == ACCEPTED:
        assert outcomes(once["written"]["Helpfulness"]) == [ACCEPTED]
        for line in (once, always):
            assert line["written_by"] == ["server"]
            assert (line["principles_good"], line["principles_bad"]) == ([GOOD], [BAD])
        return
    assert outcomes(once["written"]["Helpfulness"]) == [expected, ACCEPTED]
    assert once["written_by"] == ["server"]
    assert once["principles_good"] == [GOOD]
    told = always["written"]["Helpfulness"]
    assert outcomes(told) == [expected, expected]
    assert told["by"] == "catalogue"
    assert always["written_by"] == ["catalogue"]
    text = rules().text(always["id"], "Helpfulness")
    assert always["principles_good"] == [text.good]
    assert always["paraphrase_bad"] == [text.paraphrase_bad]


def test_seeds_of_attempts_differ_and_refused_answers_are_kept_in_part(
    lines: dict[Case, JsonRow],
) -> None:
    line = lines[Case("write", "endless", "always")]
    first, second = line["written"]["Helpfulness"]["attempts"]
    assert first["seed"] != second["seed"]
    assert len(first["text"]) <= 300
    assert json.dumps(line)


def test_a_free_pair_that_fails_gives_way_to_features_by_rule() -> None:
    free = rules(choose="none", principles="written")
    answers = iter(["nonsense", "nonsense", GOOD_PAIR])
    lines, _ = steer(
        [prompt("First?")], lambda request: next(answers), free, choose=False, write=True
    )
    [failed] = lines.values()
    assert failed["chosen_by"] == "fallback"
    assert tuple(failed["principles"]) == free.draw(failed["id"])
    assert set(failed["written_by"]) == {"catalogue"}
    lines, _ = steer([prompt("Next?")], lambda request: next(answers), free, choose=False)
    [made] = lines.values()
    assert (made["principles"], made["chosen_by"]) == ([FREE_FORM], "none")
    assert made["principles_good"] == [GOOD]


def test_an_answer_that_was_cut_off_is_said_to_be() -> None:
    fixed = rules(choose="fixed", features=["Helpfulness"], principles="written")
    with serving(lambda body, attempt: said(GOOD_PAIR[:-30], "length")) as server:
        model = EndpointCompletions("m", EndpointSection(endpoint=server.url))
        found: list[JsonRow] = []
        task = PassTask(rules=fixed, choose=False, write=True)
        case = prompt_of(CASES[0])
        for _ in Pass(task, lambda: model, MemorySteeringStore(), on_line=found.append).run([case]):
            pass
        model.close()
    assert outcomes(found[0]["written"]["Helpfulness"]) == [CUT_OFF, CUT_OFF]
