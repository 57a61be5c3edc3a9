"""Configuration of an evaluation and of its judge, and the short form of `--judge`.

The docstring under each field is its documentation (docs/evaluation.md).
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sso_data.config.run import EngineConfig, RunConfig, SourceConfig, ViewsConfig
from sso_data.config.section import Count, EndpointSection, Section
from sso_data.core.errors import ConfigError
from sso_data.core.trees import Tree

FORMS = "oracle, rule, rule:CATALOGUE, reward:MODEL, llm:MODEL or python:MODULE:FUNCTION"
"""Values of `--judge`."""


class JudgeConfig(EndpointSection):
    """Judge that decides which of two answers is better."""

    kind: Literal["none", "oracle", "rule", "reward", "llm", "python"] = "none"
    """`oracle`: the tiny world's exact score; `rule`: the checks of the row's principles; `reward`:
    a reward model; `llm`: a chat model that is asked about both orders; `python`: a function of
    yours; `none`: nobody."""
    principles: Path | None = None
    """rule: catalogue whose checks decide, by name or directory; default: `checkable`."""
    model: str | None = None
    """reward, llm: a directory or Hub id, or the model's name at `endpoint`."""
    revision: str | None = None
    """Its revision on the Hub: a branch, tag or commit."""
    callable: str | None = None
    """python: `module:function` or `file.py:function`; see docs/evaluation.md for what it receives
    and must return."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.0
    """llm: sampling temperature of its verdicts; 0 takes the likeliest token."""
    max_tokens: Count = 512
    """llm: most tokens of one verdict."""
    structured: bool = True
    """llm: constrain verdicts to a JSON schema where possible; parsing does not rely on it."""
    batch_tokens: Annotated[int, Field(ge=256)] = 16384
    """reward: tokens in one forward pass, padding included."""
    templates: Path | None = None
    """llm: directory with a `judge.j2` of your own."""
    views: ViewsConfig = ViewsConfig()
    """reward, llm: how the judge's chat template is used."""
    engine: EngineConfig = EngineConfig()
    """llm without an endpoint: the engine it runs in; reward: its `device`, `dtype`,
    `max_model_len` and `trust_remote_code`."""

    @property
    def loading(self) -> EngineConfig:
        """Return the engine settings for loading the judge's model, at the judge's revision."""
        revision = self.revision or self.engine.revision
        return self.engine.model_copy(update={"revision": revision})

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "JudgeConfig":
        if self.kind in ("reward", "llm") and not self.model:
            raise ValueError(f"judge {self.kind}: name its model, as in {self.kind}:MODEL")
        if self.kind == "python" and not self.callable:
            raise ValueError("judge python: name its function, as in python:MODULE:FUNCTION")
        if self.principles and self.kind != "rule":
            raise ValueError("judge.principles: only a judge of kind rule reads a catalogue")
        if self.endpoint and self.kind != "llm":
            raise ValueError("judge.endpoint: only for judge.kind llm")
        return self


class EvalConfig(Section):
    """A whole evaluation; any key can be set in the file of `--config` or after `--set`."""

    page: ClassVar[str] = "docs/evaluation.md"

    prompts: str = ""
    """Held-out prompts: a file, a directory or a Hub dataset."""
    source: SourceConfig = SourceConfig()
    """Reading of the prompts: split, column, limit and the rest, as for a run."""
    judge: JudgeConfig = JudgeConfig()
    """Judge of the answers; `none`: only measures from log-probs and lengths."""
    signal: bool = True
    """Also judge y+ against y- of the evaluated model: as many verdicts again."""
    generate: RunConfig = RunConfig()
    """Settings of the answers (docs/configuration.md): sampling, steering, engine and the rest."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the answers; the same for both models' answers to a prompt."""

    @model_validator(mode="after")
    def _refuse_own_keys_in_generate(self) -> "EvalConfig":
        given = self.generate
        for name, is_set in (
            ("model", bool(given.model)),
            ("seed", bool(given.seed)),
            ("source", given.source != SourceConfig()),
            ("sampling.samples", given.sampling.samples > 1),
            ("scoring.when", given.scoring.when != "all"),
        ):
            if is_set:
                raise ValueError(f"generate.{name} is set by the evaluation itself; leave it out")
        if given.engine.servers:
            raise ValueError("generate.engine.servers: an evaluation loads two models itself")
        return self

    def run_config(self, model: str) -> RunConfig:
        """Return the run configuration by which `model` answers the prompts."""
        own = {"model": model, "seed": self.seed, "source": self.source}
        return self.generate.model_copy(update=own)


def judge_tree(text: str | None, endpoint: str | None = None) -> Tree:
    """Return the configuration keys for `--judge TEXT --judge-endpoint URL`; {} for neither.

    Raises ConfigError for a text that is none of `FORMS`, and for an endpoint without a judge.
    """
    if text is None:
        if endpoint is not None:
            raise ConfigError("--judge-endpoint: name the model there with --judge llm:MODEL")
        return {}
    kind, _, rest = text.partition(":")
    tree: Tree = {"kind": kind}
    if kind in ("reward", "llm") and rest:
        tree["model"] = rest
    elif kind == "rule":
        tree |= {"principles": rest} if rest else {}
    elif kind == "python" and ":" in rest:
        tree["callable"] = rest
    elif kind not in ("oracle", "none") or rest:
        raise ConfigError(f"--judge {text}: write it as {FORMS}")
    if endpoint is not None:
        tree["endpoint"] = endpoint
    return tree
