"""Results on stdout: the funnel, pairs side by side, principles, findings; advice on stderr."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sso_data.cli.outcome import SOME_FAILED, SafeConsole, echo, say
from sso_data.core.records import SIDE_OF, VIEWS, Row

if TYPE_CHECKING:
    from sso_data.doctor import Finding
    from sso_data.filtering.explain import Explanation
    from sso_data.filtering.filters import Decision
    from sso_data.filtering.sweep import Sweep
    from sso_data.runs.run import Account
    from sso_data.steering.counts import SteeringCounts
    from sso_data.steering.principles import Catalogue, Principle
    from sso_data.steering.stats import PrincipleStats

_MARK = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
_SHOWN_CHARACTERS = 600
_ALWAYS_SHOWN = ("rows", "not_steered", "off_policy", "gap")


def console() -> Console:
    """Return a console on stdout; 160 columns wide and without colour if it is not a terminal."""
    out = SafeConsole()
    return out if out.is_terminal else SafeConsole(width=160)


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with so many decimals; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """Format a share as percent with one decimal; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def funnel(decision: "Decision") -> Table:
    """Return the filter's stages: the rows each one dropped, and means over the rows left."""
    table = Table(title="Filter", title_justify="left", title_style="bold")
    table.add_column("stage")
    partial = decision.not_asked > 0
    for name in ("dropped", *(("not asked for",) if partial else ()), "left"):
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
            *((str(stage.not_asked or ""),) if partial else ()),
            str(stage.left),
            f"{number(stage.mean_logp_plain_chosen)} / {number(stage.mean_logp_plain_rejected)}",
            f"{number(stage.mean_tokens_chosen, 1)} / {number(stage.mean_tokens_rejected, 1)} / "
            f"{number(stage.mean_tokens_original, 1)}",
            f"{number(stage.mean_gap_good)} / {number(stage.mean_gap_bad)}",
        )
    return table


def show_decision(decision: "Decision", account: "Account") -> None:
    """Print the funnel, the resolved thresholds, and where every prompt and row went."""
    out = console()
    out.print(funnel(decision))
    parts = [
        f"{name} {'-' if value is None else f'{value:.4g}'}"
        for name, value in decision.thresholds.items()
    ]
    if parts:
        out.print(f"thresholds: {', '.join(parts)}")
    dropped = [f" + {count} {reason}" for reason, count in decision.dropped.items() if count]
    rows = len(decision.reason_code)
    whole = "" if rows == account.rows else "the run's "
    books = f"prompts {account.prompts}{account.times} = rows {account.rows}"
    line = (
        f"{books} + failed {account.failed}; "
        f"{whole}rows {rows} = kept {len(decision.kept)}{''.join(dropped)}"
    )
    out.print(line, highlight=False)
    if decision.not_asked:
        out.print(
            f"of the dropped rows {decision.not_asked} were not asked for everything "
            "(scoring.when=needed); means are over those that always are",
            highlight=False,
        )
    if decision.ranking:
        echo(str(decision.ranking))


def sweep(found: "Sweep") -> Group:
    """Return a table of kept rows for each steering test, by closeness and gap."""
    shown: list[Text | Table] = []
    for test, counts in found.kept.items():
        passing = f"{found.steered[test]} of {found.rows} rows reach the thresholds; kept:"
        table = Table()
        table.add_column("closeness \\ gap", justify="right")
        for gap in found.gap:
            table.add_column(f"{gap:g}", justify="right")
        for closeness, row in zip(found.closeness, counts, strict=True):
            table.add_row("any" if closeness is None else f"{closeness:g}", *map(str, row))
        shown += [Text(f"filter.steered={test}: {passing}"), table]
    return Group(*shown)


def show_steering(counts: "SteeringCounts | None") -> None:
    """Print a summary of the steering by models."""
    for text in counts.summary() if counts else []:
        echo(text)


