"""Prints the package's requirements without their upper bounds: `newest.py EXTRA...`."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = [*project["dependencies"]]
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
for one in wanted:
    print(re.sub(r"==([\d.]+)\.\*", r">=\1", re.sub(r",?<[\d.]+", "", one)))  # noqa: T201
