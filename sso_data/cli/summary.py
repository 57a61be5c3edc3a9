"""What the commands that make pairs say at their end: funnel, thresholds, the counts, advice."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sso_data.cli.outcome import SOME_FAILED, say

if TYPE_CHECKING:
    from sso_data.filtering.filters import Decision
    from sso_data.generation.generate import Summary
    from sso_data.runs.run import Account
    from sso_data.steering.counts import SteeringCounts


def show_decision(decision: "Decision", account: "Account") -> None:
    from sso_data.cli import tables

    console = tables.console()
    console.print(tables.funnel(decision))
    if decision.thresholds:
        console.print(tables.thresholds(decision))
    console.print(tables.account_line(account, decision), highlight=False)


def show_steering(counts: "SteeringCounts | None") -> None:
    """Print how the steering by models went, in a line or two."""
    for text in counts.summary() if counts else []:
        typer.echo(text)


def run_summary(run: Path, decision: "Decision", account: "Account") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run": str(run),
        **asdict(account),
        "kept": len(decision.kept),
        "dropped": decision.dropped,
        "thresholds": dict(decision.thresholds),
        "funnel": [asdict(stage) for stage in decision.funnel],
    }


def work_done(summary: "Summary") -> dict[str, Any]:
    """What this process did, for scripts."""
    return {
        "seconds": round(summary.seconds, 2),
        "new_rows": summary.counts.rows,
        "new_failures": summary.counts.failed,
        "sampled_tokens": summary.counts.tokens,
        "steering": summary.steering.to_json() if summary.steering else None,
    }


def nothing_kept(run: Path, decision: "Decision") -> str:
    """What to do, by the reason that dropped most rows."""
    worst = max(decision.dropped, key=decision.dropped.__getitem__, default="")
    remedy = {
        "truncated": "raise sampling.max_tokens in a new run, or --set filter.drop_truncated=false",
        "not_steered": "the policy does not follow these principles; see `sso-data preview`",
        "leak": "--set filter.drop_leaks=false keeps rows that speak of their guidelines",
        "off_policy": f"loosen it: sso-data filter {run} --set filter.closeness=q0.8 --dry-run",
        "gap": f"loosen it: sso-data filter {run} --set filter.gap=q0.2 --dry-run",
    }.get(worst, "docs/filter.md explains every reason")
    return f"warning: the filter kept nothing, most rows are {worst}; {remedy}"


def end(account: "Account", decision: "Decision", run: Path) -> None:
    """The last lines of `generate`, and exit code 3 when prompts failed."""
    if account.rows and not len(decision.kept):
        say(nothing_kept(run, decision))
    if account.failed:
        say(f"{account.failed} prompts failed; see {run / 'failed.jsonl'}")
        raise typer.Exit(SOME_FAILED)