def run_summary(
    run: Path, decision: "Decision", account: "Account", explanation: "Explanation"
) -> dict[str, Any]:
    """Return the counts, thresholds, funnel and explanation for `--json`."""
    from dataclasses import asdict

    return {
        "run": str(run),
        **asdict(account),
        "kept": len(decision.kept),
        "dropped": decision.dropped,
        "thresholds": dict(decision.thresholds),
        **({"not_asked": decision.not_asked} if decision.not_asked else {}),
        "funnel": [stage.to_json() for stage in decision.funnel],
        **({"ranking": decision.ranking.to_json()} if decision.ranking else {}),
        "explanation": explanation.to_json(),
    }


def explain(found: "Explanation", run: Path | None) -> None:
    """Say why the filter keeps what it keeps: a line where pairs are many, in full where few."""
    if text := found.text(command=f"sso-data filter {run}" if run else ""):
        say(f"warning: {text}" if found.is_few or found.effect.is_missing else text)


def end(account: "Account", explanation: "Explanation", run: Path) -> None:
    """Explain the pairs; exit with code 3 where prompts failed."""
    explain(explanation, run)
    if account.failed:
        say(f"{account.failed} prompts failed; see {run / 'failed.jsonl'}")
        raise typer.Exit(SOME_FAILED)


def pair(row: Row, verdict: str | None) -> Panel:
    """Return a panel of one row: prompt, responses side by side, scores."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("", style="dim", width=22)
    for (view, side), style in zip(SIDE_OF.items(), ("green", "red", "cyan"), strict=True):
        said = row.responses.get(view)
        tokens = f"{said.num_tokens} tokens" if said else "not asked for"
        heading = f"{side}: drawn under {view}, {tokens}"
        table.add_column(heading, header_style=style, ratio=1)
    texts = (row.responses[view].text if view in row.responses else "" for view in SIDE_OF)
    table.add_row("", *map(_shortened, texts))
    table.add_row()
    for seen in VIEWS:
        cells = (
            number(row.mean(seen, drawn)) if (seen, drawn) in row.logp else "-" for drawn in SIDE_OF
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
    """Return the start of a text."""
    return Text(textwrap.shorten(content, _SHOWN_CHARACTERS, placeholder=" ..."))


def catalogue(found: "Catalogue") -> Table:
    """Return a table of a catalogue."""
    table = Table(title=Text(str(found.directory)), title_justify="left", title_style="dim")
    for name in ("feature", "good", "bad", "meaning"):
        table.add_column(name)
    for principle in found.principles.values():
        adjectives = principle.adjectives
        cells = (principle.name, adjectives.good, adjectives.bad, principle.meaning)
        table.add_row(*map(Text, cells))
    return table


def principle_text(found: "Principle") -> str:
    """Return one principle in full."""
    lines = [
        f"{found.name} ({found.adjectives.good} / {found.adjectives.bad})",
        f"meaning: {found.meaning}",
        f"good: {found.good}",
        f"bad: {found.bad}",
    ]
    lines += [f"good, other words: {text}" for text in found.paraphrases.good]
    lines += [f"bad, other words: {text}" for text in found.paraphrases.bad]
    if found.check:
        lines.append(f"check of the good side: {found.check.model_dump(exclude_none=True)}")
    return "\n".join(lines)


def principle_stats(found: "Sequence[PrincipleStats]") -> Table:
    """Return a table of principles and their wordings."""
    table = Table()
    table.add_column("principle")
    for name in (
        "rows",
        "kept",
        "kept share",
        "gap (nats/token)\ngood / bad",
        "distance below the policy's own answer\nchosen / rejected (nats/token)",
        "signal by its check\nall / kept",
    ):
        table.add_column(name, justify="right")
    for one in found:
        name = one.principle if one.wording is None else f"  {one.wording}"
        table.add_row(
            Text(name),
            str(one.rows),
            str(one.kept),
            f"{one.kept_share:.0%}",
            f"{number(one.gap_good)} / {number(one.gap_bad)}",
            f"{number(one.below_chosen)} / {number(one.below_rejected)}",
            f"{number(one.signal, 2)} / {number(one.signal_kept, 2)}",
        )
    return table


def findings(found: "Sequence[Finding]") -> Table:
    """Return a table of what the doctor found, with advice."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "what", "found", "what to do"):
        table.add_column(name)
    for finding in found:
        cells = (finding.what, finding.detail, finding.remedy)
        table.add_row(_MARK[finding.state], *map(Text, cells))
    return table
