"""Answers as models write them: the query is found, or the answer is called what it is."""

import pytest

from sso_data.augmentation.answers import Rejection, read_answer

WELL_FORMED = {
    "plain": '{"query": "Why is it so?"}',
    "spaced": '  {\n "query" : "Why is it so?"\n}\n',
    "fenced": '```json\n{"query": "Why is it so?"}\n```',
    "fenced without a language": '```\n{"query": "Why is it so?"}\n```',
    "prose before": 'Here is one:\n{"query": "Why is it so?"}',
    "prose after": '{"query": "Why is it so?"}\nI hope that this helps!',
    "prose and fence": 'Gladly.\n```json\n{"query": "Why is it so?"}\n```\nAnother?',
    "in a list": '[{"query": "Why is it so?"}]',
    "more keys": '{"operation": "harder", "query": "Why is it so?", "n": 1}',
    "another key": '{"question": "Why is it so?"}',
    "single quotes": "{'query': 'Why is it so?'}",
    "trailing comma": '{"query": "Why is it so?",}',
    "a text": '"Why is it so?"',
    "a list of one text": '["Why is it so?"]',
    "twice encoded": '{"query": "{\\"query\\": \\"Why is it so?\\"}"}',
    "braces before": 'With {braces} first: {"query": "Why is it so?"}',
    "the first of two": '{"query": "Why is it so?"} {"query": "Why not?"}',
    "blanks around": '{"query": "  Why is it so? "}',
    "escapes": '{"query": "Why \\u0069s it so?"}',
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_the_query_is_found(name: str) -> None:
    assert read_answer(WELL_FORMED[name], "json") == "Why is it so?"


def test_a_query_of_several_lines_keeps_them() -> None:
    assert read_answer('{"query": "Fix this:\n\tx = 1"}', "json") == "Fix this:\n\tx = 1"
    assert read_answer('{"query": "Fix this:\\n x = {1: 2}"}', "json") == "Fix this:\n x = {1: 2}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ('{"query": ""}', "empty"),
        ('{"query": "  "}', "empty"),
        ("Why is it so?", "unparsable"),
        ("I cannot help with that.", "unparsable"),
        ('{"query": "Why is it', "unparsable"),
        ('{"query": 12}', "unparsable"),
        ('{"query": null}', "unparsable"),
        ('{"query": ["Why?", "How?"]}', "unparsable"),
        ('{"first": "Why?", "second": "How?"}', "unparsable"),
        ('["Why?", "How?"]', "unparsable"),
        ("{}", "unparsable"),
        ("[]", "unparsable"),
        ("12", "unparsable"),
        ("null", "unparsable"),
        ("{" * 5000, "unparsable"),
        ("[" * 100_000, "unparsable"),
        ('{"query":' * 2000, "unparsable"),
        ("{'query': __import__('os').getcwd()}", "unparsable"),
    ],
)
def test_what_is_no_answer_is_called_so(answer: str, reason: str) -> None:
    found = read_answer(answer, "json")
    assert isinstance(found, Rejection)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("Why is it so?", "Why is it so?"),
        ('"Why is it so?"', "Why is it so?"),
        ("New question: Why is it so?", "Why is it so?"),
        ("Query: “Why is it so?”", "Why is it so?"),
        ('"Yes" or "no"', '"Yes" or "no"'),
        ('{"query": 1} is JSON. Why?', '{"query": 1} is JSON. Why?'),
    ],
)
def test_text_answers_are_the_query(answer: str, query: str) -> None:
    assert read_answer(answer, "text") == query
