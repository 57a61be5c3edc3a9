"""Templates: rendered in a sandbox, and every mistake in one is a ConfigError of one line."""

from pathlib import Path

import pytest

from sso_data.core.errors import ConfigError
from sso_data.core.jinja import SHIPPED, phrases, render


def refusal(tmp_path: Path, text: str | bytes, **variables: object) -> str:
    file = tmp_path / "t.j2"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        render("t.j2", directory=tmp_path, **variables)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{file}", "t.j2")


def test_the_system_message_holds_every_text() -> None:
    message = render("system.j2", texts=["Be kind.", "Be {{ brief }} & <exact>."])
    assert "- Be kind.\n" in message
    assert "- Be {{ brief }} & <exact>.\n" in message
    assert message == message.strip()


def test_variables_may_be_called_name(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text(" {{ name }}\n")
    assert render("t.j2", directory=tmp_path, name="ä") == "ä"


def test_an_unknown_variable_is_named_with_the_file(tmp_path: Path) -> None:
    line = refusal(tmp_path, "{{ colour }}", texts=[], size=1)
    assert line == "t.j2: 'colour' is undefined (variables given: size, texts)"


def test_a_missing_template(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.j2: .*not found"):
        render("nothing.j2", directory=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ texts.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ ''.__class__ }}", "unsafe"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include '../other.j2' %}", "../other.j2"),
        (b"\xff", "codec can't decode"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ range(10 ** 9) }}", "Range too big"),
    ],
)
def test_a_template_that_fails(tmp_path: Path, text: str | bytes, words: str) -> None:
    line = refusal(tmp_path, text, texts=[])
    assert line.startswith("t.j2: ")
    assert words in line


def test_phrases_are_lower_case_and_without_comments() -> None:
    found = phrases("leakage.txt")
    assert "these guidelines" in found
    assert all(phrase == phrase.strip().lower() and phrase[0] != "#" for phrase in found)


def test_the_fingerprint_depends_on_the_named_templates() -> None:
    both = SHIPPED.fingerprint("system.j2", "leakage.txt")
    assert both == SHIPPED.fingerprint("leakage.txt", "system.j2")
    assert both != SHIPPED.fingerprint("system.j2")
