"""Results on stdout: the funnel, pairs side by side, principles, findings; advice on stderr."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sso_data.cli.outcome import SOME_FAILED, SafeConsole, echo, print_json, say

if TYPE_CHECKING:
    from sso_data.doctor import Finding
    from sso_data.filtering.explain import Explanation
    from sso_data.filtering.filters import Decision
    from sso_data.filtering.refilter import Refiltered
    from sso_data.filtering.sweep import Sweep
    from sso_data.generation.generate import Summary
    from sso_data.steering.counts import SteeringCounts
    from sso_data.steering.principles import Catalogue, Principle
    from sso_data.steering.stats import PrincipleStats

    Decided = Summary | Refiltered

_MARK = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def console() -> Console:
    """Return a console on stdout; elsewhere than on a terminal 160 columns wide, unless COLUMNS is
    set, and without colour."""
    out = SafeConsole(highlight=False)
    is_wide = not out.is_terminal and "COLUMNS" not in os.environ
    return SafeConsole(width=160, highlight=False) if is_wide else out


def table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return a table without lines; `numbers` are the columns after the others, to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, overflow="fold")
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def next_step(*commands: str) -> None:
    """Print commands that go on from here."""
    echo("\n".join(f"next: {command}" for command in commands))


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with so many decimals; "-" for None."""
    return "-" if value is None else f"{value:z.{digits}f}"


def share(value: float | None) -> str:
    """Format a share as percent with one decimal; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def with_note(made: Table, text: str) -> Group:
    """Return a table and a note under it, as wide as the console."""
    return Group(made, Text(text, "dim"))


def funnel(decision: "Decision") -> Group:
    """Return the filter's stages: the rows each one dropped, and means over the rows left."""
    partial = decision.not_asked > 0
    dropped = ("dropped", *(("not asked for",) if partial else ()))
    made = table("stage", numbers=(*dropped, "left", "log-prob", "tokens", "gap"))
    for column in made.columns:
        column.no_wrap = column.no_wrap and not partial  # one more column than 80 columns hold
    for stage in decision.shown_stages:
        tokens = (stage.mean_tokens_chosen, stage.mean_tokens_rejected, stage.mean_tokens_original)
        made.add_row(
            stage.reason,
            "" if stage.reason == "rows" else str(stage.dropped),
            *((str(stage.not_asked or ""),) if partial else ()),
            str(stage.left),
            f"{number(stage.mean_logp_plain_chosen)} / {number(stage.mean_logp_plain_rejected)}",
            " / ".join(number(mean, 0) for mean in tokens),
            f"{number(stage.mean_gap_good)} / {number(stage.mean_gap_bad)}",
        )
    return with_note(
        made,
        "means of the rows left: log-prob of chosen / rejected under the plain view and gap of "
        "good / bad in nats/token, tokens of chosen / rejected / original",
    )


def show_decision(done: "Decided") -> None:
    """Print the funnel, the resolved thresholds, and where every prompt and row went."""
    out, decision, account = console(), done.decision, done.account
    out.print(funnel(decision))
    parts = [
        f"{name} {'-' if value is None else f'{value:.6g}'}"
        for name, value in decision.thresholds.items()
    ]
    if parts:
        out.print(f"thresholds: {', '.join(parts)}", soft_wrap=True)
    dropped = [f" + {count} {reason}" for reason, count in decision.dropped.items() if count]
    rows = len(decision.reason_code)
    whole = "" if rows == account.rows else "the run's "
    line = f"{account.balance}; {whole}rows {rows} = kept {len(decision.kept)}{''.join(dropped)}"
    out.print(line, soft_wrap=True)
    if decision.not_asked:
        out.print(
            f"of the dropped rows {decision.not_asked} were not asked for everything "
            "(scoring.when=needed); means are over those that always are",
            soft_wrap=True,
        )
    if decision.ranking:
        echo(str(decision.ranking))


