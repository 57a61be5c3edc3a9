"""On-policy preference datasets without human labels: Self-Steering Optimization.

The functions below are the commands of `sso-data` for scripts and notebooks (docs/python.md). They
are imported when they are first used, so that `import sso_data` stays light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sso_data.api import (
        augment,
        evaluate,
        export,
        filter_run,
        generate,
        iterate,
        load_config,
        push,
        read_pairs,
        read_rows,
        train,
        verify,
    )
    from sso_data.core.records import Row

__version__ = "0.2.0"

__all__ = [
    "Row",
    "__version__",
    "augment",
    "evaluate",
    "export",
    "filter_run",
    "generate",
    "iterate",
    "load_config",
    "push",
    "read_pairs",
    "read_rows",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "Row":
        from sso_data.core.records import Row

        return Row
    if name in __all__:
        from sso_data import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
