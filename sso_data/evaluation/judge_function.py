"""A Python function of the user's as judge: it takes comparisons and returns as many verdicts."""

import hashlib
import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sso_data.core.errors import ConfigError, described, one_line
from sso_data.evaluation.verdicts import Comparison, JudgeError, NoVerdict, Verdict, preference_of

AT_ONCE = 64
"""Comparisons in one call of the function."""


class FunctionJudge:
    """Calls `function` with lists of at most AT_ONCE comparisons, each one a dict.

    A comparison is `{"key", "prompt": [{"role", "content"}, ...], "a", "b", "a_num_tokens",
    "b_num_tokens"}`, answers as text. The function returns a list as long as the one it got: per
    comparison a number from 0 to 1 (1: a is better), a pair of scores (a's, b's; the higher one is
    better), or None where it cannot tell, which counts as failed.
    """

    def __init__(self, name: str) -> None:
        """Raises ConfigError where there is no such function."""
        self.name = name
        self._function = load_function(name)

    def compare(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict | NoVerdict]:
        """Yield the verdicts in order; JudgeError where the function fails or returns too few."""
        for start in range(0, len(comparisons), AT_ONCE):
            part = comparisons[start : start + AT_ONCE]
            try:
                found = list(self._function([_as_dict(comparison) for comparison in part]))
            except Exception as error:  # whatever a function of somebody else's raises
                raise JudgeError(f"judge {self.name}: raised {described(error)}") from error
            if len(found) != len(part):
                raise JudgeError(
                    f"judge {self.name}: returned {len(found)} verdicts for {len(part)} "
                    "comparisons; it must return one for each, in their order"
                )
            for comparison, said in zip(part, found, strict=True):
                yield self._verdict(comparison.key, said)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _verdict(self, key: str, said: Any) -> Verdict | NoVerdict:
        if said is None:
            return NoVerdict(key=key, reason="no_verdict", detail=f"{self.name} returned None")
        numbers = _numbers(said)
        if len(numbers) == 2:
            a, b = numbers
            return Verdict(key=key, preference=preference_of(a, b), scores=(a, b))
        if len(numbers) == 1 and 0 <= numbers[0] <= 1:
            return Verdict(key=key, preference=numbers[0])
        raise JudgeError(
            f"judge {self.name}: returned {one_line(repr(said), 80)} for a comparison; it must be "
            "a number from 0 to 1, a pair of scores, or None"
        )


def load_function(name: str) -> Callable[[list[dict[str, Any]]], Any]:
    """The function `module:function` or `file.py:function`; ConfigError where there is none.

    A module is found as Python finds it (installed, or on PYTHONPATH), a file by its path.
    """
    where, _, attribute = name.rpartition(":")
    try:
        if where.endswith(".py"):
            file = Path(where)
            spec = importlib.util.spec_from_file_location(f"_judge_{file.stem}", file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        found: Callable[[list[dict[str, Any]]], Any] = getattr(module, attribute)
    except Exception as error:  # importing runs the user's own code
        raise ConfigError(f"judge {name}: cannot be loaded: {described(error)}") from error
    if not callable(found):
        raise ConfigError(f"judge {name}: is a {type(found).__name__}, not a function")
    return found


def function_fingerprint(name: str) -> str:
    """A hash of the function's source file: 16 hexadecimal digits; "" where it has none."""
    try:
        file = inspect.getsourcefile(load_function(name))
        content = Path(file).read_bytes() if file else b""
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(content).hexdigest()[:16] if content else ""


def _as_dict(comparison: Comparison) -> dict[str, Any]:
    return {
        "key": comparison.key,
        "prompt": [message.to_json() for message in comparison.messages],
        "a": comparison.a.text,
        "b": comparison.b.text,
        "a_num_tokens": comparison.a.num_tokens,
        "b_num_tokens": comparison.b.num_tokens,
    }


def _numbers(said: Any) -> tuple[float, ...]:
    """A finite number, or two of them; nothing of anything else."""
    try:
        parts = tuple(said) if hasattr(said, "__len__") and len(said) == 2 else (said,)
        numbers = tuple(float(part) for part in parts if not isinstance(part, str | bytes))
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == len(parts) and all(map(math.isfinite, numbers)) else ()
