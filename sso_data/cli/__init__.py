"""The command line: `sso-data`. Help is shown without importing torch, transformers or vLLM."""

from sso_data.cli.app import app


def main() -> None:
    """The entry point of the `sso-data` command."""
    app()


__all__ = ["app", "main"]
