"""Checks of a response by rule, on texts that a person ticks off at a glance."""

import pytest

from sso_data.steering.response_checks import ResponseCheck, holds, list_items, sentences


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three? Four", 4),
        ("Pi is 3.14, e.g. in a circle.", 1),
        ('"Is it so?" she asked. "Yes."', 2),
        ("- a\n- b\n3. c", 3),
        ("A title\n\nA text.", 2),
        ("Wait... what?!", 1),
        ("\u4f60\u597d\u3002\u518d\u89c1\u3002", 2),
    ],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert sentences(text) == count


def test_items_of_a_list_are_lines_with_a_mark() -> None:
    assert list_items("Three:\n- one\n 2) two\n\u2022 three") == 3
    assert list_items("A dash - in a line, 3. of May\n-5 degrees") == 0


def test_words_are_found_whole_and_in_any_case() -> None:
    assert holds("For\nExample, this", "for example")
    assert not holds("your youth", "you")
    assert holds("(you)", "you")


FRENCH = "Le soleil se l\u00e8ve \u00e0 l'est et se couche \u00e0 l'ouest tous les jours."


@pytest.mark.parametrize(
    ("check", "text", "degree"),
    [
        ({"max_sentences": 1}, "One.", 1.0),
        ({"max_sentences": 1}, "One. Two. Three. Four.", 0.25),
        ({"max_words": 2}, "one two three four", 0.5),
        ({"layout": "list"}, "- a\n- b", 1.0),
        ({"layout": "list"}, "- a", 0.0),
        ({"layout": "prose"}, "A text.", 1.0),
        ({"layout": "prose"}, "A text:\n- a", 0.0),
        ({"language": "fr"}, FRENCH, 1.0),
        ({"language": "fr"}, "The sun rises in the east every single day.", 0.0),
        ({"word": "because"}, "Because it is.", 1.0),
        ({"word": "because"}, "It is.", 0.0),
        ({"without_word": "you"}, "It is yours.", 1.0),
        ({"without_word": "you"}, "It is you.", 0.0),
        ({"ends_with": "?"}, 'He said "why?" \n', 1.0),
        ({"ends_with": "?"}, "Why? Because.", 0.0),
        ({"ends_with": ")"}, "(yes)", 1.0),
        ({"max_sentences": 1, "ends_with": "?"}, "It is. Is it?", 0.75),
        ({"without_word": "you"}, "  ", 0.0),
    ],
)
def test_the_degree_to_which_a_text_follows(
    check: dict[str, object], text: str, degree: float
) -> None:
    assert ResponseCheck.model_validate(check).degree(text) == degree
