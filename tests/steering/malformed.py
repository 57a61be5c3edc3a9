"""What models say in the place of the JSON they are asked for, and what must become of it."""

from sso_data.steering.by_model import ACCEPTED
from sso_data.steering.replies import NAMES_NONE, NAMES_TOO_FEW
from tests.steering.scripted import GOOD_CHOICE, GOOD_PAIR

GOOD = "Name the likely causes one by one, with a test for each of them."
BAD = "Name a single unlikely cause in passing, without a test for it."
LONG = "and go on about it at great length with many further words of no use " * 20
REQUEST = "My sourdough bread comes out flat every single time I bake. What do I do wrong?"
MISSING = "missing_side"

CHOICES: dict[str, tuple[str, str]] = {
    "a JSON list": (GOOD_CHOICE, ACCEPTED),
    "a list in a fence": (f"```json\n{GOOD_CHOICE}\n```", ACCEPTED),
    "a list in a fence without a word": (f"Here:\n```\n{GOOD_CHOICE}\n```\nDone.", ACCEPTED),
    "a list in prose": (f"I would say {GOOD_CHOICE}, since it is about health.", ACCEPTED),
    "single quotes": ("['Safety', 'Accuracy']", ACCEPTED),
    "curly quotes": ("[“Safety”, “Accuracy”]", ACCEPTED),
    "a comma too many": ('["Safety", "Accuracy",]', ACCEPTED),
    "no closing bracket": ('["Safety", "Accuracy"', ACCEPTED),
    "no quotes": ("[Safety, Accuracy]", ACCEPTED),
    "an object": ('{"features": ["Safety", "Accuracy"]}', ACCEPTED),
    "an object of objects": (
        '{"features": [{"name": "Safety", "why": "x"}, {"name": "Accuracy", "why": "y"}]}',
        ACCEPTED,
    ),
    "features as keys": ('{"Safety": "it is risky", "Accuracy": "facts count"}', ACCEPTED),
    "yes and no": ('{"Safety": true, "Engagement": false, "Accuracy": true}', ACCEPTED),
    "ranks as keys": ('{"1": "Safety", "2": "Accuracy"}', ACCEPTED),
    "lines": ("Safety\nAccuracy", ACCEPTED),
    "bullets": ("- Safety\n- Accuracy", ACCEPTED),
    "bullets with reasons": ("* **Safety**: it is risky.\n* **Accuracy** - facts.", ACCEPTED),
    "numbers": ("1. Safety\n2) Accuracy", ACCEPTED),
    "a comma list": ("Safety, Accuracy", ACCEPTED),
    "a comma list after a word": ("Features: Safety and Accuracy", ACCEPTED),
    "a text in JSON": ('"Safety, Accuracy"', ACCEPTED),
    "adjectives": ('["Safe", "Accurate"]', ACCEPTED),
    "case and marks": ('["**SAFETY**", "_accuracy_"]', ACCEPTED),
    "explanations in brackets": ('["Safety (Safe, not Unsafe)", "Accuracy: facts"]', ACCEPTED),
    "a sentence": ("For this one, Safety matters first and then Accuracy does.", ACCEPTED),
    "too many": ('["Safety", "Accuracy", "Helpfulness", "Logicality"]', ACCEPTED),
    "an unknown one between": ('["Safety", "Kindness", "Accuracy"]', ACCEPTED),
    "twice the same": ('["Safety", "Safety", "Accuracy"]', ACCEPTED),
    "one only": ('["Safety"]', NAMES_TOO_FEW),
    "the same twice": ('["Safety", "Safe"]', NAMES_TOO_FEW),
    "one known, one not": ('["Safety", "Kindness"]', NAMES_TOO_FEW),
    "unknown ones": ('["Kindness", "Wit"]', NAMES_NONE),
    "numbers only": ("[1, 2]", NAMES_NONE),
    "nothing": ("", NAMES_NONE),
    "blanks": (" \n\t ", NAMES_NONE),
    "an empty list": ("[]", NAMES_NONE),
    "null": ("null", NAMES_NONE),
    "prose about something else": ("I cannot help with that.", NAMES_NONE),
    "an answer to the request": ("Bake it longer, at 230 degrees.", NAMES_NONE),
    "prose that names three": ("Not Safety but Accuracy or Engagement.", NAMES_TOO_FEW),
    "deep nesting": ("[" * 5000 + '"Safety"' + "]" * 5000, NAMES_TOO_FEW),
    "a megabyte": ("x " * 500_000, NAMES_NONE),
}
"""Kind -> (answer, outcome); of Safety and Accuracy, in this order, where it is accepted."""

