"""Principle files: what is refused, with its one line, and what the shipped catalogue promises."""

from pathlib import Path

import pytest
import yaml

from sso_data.core.errors import InputError
from sso_data.core.jinja import phrases
from sso_data.core.paths import CATALOGUES, principles_dir
from sso_data.steering.checks import review
from sso_data.steering.principles import Principle, load_catalogue, load_principle
from sso_data.steering.response_checks import ResponseCheck, sentences

FEATURES = {
    "Accuracy": ("Accurate", "Inaccurate"),
    "Comprehensiveness": ("Comprehensive", "Incomplete"),
    "Concision": ("Concise", "Verbose"),
    "Engagement": ("Engaging", "Dull"),
    "Helpfulness": ("Helpful", "Unhelpful"),
    "Literariness": ("Literary", "Boring"),
    "Logicality": ("Logical", "Illogical"),
    "Safety": ("Safe", "Unsafe"),
}
VALID = {
    "name": "Candour",
    "adjectives": {"good": "Candid", "bad": "Evasive"},
    "meaning": "Whether the response says what it means.",
    "good": "Say it.",
    "bad": "Talk around it.",
}
SHIPPED = list(load_catalogue().principles.values())
each_shipped = pytest.mark.parametrize("principle", SHIPPED, ids=lambda principle: principle.name)


def principle_file(directory: Path, file_name: str = "a.yaml", /, **changes: object) -> Path:
    """A valid principle file with changes; None leaves the field out."""
    content = {key: value for key, value in (VALID | changes).items() if value is not None}
    file = directory / file_name
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_catalogue(path) if path.is_dir() or not path.exists() else load_principle(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path}", path.name)


