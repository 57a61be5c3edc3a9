"""Rows as people read them: prompt, principles, three answers, every number beside its limit.

The texts are others': nothing in them can steer a terminal or pass for our own lines.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from sso_data.cli.output import number, table
from sso_data.core.records import SIDE_OF, VIEWS, Row, View
from sso_data.filtering.measures import Measure, Outcome, verdict_on

if TYPE_CHECKING:
    from sso_data.runs.tokens import Answers, Tokens

_SIDE_BY_SIDE = 120
"""Columns from which the answers stand side by side."""
_MOST_CHARACTERS, _MOST_WORDS = 3000, 1200
_ALIKE = 0.3
"""Answers with a smaller share of words in common are not marked: nearly all would be."""
_STYLES = {"chosen": "green", "rejected": "red", "original": "cyan"}
_JOINERS = "\u200c\u200d"
"""Invisible characters that scripts and emoji need."""
_MOST_MARKS = 4
"""Combining marks on one letter; further ones would pile up over other lines."""


_TINTS = (0.5, 1.0, 2.0)
"""Nats of good - bad from which a token is tinted, each time more strongly."""
_LIKELIER = {
    "under good": ("#aecbff", "#7fadff", "#4f8dff"),
    "under bad": ("#ffb9ab", "#ff917d", "#ff6a50"),
}


class RowView:
    """A row for a rich console; `reason` None: kept. Without colour differences are in brackets.

    With `tokens` the answers show good - bad of their tokens, in place of how their words differ.
    """

    def __init__(
        self,
        row: Row,
        reason: str | None,
        outcomes: Sequence[Outcome],
        heading: str = "",
        tokens: "Answers | None" = None,
    ) -> None:
        self._row, self._reason, self._outcomes, self._heading = row, reason, outcomes, heading
        self._tokens = tokens or {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        row, width = self._row, options.max_width
        answers = self._answers(plain=console.color_system is None)
        source = f" (source {row.source_id})" if row.source_id is not None else ""
        about = ", ".join(part for part in (self._heading, visible(f"{row.id}{source}")) if part)
        yield Rule(Text(about, style="bold"), align="left", style="dim", characters="-")
        style = "green" if self._reason is None else "yellow"
        yield Text(verdict_on(self._reason, self._outcomes), style=style)
        yield from self._prompt()
        yield from self._principles()
        yield Text()
        if width >= _SIDE_BY_SIDE:
            grid = Table.grid(padding=(0, 2), expand=True)
            for _ in answers:
                grid.add_column(ratio=1)
            grid.add_row(*(_heading_of(row, view) for view in SIDE_OF))
            grid.add_row(*answers.values())
            yield grid
        else:
            for view in SIDE_OF:
                yield Group(_heading_of(row, view), _indented(answers[view]))
        if self._tokens:
            yield _legend(plain=console.color_system is None)
        yield Text()
        yield self._numbers()
        yield Text()

    def _prompt(self) -> Iterator[RenderableType]:
        for message in self._row.messages:
            yield Text(f"{visible(message.role)}:", style="dim")
            yield _indented(Text(shortened(message.content)))

    def _principles(self) -> Iterator[RenderableType]:
        """Yield the texts that steered it, good and bad."""
        steering = self._row.steering
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for name, good, bad in zip(steering.features, steering.good, steering.bad, strict=False):
            for sign, text, style in (("+", good, "green"), ("-", bad, "red")):
                label = Text(f"{sign} {shortened(name)[:30]}:", style=style)
                grid.add_row(label, Text(shortened(text)))
        yield Text("principles:", style="dim")
        yield _indented(grid)

    def _answers(self, *, plain: bool) -> dict[View, Text]:
        """Return the texts, with the words marked that chosen and the other one do not share."""
        said = self._row.responses
        texts = {view: shortened(said[view].text) if view in said else "" for view in SIDE_OF}
        own = {view: Text(text) for view, text in texts.items()}
        if self._tokens:
            return own | {view: _tinted(one, plain=plain) for view, one in self._tokens.items()}
        chosen, rejected = _marked(texts["good"], texts["bad"], plain=plain)
        return {**own, "good": chosen, "bad": rejected}

    def _numbers(self) -> Table:
        """Return all cells, then what each check looks at, beside its limit."""
        row = self._row
        found = table("nats/token", numbers=[SIDE_OF[view] for view in SIDE_OF])
        for seen in VIEWS:
            found.add_row(f"log-prob under {seen}", *(_mean(row, seen, view) for view in SIDE_OF))
        for outcome in self._outcomes:
            by_what: dict[str, dict[str, Measure]] = {}
            for one in outcome.measures:
                by_what.setdefault(one.what, {})[one.side] = one
            for what, sides in by_what.items():
                pair = sides.get("")
                cells = [_beside(pair or sides.get(side)) for side in SIDE_OF.values()]
                name = what if what == outcome.reason else f"{outcome.reason}: {what}"
                found.add_row(name, *(cells[:1] if pair else cells))
        return found


def _heading_of(row: Row, view: View) -> Text:
    side, style = SIDE_OF[view], f"bold {_STYLES[SIDE_OF[view]]}"
    response = row.responses.get(view)
    if response is None:
        return Text(f"{side} (not asked for)", style=style)
    words = f"{side} (drawn under {view}, {response.num_tokens} tokens, {response.finish_reason})"
    return Text(words, style=style)


def _mean(row: Row, seen: View, drawn: View) -> str:
    is_known = (seen, drawn) in row.logp and row.responses[drawn].num_tokens > 0
    return number(row.mean(seen, drawn)) if is_known else "-"


def _beside(measure: Measure | None) -> Text:
    """Return a number beside its limit, with an x where it misses it."""
    if measure is None:
        return Text("")
    return Text(f"{measure} x", "red") if measure.misses else Text(f"{measure}  ")


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 0, 0, 2))


def _marked(chosen: str, rejected: str, *, plain: bool) -> tuple[Text, Text]:
    """Return both texts with the words marked that the other one has not."""
    first, second = (re.findall(r"\S+\s*|\s+", text) for text in (chosen, rejected))
    words = [[word.strip() for word in side] for side in (first, second)]
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    is_long = max(len(first), len(second)) > _MOST_WORDS
    if is_long or matcher.quick_ratio() < _ALIKE or matcher.ratio() < _ALIKE:
        return Text(chosen), Text(rejected)
    left, right = Text(), Text()
    for kind, a, b, c, d in matcher.get_opcodes():
        for text, some, side, marks in (
            (left, "".join(first[a:b]), "chosen", "{++}"),
            (right, "".join(second[c:d]), "rejected", "[--]"),
        ):
            bare = some.rstrip()
            if kind == "equal" or not bare:
                text.append(some)
                continue
            style = f"bold {_STYLES[side]}"
            text.append(f"{marks[:2]}{bare}{marks[2:]}" if plain else bare, "" if plain else style)
            text.append(some[len(bare) :])
    return left, right


def _tinted(tokens: "Tokens", *, plain: bool) -> Text:
    """Return an answer with good - bad of its tokens, as colours or in braces."""
    found, left = Text(), _MOST_CHARACTERS
    tints = tokens.tint() or [0.0] * len(tokens.texts)
    for place, (text, nats) in enumerate(zip(tokens.texts, tints, strict=True), start=1):
        if left <= 0:
            found.append(f" ... ({len(tokens.texts) - place + 1:,} more tokens)")
            break
        left -= len(text)
        shown = shortened(text) or ("<end>" if place == len(tokens.texts) else "<control>")
        level = sum(abs(nats) >= least for least in _TINTS)
        colours = _LIKELIER["under good" if nats > 0 else "under bad"]
        found.append(shown, f"#000000 on {colours[level - 1]}" if level and not plain else "")
        if plain and level:
            found.append(f"{{{nats:+.1f}}}")
    return found


def _legend(*, plain: bool) -> Text:
    """Say what the colours, or the numbers, of tokens are."""
    if plain:
        return Text("{+1.2} after a token: its log-prob under good minus bad (nats), from 0.5 on")
    found = Text("tokens likelier", style="dim")
    for name, colours in _LIKELIER.items():
        found.append(f" {name}")
        for least, colour in zip(_TINTS, colours, strict=True):
            found.append(f" {least:g} ", f"not dim #000000 on {colour}")
    return found.append(" nats and more")


def shortened(text: str) -> str:
    """Return the start of a text, made visible; what is left out is counted."""
    start = visible(text[:_MOST_CHARACTERS])
    left_out = len(text) - _MOST_CHARACTERS
    return f"{start} ... ({left_out:,} more characters)" if left_out > 0 else start


def visible(text: str) -> str:
    """Return text in which control, direction and other invisible characters are shown as marks.

    Line breaks stay, tabs are spaces; of combining marks in a row the first few stay.
    """
    if text.isprintable() and text.isascii():
        return text
    found: list[str] = []
    marks = 0
    for char in text.replace("\r\n", "\n").replace("\t", "    "):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if marks > _MOST_MARKS:
            continue
        if kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char not in f"\n{_JOINERS}":
            found.append(f"<U+{ord(char):04X}>")
        else:
            found.append(char)
    return "".join(found)