def sweep(found: "Sweep") -> Group:
    """Return a table of kept rows for each steering test, by closeness and gap.

    A test that leaves no row has no table.
    """
    lost = ", ".join(f"{count} {reason}" for reason, count in found.unsound.items())
    before = f"before any steering test: {found.sound} of {found.rows} rows left; dropped: {lost}"
    shown: list[Text | Table] = [Text(before, no_wrap=True, overflow="ignore")] if lost else []
    for test, counts in found.kept.items():
        passing = f"{found.steered[test]} of {found.rows} rows reach the thresholds"
        if not found.steered[test]:
            shown.append(Text(f"filter.steered={test}: {passing}"))
            continue
        if test == "off" and counts == found.kept["contrast"]:
            same = "kept: as with contrast, which every gap of at least 0 implies"
            shown.append(Text(f"filter.steered={test}: {passing}; {same}"))
            continue
        made = table(numbers=("closeness \\ gap", *(f"{gap:g}" for gap in found.gap)))
        for closeness, row in zip(found.closeness, counts, strict=True):
            made.add_row("any" if closeness is None else f"{closeness:g}", *map(str, row))
        shown += [Text(f"filter.steered={test}: {passing}; kept:"), made]
    return Group(*shown)


def show_steering(counts: "SteeringCounts | None") -> None:
    """Print a summary of the steering by models."""
    for text in counts.summary() if counts else []:
        echo(text)


def run_summary(run: Path, done: "Decided") -> dict[str, Any]:
    """Return the counts, thresholds, funnel and explanation for `--json`."""
    from dataclasses import asdict

    decision = done.decision
    return {
        "run": str(run),
        **asdict(done.account),
        "kept": len(decision.kept),
        "dropped": decision.dropped,
        "thresholds": dict(decision.thresholds),
        **({"not_asked": decision.not_asked} if decision.not_asked else {}),
        "funnel": [stage.to_json() for stage in decision.funnel],
        **({"ranking": decision.ranking.to_json()} if decision.ranking else {}),
        "explanation": done.explanation.to_json(),
    }


def explain(found: "Explanation", run: Path | None) -> None:
    """Say why the filter keeps what it keeps: a line where pairs are many, in full where few."""
    if text := found.text(command=f"sso-data filter {run}" if run else ""):
        say(f"warning: {text}" if found.is_few or found.effect.is_missing else text)


def end(done: "Decided", run: Path) -> None:
    """Explain the pairs; exit with code 3 where prompts failed."""
    explain(done.explanation, run)
    if done.account.failed:
        from sso_data.runs.run import failed_reasons

        reasons = ", ".join(f"{name} {n}" for name, n in sorted(failed_reasons(run).items()))
        prompts = f"{done.account.failed} prompt{'s' * (done.account.failed != 1)}"
        say(f"{prompts} failed ({reasons}); see {run / 'failed.jsonl'}")
        raise typer.Exit(SOME_FAILED)


def catalogue(found: "Catalogue") -> Table:
    """Return a table of a catalogue."""
    made = table("feature", "good", "bad", "meaning")
    made.title, made.title_justify, made.title_style = Text(str(found.directory)), "left", "dim"
    for principle in found.principles.values():
        adjectives = principle.adjectives
        cells = (principle.name, adjectives.good, adjectives.bad, principle.meaning)
        made.add_row(*map(Text, cells))
    return made


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


def principle_stats(found: "Sequence[PrincipleStats]") -> Group:
    """Return a table of principles and their wordings."""
    made = table("principle", numbers=("rows", "kept", "share", "gap", "closeness", "signal"))
    for one in found:
        name = one.principle if one.wording is None else f"  {one.wording}"
        made.add_row(
            Text(name),
            str(one.rows),
            str(one.kept),
            f"{one.kept_share:.0%}",
            f"{number(one.gap_good)} / {number(one.gap_bad)}",
            f"{number(one.below_chosen)} / {number(one.below_rejected)}",
            f"{number(one.signal, 2)} / {number(one.signal_kept, 2)}",
        )
    return with_note(
        made,
        "gap of good / bad; closeness: how far chosen / rejected lie below the policy's own "
        "answer; both in nats/token; signal by the principle's check, all / kept rows",
    )


def show_findings(found: "Sequence[Finding]", *, as_json: bool) -> None:
    """Print what the doctor, or `verify`, found; exit with code 1 if anything is wrong."""
    from dataclasses import asdict

    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        console().print(findings(found))
    if any(finding.state == "fail" for finding in found):
        raise typer.Exit(1)


def findings(found: "Sequence[Finding]") -> Table:
    """Return what the doctor, or `verify`, found, each with advice under it.

    Names of files have the whole width: they are broken only where they are longer.
    """
    made = Table.grid(padding=(0, 2, 0, 0))
    for finding in found:
        advice = f"\n-> {finding.remedy}" if finding.remedy else ""
        made.add_row(_MARK[finding.state], Text(f"{finding.what}: {finding.detail}{advice}"))
    return made
