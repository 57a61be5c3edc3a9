"""Why a run has few pairs: do the texts move the model, which test binds, and what would keep more.

Everything follows from the numbers of the journal. A next step is tried on these very rows before
it is shown.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig
from sso_data.core.errors import RunError
from sso_data.core.jinja import render
from sso_data.core.statistics import sign_test, wilson
from sso_data.filtering.filters import (
    REASONS,
    Decision,
    comparisons,
    decide,
    distance,
    smaller_gap,
)
from sso_data.runs.columns import Rows, are_representative, lacking, representative
from sso_data.runs.journal import Scores

FEW = 0.2
"""A run that keeps a smaller share of its rows has few pairs: they are explained in full."""

SIGNIFICANT = 0.05
_FEWEST, _ENOUGH = 6, 32
"""Rows of contrast and reverse under which no sign test can reach SIGNIFICANT (2 / 2^5 is above
it), and rows of a run of which so few of these are a finding, not a lack of rows."""
_FEWEST_OF_FEATURE = 12
_MOST_READ = 4096
"""Rows whose principles are read from the journal."""
_MOST_STEPS, _ROUNDING = 6, 1e-6
_OFFSET = 5.0
"""`filter.closeness_offset` to try, nats: what ending early cost a real model (docs/filter.md)."""
_FARTHEST = 2.0
"""Largest `filter.closeness` that a step proposes, nats/token: a response beyond it is less likely
than the model's own by more than e^2, a factor of 7, at each token. Such a response is off-policy,
and a threshold that keeps it tests nothing."""

EffectVerdict = Literal["moves", "reversed", "none", "too_few"]
Settings = Mapping[str, Any]
Features = Mapping[str, NDArray[np.intp]]
"""Positions of the rows that have a principle, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Whether the texts move the model, over `rows` with all scores.

    `contrast`: rows in which y+ and y- are both likelier under their own view than under the
    opposite one; `reverse`: both the other way. Where the views do not matter, y+ and y- are
    exchangeable and one is as likely as the other: `p` is of the exact sign test. `low`, `high`:
    95 % interval (Wilson) of the share of contrast in the two. It says nothing about which answer
    is better.
    """

    rows: int
    contrast: int
    reverse: int
    p: float
    low: float
    high: float

    @property
    def verdict(self) -> EffectVerdict:
        if self.p < SIGNIFICANT:
            return "moves" if self.contrast > self.reverse else "reversed"
        is_short = self.contrast + self.reverse < _FEWEST and self.rows < _ENOUGH
        return "too_few" if is_short else "none"

    @property
    def is_missing(self) -> bool:
        """True if rows enough show no effect, or the opposite one."""
        return self.verdict in ("none", "reversed")

    def __str__(self) -> str:
        """One sentence: the verdict and its numbers."""
        return render("effect.j2", effect=self, in_short=False)

    @property
    def in_short(self) -> str:
        """The verdict and the rows of contrast and reverse, for a line that says more."""
        return render("effect.j2", effect=self, in_short=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Filter settings that keep more of these rows: tried, `kept` is what they keep."""

    settings: tuple[str, ...]
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A test and what it does: it drops `dropped` of the `reached` rows that come to it."""

    reason: str
    dropped: int
    reached: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why so many rows of a run became pairs.

    `kept` of `rows` is exact; all else is over `measured` rows, fewer where not everything was
    asked for of every row (`columns.representative`). `shares`, `differences`: [y+, y-][own >
    plain, plain > opposite, own > opposite], the share of rows and the mean difference in
    nats/token. `own_only`: rows in which only y+, and only y-, is likelier under its own view than
    under the opposite one. `features`: the effect by principle,
    of the rows that have it. `idle`: the principles that show none, in rows enough and where others
    show one; `without_idle`: rows without them, (kept, all). `binding` drops the largest share of
    the rows that reach it; `largest` is the test that drops most rows, the same one or one before.
    `far`: most rows that reach closeness lie beyond any threshold that a step proposes, `dropped`
    of the `reached`; else None.
    """

    rows: int
    kept: int
    measured: int
    effect: Effect
    shares: Sequence[Sequence[float]]
    differences: Sequence[Sequence[float]]
    own_only: tuple[int, int]
    features: Mapping[str, Effect]
    idle: tuple[str, ...]
    without_idle: tuple[int, int]
    binding: Binding | None
    largest: Binding | None
    steps: tuple[Step, ...]
    far: Binding | None = None

    @property
    def is_few(self) -> bool:
        """True if the run has few pairs."""
        return self.kept < FEW * self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval (Wilson) of the share of rows that are kept."""
        return wilson(self.kept / self.rows, self.rows) if self.rows else (0.0, 1.0)

    @property
    def prediction(self) -> str:
        """One sentence: which share of further rows like these is expected to be kept."""
        low, high = self.interval
        share = f"{self.kept / self.rows:.0%} " if self.rows else ""
        return (
            f"{self.kept} of {self.rows} rows would be kept: expect {share}[{low:.0%}, {high:.0%}] "
            "of the rows of a whole run (95 % interval)"
        )

    @property
    def failing(self) -> Literal["y+", "y-"] | None:
        """The response that tells the views apart in fewer rows (exact sign test), if one does."""
        if sign_test(*self.own_only) >= SIGNIFICANT:
            return None
        return "y-" if self.own_only[0] > self.own_only[1] else "y+"

    def text(self, *, command: str = "", prefix: str = "") -> str:
        """Return the explanation in lines; in full where pairs are few.

        `command` is put before the settings of a step (`sso-data filter RUN`), `prefix` before
        their keys (`generate.` in an iteration).
        """
        return self._rendered("explanation.j2", command, prefix)

    def next_step(self, *, command: str = "", prefix: str = "") -> str:
        """Return what to do next as one phrase, with the effect as its reason."""
        return self._rendered("next_step.j2", command, prefix)

    def _rendered(self, template: str, command: str, prefix: str) -> str:
        """`changed` is the command for other settings: they may need what was not asked for."""
        is_partial = self.measured < self.rows
        changed = command.replace("-data filter ", "-data complete ") if is_partial else command
        return render(
            template,
            found=self,
            command=command,
            changed=changed,
            prefix=prefix,
            enough=_ENOUGH,
            farthest=_FARTHEST,
        )

    def to_json(self) -> dict[str, Any]:
        """Return its form for `--json`."""
        found = {key: value for key, value in asdict(self).items() if key != "effect"}
        low, high = self.interval
        return {
            "verdict": self.effect.verdict,
            "effect": asdict(self.effect),
            "kept_share_interval": [low, high],
            **found,
        }


def explain(
    rows: Rows,
    config: FilterConfig,
    decision: Decision | None = None,
    *,
    features: Features | None = None,
    own: FilterConfig | None = None,
) -> Explanation:
    """Return why `config` keeps what it keeps of `rows`.

    `decision`: that of `config`, where it is known; `features`: positions of the rows by principle.
    Raises NotAskedError as `decide`.
    Where pairs are few and the texts move the model, next steps are tried; their settings are those
    that differ from `own`, the run's own (default: `config`), from which `filter` starts.
    """
    decision = decision or decide(rows, config)
    total, kept = len(rows), len(decision.kept)
    if lacking(rows).any():
        chosen = np.flatnonzero(are_representative(rows))
        features = {
            name: np.flatnonzero(np.isin(chosen, places))
            for name, places in (features or {}).items()
        }
        rows = rows[chosen]
        decision = decide(rows, config)
    differences = comparisons(rows)
    scored = np.isfinite(differences).all(axis=(1, 2))
    valid = differences[scored]
    gaps = valid[:, :, 2] > 0
    effect, features = effect_of(rows), features or {}
    effects = {name: effect_of(rows[places]) for name, places in sorted(features.items())}
    moves = any(effect.verdict == "moves" for effect in effects.values())
    idle = tuple(  # principles without an effect in rows enough, where another one has one
        name
        for name, effect in effects.items()
        if moves and effect.verdict != "moves" and effect.rows >= _FEWEST_OF_FEATURE
    )
    without = np.ones(len(rows), np.bool_)
    for name in idle:
        without[features[name]] = False
    steps, far = tuple[Step, ...](), None
    if kept < FEW * total and not effect.is_missing:
        surely = effect.verdict == "moves"
        steps, far = _steps(rows, config, decision, own or config, are_steered=surely)
    return Explanation(
        rows=total,
        kept=kept,
        measured=len(rows),
        effect=effect,
        shares=(valid > 0).mean(axis=0).tolist() if len(valid) else [[math.nan] * 3] * 2,
        differences=valid.mean(axis=0).tolist() if len(valid) else [[math.nan] * 3] * 2,
        own_only=(int((gaps[:, 0] & ~gaps[:, 1]).sum()), int((gaps[:, 1] & ~gaps[:, 0]).sum())),
        features=effects,
        idle=idle,
        without_idle=(int(without[decision.kept].sum()), int(without.sum())),
        binding=_binding(decision),
        largest=max(_drops(decision), key=lambda one: (one.dropped, 1 / _left(one)), default=None),
        steps=steps,
        far=far,
    )


def explain_run(
    scores: Scores, config: FilterConfig, decision: Decision, own: FilterConfig
) -> Explanation:
    """Return the explanation of a decision about a run, with principles by its first rows.

    `own` is the filter of the run's own configuration.
    """
    features: Features = {}
    first = np.arange(min(len(scores), _MOST_READ))
    with suppress(RunError, LookupError, TypeError, ValueError):  # who needs the line reports it
        lines = (orjson.loads(line) for line in scores.lines(first))
        features = features_of(line["principles"] for line in lines)
    return explain(scores.rows, config, decision, features=features, own=own)


def features_of(principles: Iterable[Iterable[str]]) -> Features:
    """Return the positions of the rows that have each principle; `principles` holds each row's."""
    found: dict[str, list[int]] = {}
    for place, names in enumerate(principles):
        for name in names:
            found.setdefault(name, []).append(place)
    return {name: np.array(places, np.intp) for name, places in found.items()}


