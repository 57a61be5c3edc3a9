"""The items of a JSON array, one at a time, as the standard library reads them.

Not by ijson, which the same tests fail: its C backend (3.6) turns lone surrogates into "?" and
crashes on very long integers, its Python backend keeps the text of the whole file.
"""

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sso_data.core.errors import InputError, one_line

MAX_ITEM_CHARS = 64 * 2**20
_CHUNK_BYTES = 2**16
_LONGEST_TOKEN = 16
"""Tokens that look wrong when they are cut are shorter (`-Infinit`, `\\ud83`), texts aside."""
_SPACE = " \t\r\n"


def array_items(
    file: io.BufferedReader, path: Path, decoder: json.JSONDecoder
) -> Iterator[tuple[int, Any]]:
    """The line each item starts on, and the item; InputError names the line that breaks."""
    window = _Window(file, path, decoder)
    window.take("[")
    if window.next_char() != "]":
        yield window.value()
        while window.next_char() == ",":
            window.take(",")
            yield window.value()
    window.take("]")
    if window.next_char():
        raise window.error("extra text after the end of the array")


class _Window:
    """The part of the file that is being read; `_at` is the first character not consumed."""

    def __init__(self, file: io.BufferedReader, path: Path, decoder: json.JSONDecoder) -> None:
        self._file = file
        self._path = path
        self._decoder = decoder
        self._characters = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False

    def next_char(self) -> str:
        """The next character that is not white space, or the empty string at the end."""
        while True:
            while self._at < len(self._text):
                char = self._text[self._at]
                if char not in _SPACE:
                    return char
                self._advance(self._at + 1)
            if self._ended:
                return ""
            self._fill()

    def take(self, char: str) -> None:
        """Consume `char`, which must be next."""
        if self.next_char() != char:
            raise self.error(f"expecting {char!r}")
        self._advance(self._at + 1)

    def value(self) -> tuple[int, Any]:
        """The line and the content of the next value."""
        self.next_char()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as problem:
                if self._ended or not self._is_cut(problem):
                    raise self.error(problem.msg, at=problem.pos) from problem
            except RecursionError as problem:
                raise self.error("nested too deeply") from problem
            except ValueError as problem:
                raise self.error(str(problem).split(";")[0]) from problem
            else:
                if end < len(self._text) or self._ended:
                    line = self._line
                    self._advance(end)
                    return line, value
            self._fill()

    def error(self, what: str, *, at: int | None = None) -> InputError:
        """An error for the line at which the array breaks."""
        line = self._line + self._text.count("\n", self._at, self._at if at is None else at)
        return InputError(one_line(f"{self._path}:{line}: not valid JSON ({what}); correct it"))

    def _is_cut(self, problem: json.JSONDecodeError) -> bool:
        """True where a value may look wrong only because the window ends within it."""
        within_text = problem.msg.startswith("Unterminated string")
        return within_text or problem.pos >= len(self._text) - _LONGEST_TOKEN

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _fill(self) -> None:
        """Drop what is consumed, read as much again as is left (an item is parsed log n times)."""
        self._text = self._text[self._at :]
        self._at = 0
        if len(self._text) > MAX_ITEM_CHARS:
            raise self.error(f"an item is longer than {MAX_ITEM_CHARS // 2**20} Mi characters")
        chunk = self._file.read(max(_CHUNK_BYTES, len(self._text)))
        try:
            self._text += self._characters.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            before = self._text.count("\n") + error.object.count(b"\n", 0, error.start)
            byte = error.object[error.start]
            raise InputError(
                f"{self._path}:{self._line + before}: not UTF-8 (byte 0x{byte:02x}); "
                "save it as UTF-8"
            ) from error
        self._ended = not chunk
