"""Every failure that a user may see, as a small tree of exceptions.

    SsoDataError          one line for the user: where, what, what to do (exit code 1)
    ├── InputError        a prompt file, a row of it, or a principle file is wrong
    ├── ConfigError       an option or a config key is unknown or out of range
    ├── ModelError        a model directory, its tokenizer or its chat template cannot be used
    ├── EngineError       the engine could not start, or died for good
    │   └── EngineDeadError          a running engine died or hangs; another one may go on
    │       └── EngineMemoryError    its memory did not suffice
    └── RunError          a run directory belongs to another run, or cannot be written

A failure of one row is no exception: it is a `records.Failure`, and the run goes on.
"""

import re

_SECRETS = re.compile(
    r"\b(?:hf|api_org)_\w{4,}|\bsk-[\w-]{16,}|(?<=[Bb]earer )\S{4,}|(?<=://)[^\s/@]+:[^\s/@]*(?=@)",
    re.ASCII,
)
"""Tokens of the Hub and of language-model services, and a user's password in an address."""
_MOST = 1200


class SsoDataError(Exception):
    """A failure that the user can act on; its text is one line: where, what, what to do.

    Whatever comes in (a path with a line break, a library's message with a token in its address),
    the text is one line that a terminal can show, without secrets.
    """

    def __str__(self) -> str:
        text = shown(without_secrets(super().__str__()))
        return text if len(text) <= _MOST else f"{text[: _MOST - 4]} ..."


class InputError(SsoDataError):
    """A file that came in is missing, unreadable or malformed."""


class ConfigError(SsoDataError):
    """An option or a config key is unknown or out of range."""


class ModelError(SsoDataError):
    """A model, its tokenizer or its chat template cannot be used."""


class EngineError(SsoDataError):
    """The engine could not start, or died for good."""


class EngineDeadError(EngineError):
    """A running engine died or hangs; starting it again may help."""


class EngineMemoryError(EngineDeadError):
    """A running engine died because its memory did not suffice."""


class RunError(SsoDataError):
    """A run directory is another run's, or cannot be written or read."""


def one_line(text: object, most: int = 600) -> str:
    """`text` for a message: one line of bounded length, without secrets, that can be shown."""
    line = shown(" ".join(without_secrets(str(text)[: most * 4]).split()))
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def shown(text: str) -> str:
    """`text` as a terminal can show it: white space as spaces, anything else invisible as "?".

    Escape sequences, text that runs backwards and half characters can then do no harm.
    """
    if text.isprintable():
        return text
    whole = text.encode("utf-8", "backslashreplace").decode()
    return "".join(_shown(char) for char in whole)


def _shown(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else "?"


def without_secrets(text: str) -> str:
    """`text` with "<token>" in the place of tokens, and of the password in an address."""
    return _SECRETS.sub("<token>", text)


def described(error: BaseException, most: int = 300) -> str:
    """An exception of a library as one short line: its type and the start of its text."""
    text = one_line(error, most)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
