"""A Python function as judge: what it is given, what it may return, how it fails."""

import sys
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.evaluation import JudgeConfig
from sso_data.core.errors import ConfigError
from sso_data.evaluation.judge_function import AT_ONCE
from sso_data.evaluation.judges import judge_identity, open_judge
from sso_data.evaluation.verdicts import JudgeError, NoVerdict, Verdict
from tests.evaluation.sides import compared, judged, verdicts_of

SOURCE = """
CALLS = []

def longer(comparisons):
    CALLS.append(comparisons)
    return [(len(one["a"]), len(one["b"])) for one in comparisons]

def mixed(comparisons):
    return [1, 0.25, None, (3.5, -1), [2, 2]][:len(comparisons)]

def raises(comparisons):
    raise KeyError("no\\nsuch\\nfield")

def short(comparisons):
    return [1.0]

def odd(comparisons):
    return ["a"] * len(comparisons)

def beyond(comparisons):
    return [1.5] * len(comparisons)

def unbounded(comparisons):
    return [(float("nan"), 1.0)] * len(comparisons)

NUMBER = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my judge.py"
    path.write_text(SOURCE)
    return path


def judge(name: str) -> Any:
    return open_judge(JudgeConfig(kind="python", callable=name))


def test_it_is_given_dicts_in_parts_and_scores(file: Path) -> None:
    found = judge(f"{file}:longer")
    asked = [
        compared("a" * (i % 7), "bbb", "Really?", key=f"k{i}", system="Be brief.")
        for i in range(AT_ONCE + 6)
    ]
    said = verdicts_of(found, asked)
    assert [one.preference for one in said[:7]] == [0, 0, 0, 0.5, 1, 1, 1]
    assert said[6].scores == (6.0, 3.0)
    assert [one.key for one in said] == [one.key for one in asked]
    calls = found._function.__globals__["CALLS"]
    assert [len(call) for call in calls] == [AT_ONCE, 6]
    assert calls[0][1] == {
        "key": "k1",
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Really?"},
        ],
        "a": "a",
        "b": "bbb",
        "a_num_tokens": 1,
        "b_num_tokens": 1,
    }


def test_numbers_pairs_and_nothing(file: Path) -> None:
    said = judged(judge(f"{file}:mixed"), [compared("x", "y", key=str(i)) for i in range(5)])
    assert [one.preference for one in said if not isinstance(one, NoVerdict)] == [1, 0.25, 1, 0.5]
    assert isinstance(said[2], NoVerdict)
    assert said[2].reason == "no_verdict"
    assert isinstance(said[3], Verdict)
    assert said[3].scores == (3.5, -1)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "raised KeyError: 'no\\nsuch\\nfield'"),
        ("short", "returned 1 verdicts for 2 comparisons"),
        ("odd", "returned 'a' for a comparison; it must be a number from 0 to 1"),
        ("beyond", "returned 1.5 for a comparison"),
        ("unbounded", "returned (nan, 1.0) for a comparison"),
    ],
)
def test_its_errors_are_one_line(file: Path, function: str, words: str) -> None:
    with pytest.raises(JudgeError) as caught:
        judged(judge(f"{file}:{function}"), [compared("x", "y"), compared("y", "x")])
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"judge {file}:{function}: ")
    assert words.replace("\\n", "\\n") in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module_here:judge", "No module named"),
        ("json:no_such_function", "no_such_function"),
        ("{file}:NUMBER", "is a int, not a function"),
        ("{folder}/nothing.py:judge", "nothing.py"),
        ("{folder}/broken.py:judge", "SyntaxError"),
    ],
)
def test_what_is_no_function(file: Path, name: str, words: str) -> None:
    (file.parent / "broken.py").write_text("def judge(:\n")
    with pytest.raises(ConfigError) as caught:
        judge(name.format(file=file, folder=file.parent))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_is_found_as_python_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_judges_for_this_test.py").write_text("def first(cs): return [1] * len(cs)\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = JudgeConfig(kind="python", callable="my_judges_for_this_test:first")
    assert verdicts_of(open_judge(config), [compared("x", "y")])[0].preference == 1
    assert judge_identity(config)["callable"] == "my_judges_for_this_test:first"
    del sys.modules["my_judges_for_this_test"]


def test_another_source_is_another_judge(file: Path) -> None:
    config = JudgeConfig(kind="python", callable=f"{file}:longer")
    before = judge_identity(config)
    file.write_text(SOURCE + "\n# judged otherwise\n")
    assert judge_identity(config) != before
