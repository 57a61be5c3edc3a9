"""Command line; `--help` imports neither torch, transformers nor vLLM."""

import sys
from importlib.util import find_spec

if find_spec("fcntl") is None:
    sys.exit(
        "error: sso-data runs on Linux and macOS; on Windows, use it in WSL: run `wsl --install` "
        "once, then install and start sso-data in the shell that `wsl` opens"
    )

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
