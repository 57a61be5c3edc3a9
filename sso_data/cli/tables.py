"""What a person sees on stdout: the funnel, pairs side by side, the catalogue, findings."""

import textwrap
import unicodedata
from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sso_data.core.records import SIDE_OF, VIEWS, Row
from sso_data.doctor import Finding
from sso_data.filtering.filters import Decision
from sso_data.runs.run import Account
from sso_data.steering.principles import Catalogue, Principle
from sso_data.steering.stats import PrincipleStats

_MARK = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


_SHOWN_CHARACTERS = 600
_ALWAYS_SHOWN = ("rows", "not_steered", "off_policy", "gap")


def console() -> Console:
    """stdout; without colour when it is not a terminal, and then never wrapped at 80 columns."""
    out = Console()
    return out if out.is_terminal else Console(width=160)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def funnel(decision: Decision) -> Table:
    """The filter's stages: what each one dropped and the means over the rows left after it."""
    table = Table(title="Filter", title_justify="left", title_style="bold")
    table.add_column("stage")
    for name in ("dropped", "left"):
        table.add_column(name, justify="right")
    table.add_column("log-prob, plain view\nchosen / rejected\n(nats/token)", justify="right")
    table.add_column("length (tokens)\nchosen / rejected / original", justify="right")
    table.add_column("gap (nats/token)\ngood / bad", justify="right")
    for stage in decision.funnel:
        if not stage.dropped and stage.reason not in _ALWAYS_SHOWN:
            continue
        table.add_row(
            stage.reason,
            "" if stage.reason == "rows" else str(stage.dropped),
            str(stage.left),
            f"{_number(stage.mean_logp_plain_chosen, 3)} / "
            f"{_number(stage.mean_logp_plain_rejected, 3)}",
            f"{_number(stage.mean_tokens_chosen, 1)} / {_number(stage.mean_tokens_rejected, 1)} / "
            f"{_number(stage.mean_tokens_original, 1)}",
            f"{_number(stage.mean_gap_good, 3)} / {_number(stage.mean_gap_bad, 3)}",
        )
    return table


def thresholds(decision: Decision) -> str:
    """The resolved thresholds in one line."""
    parts = [
        f"{name} {'-' if value is None else f'{value:.4g}'}"
        for name, value in decision.thresholds.items()
    ]
    return "thresholds: " + ", ".join(parts) if parts else ""


def account_line(account: Account, decision: Decision) -> str:
    """The books, one line: prompts = rows + failed, rows = kept + dropped by reason."""
    dropped = [f"{count} {reason}" for reason, count in decision.dropped.items() if count]
    rows = len(decision.reason_code)
    whole = "" if rows == account.rows else "the run's "
    return (
        f"prompts {account.prompts} = rows {account.rows} + failed {account.failed}; "
        f"{whole}rows {rows} = kept {len(decision.kept)}"
        + "".join(f" + {part}" for part in dropped)
    )


def pair(row: Row, verdict: str | None) -> Panel:
    """One row: the prompt, the three responses side by side, and their scores."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("", style="dim", width=22)
    for (view, side), style in zip(SIDE_OF.items(), ("green", "red", "cyan"), strict=True):
        heading = f"{side}: drawn under {view}, {row.responses[view].num_tokens} tokens"
        table.add_column(heading, header_style=style, ratio=1)
    table.add_row("", *(_shortened(row.responses[view].text) for view in SIDE_OF))
    table.add_row()
    for seen in VIEWS:
        cells = (
            _number(row.mean(seen, drawn), 3) if (seen, drawn) in row.logp else "-"
            for drawn in SIDE_OF
        )
        table.add_row(f"log-prob under {seen}", *cells)
    question = Text.assemble(("prompt: ", "bold"), _shortened(row.messages[-1].content))
    title = f"{', '.join(row.steering.features)}: {'kept' if verdict is None else verdict}"
    subtitle = "log-probs are means, nats/token"
    return Panel(
        Group(question, Text(), table),
        title=Text(title),
        title_align="left",
        subtitle=subtitle,
        subtitle_align="right",
    )


def _shortened(content: str) -> Text:
    """The start of a text; control characters, which could steer the terminal, as "?"."""
    start = textwrap.shorten(content, _SHOWN_CHARACTERS, placeholder=" ...")
    return Text("".join("?" if unicodedata.category(char) == "Cc" else char for char in start))


def catalogue(found: Catalogue) -> Table:
    """A catalogue as a table."""
    table = Table(title=Text(str(found.directory)), title_justify="left", title_style="dim")
    for name in ("feature", "good", "bad", "meaning"):
        table.add_column(name)
    for principle in found.principles.values():
        adjectives = principle.adjectives
        cells = (principle.name, adjectives.good, adjectives.bad, principle.meaning)
        table.add_row(*map(Text, cells))
    return table


def principle_text(found: Principle) -> str:
    """One principle in full."""
    lines = [
        f"{found.name} ({found.adjectives.good} / {found.adjectives.bad})",
        f"meaning: {found.meaning}",
        f"good: {found.good}",
        f"bad: {found.bad}",
    ]
    lines += [f"good, other words: {text}" for text in found.paraphrases.good]
    lines += [f"bad, other words: {text}" for text in found.paraphrases.bad]
    return "\n".join(lines)


def principle_stats(found: Sequence[PrincipleStats]) -> Table:
    """Principles and their wordings, the most kept first."""
    table = Table()
    table.add_column("principle")
    for name in (
        "rows",
        "kept",
        "kept share",
        "gap (nats/token)\ngood / bad",
        "below the policy's own answer\nchosen / rejected (nats/token)",
    ):
        table.add_column(name, justify="right")
    for one in found:
        name = one.principle if one.wording is None else f"  {one.wording}"
        table.add_row(
            Text(name),
            str(one.rows),
            str(one.kept),
            f"{one.kept_share:.0%}",
            f"{_number(one.gap_good, 3)} / {_number(one.gap_bad, 3)}",
            f"{_number(one.below_chosen, 3)} / {_number(one.below_rejected, 3)}",
        )
    return table


def findings(found: Sequence[Finding]) -> Table:
    """What the doctor found, and what to do."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "what", "found", "what to do"):
        table.add_column(name)
    for finding in found:
        cells = (finding.what, finding.detail, finding.remedy)
        table.add_row(_MARK[finding.state], *map(Text, cells))
    return table
