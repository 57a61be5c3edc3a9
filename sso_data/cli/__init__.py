"""Command line; `--help` imports neither torch, transformers nor vLLM."""

import sys

import typer

from sso_data.cli.app import app
from sso_data.cli.outcome import stdout_that_may_fail


def main() -> None:
    """Run the `sso-data` command."""
    try:
        with stdout_that_may_fail():  # help and --version print, too
            app()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


__all__ = ["app", "main"]