def effect_of(rows: Rows) -> Effect:
    """Return whether the texts of `rows` move the model; rows that lack a log-prob are left out.

    Where not everything was asked for of every row, it is that of the `representative` ones.
    """
    gaps = comparisons(representative(rows))[:, :, 2]
    gaps = gaps[np.isfinite(gaps).all(axis=1)]
    contrast, reverse = int((gaps > 0).all(axis=1).sum()), int((gaps < 0).all(axis=1).sum())
    both = contrast + reverse
    low, high = wilson(contrast / both, both) if both else (0.0, 1.0)
    return Effect(
        rows=len(gaps),
        contrast=contrast,
        reverse=reverse,
        p=sign_test(contrast, reverse),
        low=low,
        high=high,
    )


def _binding(decision: Decision) -> Binding | None:
    """Return the test that divides the number of rows left by most; None if none drops a row.

    Counted on a ratio scale: of 42 rows, 41 lost at one test are more than the last one at the
    next. Of no row left, half a row counts.
    """
    return max(_drops(decision), key=lambda one: one.reached / _left(one), default=None)


def _left(test: Binding) -> float:
    return max(test.reached - test.dropped, 0.5)


def _drops(decision: Decision) -> Iterator[Binding]:
    """Yield the tests that drop rows."""
    for stage in decision.funnel[1:]:
        if stage.dropped:
            reached = stage.left + stage.dropped
            yield Binding(reason=stage.reason, dropped=stage.dropped, reached=reached)


