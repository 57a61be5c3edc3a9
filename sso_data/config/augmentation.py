"""Configuration of an augmentation; unknown keys are refused.

The docstring under each field is its documentation (a part of `docs/augment.md` is made from them).
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sso_data.config.run import EngineConfig, SourceConfig, ViewsConfig
from sso_data.config.section import Count, EndpointSection, NotNegative, Positive, Section

Operation = Literal["evolve", "rephrase", "topic", "harder", "easier"]


class OperationsConfig(Section):
    """Relative weight of each operation; 0 disables it."""

    evolve: NotNegative = 2.0
    """Make the seed deeper: also ask for a condition, a reason or a second step."""
    rephrase: NotNegative = 1.0
    """Ask for the same in other words."""
    topic: NotNegative = 2.0
    """Write a query of the same sort on another topic."""
    harder: NotNegative = 1.0
    """Write a query on the same subject that is harder to answer."""
    easier: NotNegative = 1.0
    """Write a query on the same subject that is easier to answer."""

    @model_validator(mode="after")
    def _leaves_one(self) -> "OperationsConfig":
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("operations: at least one must have a weight above 0")
        return self


class AnswersConfig(Section):
    """Form of the requests and sampling of their answers."""

    form: Literal["json", "text"] = "json"
    """`json`: the template asks for an object with the key `query`; `text`: for the new query and
    nothing else."""
    structured: bool = True
    """Hold `json` answers to a JSON schema where the engine or endpoint can."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 1.0
    """Sampling temperature; queries are to differ, so it is higher than that of responses."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus: the smallest set of tokens with this much probability is sampled from."""
    max_tokens: Count = 1024
    """Most tokens of an answer; one that is cut off is rejected."""
    most_seeds: Annotated[int, Field(ge=1, le=8)] = 3
    """Most seeds shown for a new topic; how many is drawn. The other operations show one."""


class ChecksConfig(Section):
    """Requirements on the form of a new query."""

    min_chars: Count = 8
    """Fewest characters."""
    max_chars: Count = 8000
    """Most characters."""
    min_ratio: Positive = 0.1
    """Least length, as a share of the mean length of the seeds shown."""
    max_ratio: Positive = 6.0
    """Most length, as a multiple of that mean; shorter seeds count as 40 characters."""
    language: bool = True
    """Reject a query in another language than its seed, if both are identified with confidence."""
    questions: bool = True
    """Reject a rephrased question that asks nothing (has no question mark)."""
    pieces: bool = True
    """Reject a query that is a piece of a seed shown."""


class DuplicatesConfig(Section):
    """Comparison with the seeds, the examples of the template and the earlier new queries."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Jaccard similarity of two queries' character n-grams from which the later one is rejected;
    1: only the same text, up to case, white space and punctuation."""
    ngram: Annotated[int, Field(ge=1, le=32)] = 5
    """Characters of an n-gram."""


class DecontaminateConfig(Section):
    """Benchmarks whose texts must not appear in a new query."""

    files: tuple[Path, ...] = ()
    """Benchmark files in any format that prompts may have; every text of a row counts."""
    ngram: Annotated[int, Field(ge=2, le=64)] = 13
    """A query is rejected for this many words in a row that are also in a benchmark text."""
    shortest: Annotated[int, Field(ge=1, le=64)] = 8
    """Texts with fewer words than `ngram`, but at least this many, count as one run; still shorter
    ones only where query and benchmark text agree as a whole."""


class LimitsConfig(Section):
    """Limits at which it stops with fewer queries than were asked for."""

    attempts_per_query: Annotated[float, Field(ge=1, le=1000)] = 5.0
    """Most requests, as a multiple of the queries asked for."""
    patience: Count = 500
    """Most requests in a row without one accepted query."""


class AugmentConfig(EndpointSection):
    """A whole augmentation; any key can be set in the file of `--config` or after `--set`."""

    page: ClassVar[str] = "docs/augment.md"

    model: str = ""
    """Model directory or Hub id of the policy, or the model's name at `endpoint`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the operation, the seed queries and the sampling seed of every request."""
    templates: Path | None = None
    """Directory of templates that replace the shipped ones of the same name."""
    operations: OperationsConfig = OperationsConfig()
    answers: AnswersConfig = AnswersConfig()
    checks: ChecksConfig = ChecksConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    limits: LimitsConfig = LimitsConfig()
    source: SourceConfig = SourceConfig()
    views: ViewsConfig = ViewsConfig()
    engine: EngineConfig = EngineConfig()