def test_a_valid_file(tmp_path: Path) -> None:
    principle = load_principle(
        principle_file(tmp_path, good="  Say it.\n", paraphrases={"bad": ["x"]})
    )
    assert (principle.name, principle.good) == ("Candour", "Say it.")
    assert (principle.paraphrases.good, principle.paraphrases.bad) == ((), ("x",))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"bad": None}, "a.yaml: bad: Field required"),
        ({"adjectives": {"good": "Candid"}}, "a.yaml: adjectives.bad: Field required"),
        (
            {"weight": 2},
            "a.yaml: weight: unknown key; the keys there are name, adjectives, meaning, good, bad, "
            "paraphrases, check",
        ),
        ({"good": " \n"}, "a.yaml: good: String should have at least 1 character"),
        ({"name": ""}, "a.yaml: name: String should have at least 1 character"),
        ({"name": "a, b"}, "a.yaml: name: String should match pattern '^[^,\\n]*$'"),
        ({"good": ["Say it."]}, "a.yaml: good: must be a text"),
        (
            {"check": {"max_word": 9}, "good": None},
            "a.yaml: good: Field required; check.max_word: unknown key; did you mean 'max_words' "
            "or 'word'?; the keys there are max_sentences, max_words, layout, language, word, "
            "without_word, ends_with",
        ),
        (
            {"paraphrases": {"good": [1]}},
            "a.yaml: paraphrases.good.0: must be a text",
        ),
        ({"good": "x" * 2001}, "a.yaml: good: String should have at most 2000 characters"),
        (
            {"bad": "Say it."},
            "a.yaml: good and bad are the same text; they must be opposites",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    assert refusal(principle_file(tmp_path, **changes)) == line


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text", "3"])
def test_no_mapping(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    assert refusal(tmp_path / "a.yaml") == (
        "a.yaml: must be a mapping with name, adjectives, meaning, good and bad"
    )


@pytest.mark.parametrize(
    "content",
    [b"a: [b", b"a: b: c", b"\tx", b"a: \xff", b"n: !!int x", b"[" * 100_000],
    ids=lambda content: content[:12].decode(errors="replace"),
)
def test_no_yaml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert refusal(tmp_path / "a.yaml").startswith("a.yaml: not readable as YAML: ")


def test_python_objects_are_not_made(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: !!python/object/apply:os.getcwd []\n")
    assert "could not determine a constructor" in refusal(tmp_path / "a.yaml")


def test_the_same_name_twice(tmp_path: Path) -> None:
    principle_file(tmp_path)
    second = principle_file(tmp_path, "b.yml")
    assert refusal(tmp_path).endswith(
        f"{second.name}: the name 'Candour' is taken by a.yaml; give each principle its own"
    )


def test_no_directory_and_no_files(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith(": no principle files (*.yaml) here")
    assert (
        refusal(tmp_path / "x") == "x: no such directory of principle files, nor a "
        "shipped catalogue (long, short, checkable)"
    )
    file = principle_file(tmp_path)
    with pytest.raises(InputError, match=r"a\.yaml: is a file; give its directory, "):
        load_catalogue(file)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    principle_file(tmp_path, "a.yaml")
    before = load_catalogue(tmp_path).fingerprint
    (tmp_path / "a.yaml").rename(tmp_path / "z.yaml")
    assert load_catalogue(tmp_path).fingerprint == before
    principle_file(tmp_path, "z.yaml", bad="Be silent.")
    assert load_catalogue(tmp_path).fingerprint != before


def test_shipped_features_and_adjectives() -> None:
    found = {p.name: (p.adjectives.good, p.adjectives.bad) for p in SHIPPED}
    assert found == FEATURES


@each_shipped
def test_shipped_files_are_named_after_their_feature(principle: Principle) -> None:
    file = load_catalogue().directory / f"{principle.name.lower()}.yaml"
    assert load_principle(file) == principle


def _pairs(principle: Principle) -> list[tuple[str, str]]:
    others = zip(principle.paraphrases.good, principle.paraphrases.bad, strict=True)
    return [(principle.good, principle.bad), *others]


@each_shipped
def test_shipped_sides_are_distinct_and_of_like_length(principle: Principle) -> None:
    pairs = _pairs(principle)
    assert len(pairs) >= 4
    assert len({text for pair in pairs for text in pair}) == 2 * len(pairs)
    for pair in pairs:
        shorter, longer = sorted(len(text.split()) for text in pair)
        assert longer <= 1.25 * shorter, pair


@each_shipped
def test_shipped_texts_are_two_to_four_sentences(principle: Principle) -> None:
    for text in (principle.good, principle.bad):
        assert 2 <= text.count(". ") + 1 <= 4
        assert text.endswith(".")
        assert "  " not in text
        assert "\n" not in text


@each_shipped
def test_shipped_texts_hold_no_words_that_leak(principle: Principle) -> None:
    own = ("guideline", "principle", "instruct", "system message", "intentional", "deliberate")
    everything = principle.model_dump_json().lower()
    assert not [phrase for phrase in (*phrases("leakage.txt"), *own) if phrase in everything]


@pytest.mark.parametrize("name", CATALOGUES)
def test_a_shipped_catalogue_is_found_by_its_name_and_has_no_finding(name: str) -> None:
    found = load_catalogue(Path(name))
    assert found.directory == principles_dir(name)
    assert not review(list(found.principles.values()))


def test_the_short_catalogue_has_one_sentence_a_side_for_each_feature_of_the_long_one() -> None:
    short = load_catalogue(Path("short"))
    assert list(short.principles) == list(load_catalogue(Path("long")).principles)
    for principle in short.principles.values():
        for text in (principle.good, principle.bad):
            assert sentences(text) == 1
            assert len(text.split()) <= 14


def test_every_checkable_principle_has_a_check() -> None:
    checkable = load_catalogue(Path("checkable"))
    assert list(checkable.checks) == list(checkable.principles)


def test_a_check_decides_no_row_and_so_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    before = load_catalogue(principle_file(tmp_path).parent)
    after = load_catalogue(principle_file(tmp_path, check={"max_words": 3}).parent)
    assert after["Candour"].check == ResponseCheck(max_words=3)
    assert after.fingerprint == before.fingerprint
    for wrong in ({}, {"max_words": 0}, {"layout": "poem"}, {"rhymes": True}):
        assert "check" in refusal(principle_file(tmp_path, check=wrong))