def _steps(
    rows: Rows,
    config: FilterConfig,
    decision: Decision,
    own: FilterConfig,
    *,
    are_steered: bool,
) -> tuple[tuple[Step, ...], Binding | None]:
    """Return settings that keep more and more rows, and `Explanation.far`.

    The binding test is loosened, again and again. A setting without which as many rows are kept is
    left out again. Unless the rows `are_steered`, a step is taken only if most of those that it
    keeps pass contrast. Ends when half of the rows are kept or nothing is left to loosen.
    """
    best, settings, found, steps = len(decision.kept), dict[str, Any](), decision, list[Step]()
    for _ in range(_MOST_STEPS):
        if len(found.kept) >= len(rows) / 2 or not (binding := _binding(found)):
            break
        after = [stage.reason for stage in found.funnel[1:]]
        later = after[after.index(binding.reason) :]
        reached = rows[np.isin(found.reason_code, [0, *map(REASONS.index, later)])]
        tried = _with(config, settings)
        changed = _loosened(binding.reason, tried, reached)
        if not changed:
            return tuple(steps), _far(reached, tried) if binding.reason == "off_policy" else None
        settings |= changed
        found = decide(rows, _with(config, settings))
        contrast = int((comparisons(rows[found.kept])[:, :, 2] > 0).all(axis=1).sum())
        if len(found.kept) > best and (are_steered or 2 * contrast > len(found.kept)):
            best = len(found.kept)
            for key in list(settings):
                fewer = {name: value for name, value in settings.items() if name != key}
                if len(decide(rows, _with(config, fewer)).kept) >= best:
                    settings = fewer
            steps.append(Step(settings=tuple(written(_with(config, settings), own)), kept=best))
    return tuple(steps), None


