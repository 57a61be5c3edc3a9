"""Command line; `--help` imports neither torch, transformers nor vLLM."""

import sys

from sso_data.cli.app import app
from sso_data.cli.outcome import ended
from sso_data.core.streams import sound_streams


def main() -> None:
    """Run the `sso-data` command."""
    stdout, _ = sound_streams()
    try:
        app()
    except SystemExit as end:
        sys.exit(ended(end.code, stdout))


__all__ = ["app", "main"]
