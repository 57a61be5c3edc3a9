"""Every failure that a user may see, as a small tree of exceptions.

    SsoDataError          one line for the user: where, what, what to do (exit code 1)
    ├── InputError        a prompt file, a row of it, or a principle file is wrong
    ├── ConfigError       an option or a config key is unknown or out of range
    ├── ModelError        a model directory, its tokenizer or its chat template cannot be used
    ├── EngineError       the engine could not start, or died
    └── RunError          a run directory belongs to another run, or cannot be written

A failure of one row is no exception: it is a `records.Failure`, and the run goes on.
"""


class SsoDataError(Exception):
    """A failure that the user can act on; its text is one line: where, what, what to do."""


class InputError(SsoDataError):
    """A file that came in is missing, unreadable or malformed."""


class ConfigError(SsoDataError):
    """An option or a config key is unknown or out of range."""


class ModelError(SsoDataError):
    """A model, its tokenizer or its chat template cannot be used."""


class EngineError(SsoDataError):
    """The engine could not start, or died."""


class RunError(SsoDataError):
    """A run directory is another run's, or cannot be written or read."""


def one_line(text: object, most: int = 600) -> str:
    """`text` for a message: one line of bounded length, in characters that UTF-8 can hold."""
    line = " ".join(str(text)[: most * 4].encode("utf-8", "backslashreplace").decode().split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def described(error: BaseException, most: int = 300) -> str:
    """An exception of a library as one short line: its type and the start of its text."""
    text = one_line(error, most)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