def _far(rows: Rows, config: FilterConfig) -> Binding | None:
    """Return how many of `rows` no step comes to by closeness; None where they are half at most."""
    far = int((distance(rows, config.closeness_offset) > _FARTHEST).sum())
    found = Binding(reason="off_policy", dropped=far, reached=len(rows))
    return found if 2 * far > len(rows) else None


def written(config: FilterConfig, own: FilterConfig) -> Iterator[str]:
    """Yield what `config` changes in `own` as texts of `--set`."""
    before, (_, idle) = own.model_dump(), config.idle()
    for key, value in config.model_dump().items():
        if value != before[key] and key not in idle:
            yield f"filter.{key}={str(value).lower()}"


def _with(config: FilterConfig, settings: Settings) -> FilterConfig:
    return config.model_copy(update=dict(settings))


def _loosened(reason: str, config: FilterConfig, rows: Rows) -> Settings:
    """Return settings under which the test `reason` would drop fewer of the rows that reach it.

    Thresholds are those that four rows in five meet; for closeness, of the rows within _FARTHEST,
    and none where these are fewer than half. Rows that fail `contrast` are not steered: nothing is
    loosened for them.
    """
    if reason == "truncated":
        return {"drop_truncated": False}
    if reason in ("leak", "echo"):
        return {"drop_leaks" if reason == "leak" else "drop_echoes": False}
    if config.preset == "reference" and reason in ("not_steered", "off_policy", "gap"):
        return {"preset": "closeness"}
    if reason == "not_steered" and config.steered == "chain":
        return {"steered": "contrast"}
    if reason == "off_policy":
        if not config.closeness_offset:
            return {"closeness_offset": _OFFSET}
        near = (far := distance(rows, config.closeness_offset))[far <= _FARTHEST]
        if 2 * len(near) < len(far):
            return {}
        wider = max(0.0, math.ceil(float(np.quantile(near, 0.8)) * 20 - _ROUNDING) / 20)
        is_wider = isinstance(config.closeness, str) or wider > config.closeness
        return {"closeness": wider} if is_wider else {}
    if reason == "gap":
        narrow = float(np.quantile(smaller_gap(rows), 0.2))
        least = max(0.0, math.floor(narrow * 100 + _ROUNDING) / 100)
        return {"gap": least} if least != config.gap else {}
    return {}
