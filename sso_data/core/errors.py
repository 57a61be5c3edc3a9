"""Every failure that a user may see, as a small tree of exceptions.

    SsoDataError          one line for the user: where, what, what to do (exit code 1)
    ├── InputError        a prompt file, a row of it, or a principle file is wrong
    ├── ConfigError       an option or a config key is unknown or out of range
    ├── ModelError        a model directory, its tokenizer or its chat template cannot be used
    ├── EngineError       the engine could not start, or died for good
    │   └── EngineDeadError          a running engine died or hangs; another one may go on
    │       └── EngineMemoryError    its memory did not suffice
    ├── HubError          the Hub cannot be reached, or does not take or give what is asked
    ├── RunError          a run directory belongs to another run, or cannot be written
    │   └── LicenceError  a run is to be published to everybody without a licence
    ├── TrainError        training cannot start on these rows, or must not go on
    ├── JudgeError        a judge cannot be opened, or answers nothing (evaluation.verdicts)
    └── RoundTrainingError    the training of a round failed (iteration.training)

The failure of one row is a `records.Failure`, and the run continues.
"""

import difflib
import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

_SECRETS = re.compile(
    r"(?<=[Bb]earer )\S{4,}"  # first, so that no key within it ends it
    r"|\b(?:hf_|api_org_|gh[opsu]_|glpat-|xox[abp]-)[\w-]{16,}|\bgithub_pat_\w{16,}"
    r"|\bsk-(?:\w+-)*\w{20,}|\bA(?:KIA|SIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?<=://)[^\s/@]+(?=@)",
    re.ASCII,
)
"""Tokens of the Hub and of other services, and the user part of addresses."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;#][\w.-]*(?:token|key|secret|passw|pwd|auth|sig|credential)[\w.-]*=)[^&;#\s'\"]*[^&;#\s'\":,.)]",
    re.IGNORECASE,
)
_PATH_KEY = re.compile(r"(?<=/)(?=\w*\d)(?=\w*[A-Z])(?=\w*[a-z])\w{24,}(?=$|[/?#])", re.ASCII)
"""A part of an address's path that only a machine makes up; a commit's hash has no capitals."""
_ENCODED = re.compile(r"\S*%[0-9A-Fa-f]{2}\S*")
_STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and line feed, changes of direction, and halves of characters."""
_SECRET_NAMES = re.compile(r".*(?:TOKEN|KEY|SECRET|PASSWORD)", re.IGNORECASE)
_SHORTEST_SECRET = 8
_MOST, _HEAD, _TAIL = 1200, 700, 495


class SsoDataError(Exception):
    """A failure that the user can act on; its text is one line: where, what, what to do.

    Line breaks, control characters and secrets (for example of a library's message) are removed
    from the text.
    """

    def __str__(self) -> str:
        text = shown(without_secrets(super().__str__()))
        return text if len(text) <= _MOST else f"{text[:_HEAD]} ... {text[-_TAIL:]}"


class InputError(SsoDataError):
    """A file that came in is missing, unreadable or malformed."""


class ConfigError(SsoDataError):
    """An option or a config key is unknown or out of range."""


class ModelError(SsoDataError):
    """A model, its tokenizer or its chat template cannot be used."""


class EngineError(SsoDataError):
    """The engine could not start, or died for good."""


class EngineDeadError(EngineError):
    """A running engine died or hangs; restarting it may help."""


class EngineMemoryError(EngineDeadError):
    """A running engine died because its memory did not suffice."""


class HubError(SsoDataError):
    """The Hub cannot be reached, refuses, or holds something else than is asked for."""


class RunError(SsoDataError):
    """A run directory is another run's, or cannot be written or read."""


class LicenceError(RunError):
    """A run is to be published to everybody, and nobody named a licence."""


class TrainError(SsoDataError):
    """Training cannot start on these rows, or must not go on."""


def one_line(text: object, most: int = 600) -> str:
    """Return `text` for a message: one printable line of at most `most` characters, no secrets."""
    line = shown(" ".join(without_secrets(str(text)[: most * 4]).split()))
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def shown(text: str) -> str:
    """Return printable `text`: white space becomes spaces, other unprintable characters "?".

    This covers escape sequences, changes of direction and lone surrogates.
    """
    if text.isprintable():
        return text
    whole = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in whole)


def harmless(text: str, *, as_json: bool = False) -> str:
    """Return `text` for a terminal: what could steer it becomes "?", or an escape of JSON."""
    return _STEERS.sub(lambda one: f"\\u{ord(one[0]):04x}" if as_json else "?", text)


def without_secrets(text: str) -> str:
    """Return `text` with "<token>" for what looks like a token or is in the environment.

    Secrets in the environment are the values of variables such as HF_TOKEN and OPENAI_API_KEY. In
    addresses, the user part, values of such names and random parts of the path are secret, too.
    A word with a percent-encoded secret is shown decoded.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_NAMES.fullmatch(name):
            text = text.replace(value, "<token>")
    text = _SECRETS.sub("<token>", text)
    text = _ADDRESS.sub(
        lambda found: _PATH_KEY.sub("<token>", _QUERY.sub(r"\1<token>", found[0])), text
    )
    return _ENCODED.sub(_masked_encoded, text) if "%" in text else text


def _masked_encoded(found: "re.Match[str]") -> str:
    decoded = unquote(found[0])
    while (further := unquote(decoded)) != decoded:
        decoded = further
    masked = without_secrets(decoded.replace("%", "\0")).replace("\0", "%")
    return found[0] if masked == decoded else masked


def nearest(name: str, known: Iterable[str], command: str = "") -> str:
    """Return "; did you mean NAME? COMMAND lists them", as far as there is such a thing.

    A name is near whose letters are nearly the same, else a short one that holds all of it.
    """
    by_lower, wanted = {one.lower(): one for one in known}, name[:80].lower()
    close = difflib.get_close_matches(wanted, by_lower, n=2, cutoff=0.6)
    if not close and len(wanted) > 2:
        close = sorted((one for one in by_lower if wanted in one), key=lambda one: (len(one), one))[
            :2
        ]
    near = " or ".join(repr(by_lower[one]) for one in close)
    parts = [f"did you mean {near}?" if near else "", f"`{command}` lists them" if command else ""]
    return "".join(f"; {part}" for part in parts if part)


def described(error: BaseException, most: int = 300) -> str:
    """Return a library's exception as one short line: its type and the start of its text."""
    if "trust_remote_code" in str(error):
        return (
            "the model includes Python code, which is disabled; if you trust its author, set "
            "engine.trust_remote_code=true (train: trust_remote_code=true)"
        )
    text = one_line(error, most)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
