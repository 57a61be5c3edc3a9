"""One target under atheris: `python -m tests.fuzz.guided TARGET -max_total_time=60 CORPUS`."""

import logging
import sys

import atheris

with atheris.instrument_imports(
    include=["sso_data", "yaml", "jinja2", "csv", "json"],
    exclude=["sso_data.engines", "sso_data.world"],
    enable_loader_override=False,
):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    logging.disable()
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
