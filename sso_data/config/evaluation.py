"""The configuration of an evaluation: declared once, frozen, unknown keys refused.

The docstring under each field is its documentation (docs/evaluation.md).
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from sso_data.config.judging import JudgeConfig
from sso_data.config.run import RunConfig, SourceConfig, config_tree, validated_as
from sso_data.config.section import Section


class EvalConfig(Section):
    """A whole evaluation; every key may stand in the YAML file of `--config` or after `--set`."""

    prompts: str = ""
    """Held-out prompts: a file, a directory or a Hub dataset."""
    source: SourceConfig = SourceConfig()
    """How they are read: split, column, limit and the rest, as for a run."""
    judge: JudgeConfig = JudgeConfig()
    """Who says which answer is better; `none`: only what log-probs and lengths tell."""
    signal: bool = True
    """Also judge y+ against y- of the evaluated model: as many verdicts again."""
    generate: RunConfig = RunConfig()
    """How answers are made (docs/configuration.md): sampling, steering, engine and the rest."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the answers; both models answer a prompt with the same one."""

    @model_validator(mode="after")
    def _stand_once(self) -> "EvalConfig":
        given = self.generate
        for name, is_set in (
            ("model", bool(given.model)),
            ("seed", bool(given.seed)),
            ("source", given.source != SourceConfig()),
        ):
            if is_set:
                raise ValueError(f"generate.{name} is set by the evaluation; see its own keys")
        return self

    def run_config(self, model: str) -> RunConfig:
        """How `model` answers the prompts."""
        own = {"model": model, "seed": self.seed, "source": self.source}
        return self.generate.model_copy(update=own)


def load_eval_config(
    file: Path | None = None, settings: list[str] | None = None, **overrides: object
) -> EvalConfig:
    """The configuration: defaults, then `file`, then `overrides`, then `--set` settings.

    `overrides` names keys with `__` for the dot and skips None. Raises ConfigError naming the key.
    """
    tree: dict[str, Any] = config_tree(file, settings, base=None, **overrides)
    origin = str(file) if file else "configuration"
    return validated_as(EvalConfig, tree, origin=origin, page="docs/evaluation.md")