PAIRS: dict[str, tuple[str, str]] = {
    "an object": (GOOD_PAIR, ACCEPTED),
    "an object in a fence": (f"```json\n{GOOD_PAIR}\n```", ACCEPTED),
    "an object in prose": (f"Sure! {GOOD_PAIR} I hope that this is of use.", ACCEPTED),
    "single quotes": (f"{{'good': '{GOOD}', 'bad': '{BAD}'}}", ACCEPTED),
    "curly quotes": (f"{{“good”: “{GOOD}”, “bad”: “{BAD}”}}", ACCEPTED),
    "a comma too many": (f'{{"good": "{GOOD}", "bad": "{BAD}",}}', ACCEPTED),
    "no closing brace": (f'{{"good": "{GOOD}", "bad": "{BAD}"', ACCEPTED),
    "line breaks in the texts": (GOOD_PAIR.replace(", with", ",\nwith"), ACCEPTED),
    "other names of the keys": (f'{{"Good principle": "{GOOD}", "bad_side": "{BAD}"}}', ACCEPTED),
    "positive and negative": (f'{{"positive": "{GOOD}", "negative": "{BAD}"}}', ACCEPTED),
    "bad first": (f'{{"bad": "{BAD}", "good": "{GOOD}"}}', ACCEPTED),
    "nested": (f'{{"principles": {GOOD_PAIR}}}', ACCEPTED),
    "two objects in a list": (f'[{{"good": "{GOOD}"}}, {{"bad": "{BAD}"}}]', ACCEPTED),
    "texts in objects": (
        f'{{"good": {{"text": "{GOOD}"}}, "bad": {{"text": "{BAD}"}}}}',
        ACCEPTED,
    ),
    "sentences in lists": (f'{{"good": ["{GOOD}"], "bad": ["{BAD}"]}}', ACCEPTED),
    "a list of two": (f'["{GOOD}", "{BAD}"]', ACCEPTED),
    "labels": (f"Good: {GOOD}\nBad: {BAD}", ACCEPTED),
    "bold labels": (f"**Good principle:** {GOOD}\n\n**Bad principle:** {BAD}", ACCEPTED),
    "labels on lines of their own": (f"### Good:\n{GOOD}\n\n### Bad:\n{BAD}\n", ACCEPTED),
    "quoted texts under labels": (f'good: "{GOOD}"\nbad: "{BAD}"', ACCEPTED),
    "more keys": (GOOD_PAIR[:-1] + ', "why": "so"}', ACCEPTED),
    "good only": (f'{{"good": "{GOOD}"}}', MISSING),
    "an empty side": (f'{{"good": "{GOOD}", "bad": ""}}', MISSING),
    "a null side": (f'{{"good": "{GOOD}", "bad": null}}', MISSING),
    "a number for a side": (f'{{"good": "{GOOD}", "bad": 3}}', MISSING),
    "cut in the second text": (GOOD_PAIR[:-20], MISSING),
    "nothing": ("", MISSING),
    "prose": ("I cannot write directions for that.", MISSING),
    "an answer to the request": ("Bake it longer, at 230 degrees.", MISSING),
    "one label": (f"Good: {GOOD}", MISSING),
    "a list of three": (f'["{GOOD}", "{BAD}", "x"]', MISSING),
    "broken JSON": ('{"good": Name the causes, "bad": no}', MISSING),
    "very deep": ('{"a":' * 5000 + "1" + "}" * 5000, MISSING),
    "dots": ('{"good": "...", "bad": "..."}', "too_short"),
    "a word each": ('{"good": "Helpful", "bad": "Unhelpful"}', "too_short"),
    "endless": (f'{{"good": "{GOOD} {LONG}", "bad": "{BAD} {LONG}"}}', "too_long"),
    "twice the same": (f'{{"good": "{GOOD}", "bad": "{GOOD}"}}', "same"),
    "the same in other marks": (
        f'{{"good": "{GOOD}", "bad": "{GOOD.upper().replace(",", ";")}"}}',
        "same",
    ),
    "a side three times as long": (
        f'{{"good": "{GOOD} {GOOD} {GOOD}", "bad": "{BAD}"}}',
        "unequal_length",
    ),
    "the request quoted": (
        f'{{"good": "{GOOD}", "bad": "Say that it comes out flat every single time I bake."}}',
        "quotes_request",
    ),
    "another language": (
        '{"good": "Nenne die wahrscheinlichen Ursachen, und zu jeder von ihnen einen Test.", '
        '"bad": "Nenne eine unwahrscheinliche Ursache am Rande und keinen Test dafür."}',
        "language",
    ),
    "its own instructions": (
        GOOD_PAIR.replace("in passing", "as these guidelines say"),
        "leak",
    ),
    "a control token": (GOOD_PAIR.replace("in passing", "<|im_end|>"), "control_tokens"),
    "half a surrogate": (GOOD_PAIR.replace("in passing", "\\ud800 in"), "unshowable"),
    "an escape sequence": (GOOD_PAIR.replace("in passing", "\\u001b[2J in"), "unshowable"),
}
"""Kind -> (answer, outcome) for REQUEST; of GOOD and BAD where it is accepted."""
