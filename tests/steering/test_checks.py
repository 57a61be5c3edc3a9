"""What is told of principle texts: likeness, quotation, leaks, control tokens, language."""

import pytest

from sso_data.core.language import is_another_language, language_of
from sso_data.steering import checks
from sso_data.steering.checks import review
from sso_data.steering.principles import Adjectives, Paraphrases, Principle

REQUEST = "My sourdough bread comes out flat every single time. What am I doing wrong?"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Give the right facts.", "give right   facts", True),
        ("Be brief and kind.", "Be kind, and brief!", True),
        ("Give facts that are right.", "Give facts that are wrong.", False),
        ("Answer the question.", "Do not answer the question.", False),
        ("Be accurate.", "Be inaccurate.", False),
        ("保持简洁。", "保持 简洁", True),
        ("保持简洁。", "保持冗长。", False),
        ("Ｂｅ ｂｒｉｅｆ", "be brief", True),
    ],
)
def test_texts_with_the_same_words_are_alike(one: str, other: str, alike: bool) -> None:
    assert checks.are_alike(one, other) is alike


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("Find out why bread comes out flat every single time they bake.", True),
        ("COMES OUT FLAT, EVERY SINGLE TIME: take each cause in turn.", True),
        ("Find out why the bread stays flat and test each cause.", False),
        ("Go through starter, proofing and oven heat.", False),
    ],
)
def test_six_words_in_a_row_are_a_quotation(text: str, quoted: bool) -> None:
    assert checks.quotes(text, REQUEST) is quoted


def test_a_whole_short_request_is_a_quotation_and_two_words_are_not() -> None:
    assert checks.quotes("When asked who wrote Faust, name him.", "Who wrote Faust?")
    assert not checks.quotes("Say hello there in a warm way.", "Hello there")
    assert not checks.quotes("Be kind.", "")


def test_scripts_without_spaces_are_compared_by_their_characters() -> None:
    request = "请用简单的语言解释量子计算机的工作原理"
    assert checks.quotes("解释量子计算机的工作原理时举例", request)
    assert not checks.quotes("用日常生活中的例子来说明", request)


@pytest.mark.parametrize(
    "text",
    [
        "Close with <|im_end|> at once.",
        "[INST] Be kind. [/INST]",
        "Stop with </s>.",
        "<start_of_turn>user",
        "<<SYS>> evil",
    ],
)
def test_control_tokens_of_any_chat_are_seen(text: str) -> None:
    assert checks.holds_control(text)
    assert not checks.holds_control("Is 3 < 4 | 5 > 2? [Institute]")


def test_lengths_and_likeness() -> None:
    assert checks.length_ratio("ab", "abcd") == checks.length_ratio("abcd", "ab") == 2
    assert checks.length_ratio("", "a") == float("inf")
    assert checks.likeness("one two three four", "one two three five") == pytest.approx(0.5)
    assert checks.likeness("", "") == 0
    assert not checks.is_showable("a\x1b[2J")
    assert checks.is_showable("ä 安全 🪁\n".replace("\n", " "))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("State only what you know to be true, and say so.", "en"),
        ("Nenne konkrete Zahlen und Einheiten, damit man jeden Schritt nachprüfen kann.", "de"),
        ("Donne des chiffres concrets et nomme les unités pour chaque étape.", "fr"),
        ("Напиши короткое стихотворение о первом дне в школе и прочитай его вслух.", None),
        ("def f(x): return x + 1", None),
        ("3 + 4 = 7", None),
        ("ok", None),
        ("", None),
        ("\ud800", None),
    ],
)
def test_a_language_is_named_only_where_it_is_sure(text: str, language: str | None) -> None:
    found = language_of(text)
    assert found == language or (language is None and found == "ru")


def test_a_change_of_language_is_claimed_only_where_both_are_sure_and_not_close() -> None:
    german = "Nenne konkrete Zahlen und Einheiten, damit man jeden Schritt nachprüfen kann."
    english = "Use concrete numbers and name the units so that each step can be checked."
    assert is_another_language(german, english)
    assert not is_another_language(german, german)
    assert not is_another_language(german, "3 + 4 = 7")
    assert not is_another_language("Be brief.", german)


def principle(name: str = "Candour", **changes: object) -> Principle:
    content: dict[str, object] = {
        "adjectives": Adjectives(good="Candid", bad="Evasive"),
        "meaning": "Whether it says what it means.",
        "good": "Say plainly what is the case, and what you do not know.",
        "bad": "Talk around what is the case, and hide what you do not know.",
    }
    return Principle.model_validate({"name": name, **content, **changes})


WARM = principle(
    "Warmth",
    adjectives=Adjectives(good="Warm", bad="Cold"),
    good="Greet the reader like an old friend who came a long way.",
    bad="Greet the reader like a form that came in the wrong tray.",
)


@pytest.mark.parametrize(
    ("changes", "severity", "words"),
    [
        ({"bad": "say plainly: what you do not know and what is the case"}, "error", "text are the same"),
        ({"bad": "Talk."}, "error", "times as long"),
        ({"bad": "Talk around the case, and hide all that you do not know about it, every time."},
         "warning", "times as long"),
        ({"good": "Follow these guidelines plainly, whatever is asked here."}, "error", "repeat"),
        ({"good": "Say <|im_end|> plainly, whatever it is that was asked."}, "error", "control"),
        ({"good": "Say so.", "bad": "Hide it."}, "warning", "very little"),
        ({"adjectives": Adjectives(good="Fine", bad="fine")}, "error", "both adjectives"),
        ({"adjectives": Adjectives(good="warm", bad="Evasive")}, "warning", "adjective of Warmth"),
        ({"name": "Free-Form"}, "error", "reserved for pairs without a feature"),
        ({"name": "warmth"}, "error", "in case only"),
        ({"good": WARM.good}, "error", "its good text equals that of Warmth"),
        ({"bad": WARM.bad.replace("tray", "place")}, "warning", "much like that of Warmth"),
        ({"paraphrases": Paraphrases(good=("Be frank about it all.",))}, "warning", "2 good and 1"),
        (
            {"paraphrases": Paraphrases(
                good=("Say, plainly, what is the case and what you do not know.",),
                bad=("Keep everything that matters well out of the reader's sight.",),
            )},
            "warning",
            "two wordings are the same",
        ),
        ({"bad": "Rede um die Sache herum und verbirg, was du nicht weißt, so gut es geht."},
         "warning", "in different languages"),
    ],
)  # fmt: skip
def test_what_a_review_finds(changes: dict[str, object], severity: str, words: str) -> None:
    name = str(changes.pop("name", "Candour"))
    found = review([principle(name, **changes), WARM])
    assert any(one.severity == severity and words in one.text for one in found), found
    assert found == sorted(found, key=lambda one: one.severity)


def test_a_sound_catalogue_has_no_findings() -> None:
    assert review([principle(), WARM]) == []
