"""The table over the rounds: one flat line a round, its display, and remarks in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sso_data.core.statistics import Estimate, difference
from sso_data.evaluation.statistics import LEAST_AGREEMENT
from sso_data.iteration.state import RoundDir
from sso_data.iteration.stopping import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A row of the shown table: its name, and the keys of a line that it shows.

    `form` formats each value; a quantity that no round has is left out.
    """

    name: str
    keys: tuple[str, ...]
    form: str = "{:z.3f}"

    def cell(self, line: Line) -> str:
        """Its values in one round, `-` for a missing one."""
        found = [line.get(key) for key in self.keys]
        if all(value is None for value in found):
            return "-"
        return " / ".join("-" if value is None else self.form.format(value) for value in found)


QUANTITIES = (
    Quantity(name="prompts", keys=("prompts",), form="{}"),
    Quantity(name="malformed rows of the file left out so far", keys=("malformed",), form="{}"),
    Quantity(name="rows", keys=("rows",), form="{}"),
    Quantity(name="kept share", keys=("kept_share",), form="{:.1%}"),
    Quantity(name="dropped rows not asked for everything", keys=("not_asked",), form="{}"),
    Quantity(name="steered share", keys=("steered",), form="{:.1%}"),
    Quantity(name="signal accuracy: kept / all rows", keys=("accuracy_kept", "accuracy_all")),
    Quantity(
        name="its judge: both orders agree / says first",
        keys=("agreement", "first_share"),
        form="{:.1%}",
    ),
    Quantity(
        name="closeness: y+ / y- (nats/token)",
        keys=("closeness_chosen", "closeness_rejected"),
    ),
    Quantity(
        name="log-prob, plain view: y+ / y- (nats/token)", keys=("logp_chosen", "logp_rejected")
    ),
    Quantity(name="gap: good / bad (nats/token)", keys=("gap_good", "gap_bad")),
    Quantity(
        name="length: y+ / y- / y0 (tokens)",
        keys=("tokens_chosen", "tokens_rejected", "tokens_original"),
        form="{:.1f}",
    ),
    Quantity(name="score of y0", keys=("unprompted",)),
    Quantity(name="win rate of y0 against the first round's", keys=("unprompted_win_rate",)),
    Quantity(name="rows trained on", keys=("train_rows",), form="{}"),
    Quantity(name="steps", keys=("train_steps",), form="{}"),
    Quantity(name="loss at the end", keys=("train_loss",), form="{:.4g}"),
    Quantity(name="W at the end", keys=("train_weight",)),
    Quantity(
        name="margin at the end: base / good / bad",
        keys=("train_margin_base", "train_margin_good", "train_margin_bad"),
    ),
    Quantity(
        name="accuracy at the end: base / good / bad",
        keys=("train_accuracy_base", "train_accuracy_good", "train_accuracy_bad"),
    ),
    Quantity(
        name="D over the start, same rows: in memory / saved / in bfloat16",
        keys=("train_d_memory", "train_d_saved", "train_d_loaded"),
        form="{:.3g}",
    ),
    Quantity(
        name="weights changed: saved / in bfloat16",
        keys=("train_changed_saved", "train_changed_loaded"),
        form="{:.1%}",
    ),
    Quantity(name="reward margin at the end", keys=("train_margin",)),
    Quantity(name="reward accuracy at the end", keys=("train_accuracy",)),
    Quantity(
        name="held out, win rate against the first policy: raw / length-controlled",
        keys=("win_rate", "win_rate_length_controlled"),
    ),
    Quantity(
        name="held out, score of y0: policy / first policy",
        keys=("held_out_score", "held_out_score_first"),
    ),
    Quantity(name="held out, signal accuracy", keys=("held_out_accuracy",)),
    Quantity(name="held out, steered share", keys=("held_out_steered",), form="{:.1%}"),
    Quantity(
        name="held out, length: policy / first policy (tokens)",
        keys=("held_out_tokens", "held_out_tokens_first"),
        form="{:.1f}",
    ),
)


def line_of(place: RoundDir) -> dict[str, Any]:
    """A round as a flat line of numbers; None for what was not measured.

    Rows are those that are trained on and their like: with a generator, its own. Means are over all
    rows; accuracies over the judged ones. `gap` is the smaller of both gaps.
    """
    own, measured = place.step("generated") or {}, place.step("measured") or {}
    generated = place.step("generated_by_generator") or own
    judged, trained = place.step("judged") or {}, place.step("trained") or {}
    every = measured.get("all") or {}
    gaps = [every[key] for key in ("gap_good", "gap_bad") if every.get(key) is not None]
    rows, kept = generated.get("rows"), generated.get("kept")
    evaluated = place.step("evaluated") or {}
    left = trained.get("comparison") or {}
    intervals = measured.get("intervals") or {}
    return {
        "round": place.number,
        "policy": place.facts.get("policy", {}).get("fingerprint"),
        "malformed": (place.step("sliced") or {}).get("malformed") or None,
        "prompts": generated.get("prompts"),
        "samples": generated.get("samples"),
        "rows": rows,
        "failed": generated.get("failed"),
        "kept": kept,
        "dropped": generated.get("dropped"),
        "not_asked": generated.get("not_asked"),
        "to_keep": generated.get("to_keep"),
        "kept_share": round(kept / rows, 6) if rows and kept is not None else None,
        "steered": measured.get("steered"),
        **{name: judged.get(name) for name in _JUDGED},
        **every,
        **{f"{name}_kept": value for name, value in (measured.get("kept") or {}).items()},
        "gap": min(gaps, default=None),
        "train_rows": trained.get("rows"),
        "train_steps": trained.get("steps"),
        "train_stopped": trained.get("stopped"),
        **{f"train_{name}": value for name, value in trained.get("numbers", {}).items()},
        **{f"train_d_{name}": (left.get(name) or [None])[0] for name in _COMPARED},
        **{f"train_d_{name}_interval": (left.get(name) or [])[1:] or None for name in _COMPARED},
        **{f"train_changed_{name}": left.get(f"changed_{name}") for name in _COMPARED[1:]},
        **{f"{name}_interval": intervals.get(name) for name in _WITH_INTERVALS},
        **{name: evaluated.get(name) for name in _EVALUATED},
    }


_JUDGED = (
    *("accuracy_kept", "accuracy_all", "agreement", "first_share", "judged"),
    *("unprompted", "unprompted_win_rate", "accuracy_kept_interval", "unprompted_interval"),
)
_EVALUATED = (
    *("win_rate", "win_rate_length_controlled", "held_out_accuracy", "held_out_steered"),
    *("held_out_score", "held_out_score_first", "held_out_tokens", "held_out_tokens_first"),
    *("win_rate_interval", "held_out_score_difference", "held_out_tokens_difference"),
)
_COMPARED = ("memory", "saved", "loaded")
_WITH_INTERVALS = ("tokens_original", "closeness_chosen")


def shown(lines: Sequence[Line]) -> list[tuple[str, list[str]]]:
    """(name, one cell a round) of every quantity that any round has."""
    found = [(one.name, [one.cell(line) for line in lines]) for one in QUANTITIES]
    return [(name, cells) for name, cells in found if any(cell != "-" for cell in cells)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """A quantity that is told in words; `advice` is added to a shown difference that `is_bad`."""

    key: str
    words: str
    form: str = "{:z.3f}"
    advice: str = ""
    is_bad: Callable[[float, float], bool] = lambda before, after: False


_TOLD = (
    _Told(
        key="tokens_original",
        words="tokens of the policy's own answers",
        form="{:.1f}",
        advice="against growth: generate.steering.concision_probability up",
        is_bad=lambda before, after: after > 1.5 * before,
    ),
    _Told(
        key="accuracy_kept",
        words="signal accuracy of the kept pairs",
        advice="the policy of an earlier round may be the better one",
        is_bad=lambda before, after: before - after > 0.05,
    ),
    _Told(key="unprompted", words="the score of the policy's own answers"),
    _Told(
        key="closeness_chosen",
        words="closeness of chosen responses (nats/token)",
        advice="generate.filter.closeness bounds it",
        is_bad=lambda before, after: after - before > 0.1,
    ),
)
_FEW = 0.2
"""A kept share under which the remarks name what dropped the rest."""


def remarks(lines: Sequence[Line]) -> list[str]:
    """Return what the rounds show, each line with advice where needed.

    A difference is told with its 95 % interval, and as none where that holds 0. The rows of two
    rounds are taken as independent, which is too careful where they answer the same prompts.
    """
    found = _held_out_remarks(lines[-1]) if lines else []
    if len(lines) < 2:
        return found
    first, last = lines[0], lines[-1]
    for told in _TOLD:
        before, after = first.get(told.key), last.get(told.key)
        if before is None or after is None:
            continue
        values = f"{told.words}: {told.form.format(before)} to {told.form.format(after)}, "
        estimates = [_estimate(line, told.key) for line in (last, first)]
        if not estimates[0] or not estimates[1]:  # a round of an earlier version
            found.append(f"{values}no interval is known")
            continue
        change = difference(estimates[0], estimates[1])
        advised = told.advice and change.is_shown and told.is_bad(before, after)
        found.append(values + change.in_words + f"; {told.advice}" * bool(advised))
    agreement = last.get("agreement")
    if agreement is not None and agreement < LEAST_AGREEMENT:
        found.append(
            f"the judge agreed with itself in both orders of {agreement:.0%} of the pairs (a coin: "
            "50%), so signal accuracy says little; take a stronger judge"
        )
    share, dropped = last.get("kept_share"), last.get("dropped") or {}
    if share is not None and share < _FEW and dropped:
        worst = max(dropped, key=lambda reason: dropped[reason])
        found.append(
            f"the last round kept {share:.0%} of its rows; most others are {worst} (docs/filter.md)"
        )
    return found


def _held_out_remarks(line: Line) -> list[str]:
    """The policy that came out of a round against the first one, on the same held-out prompts."""
    found = []
    if rate := _estimate(line, "win_rate"):
        half = Estimate(rate.value - 0.5, rate.low - 0.5, rate.high - 0.5)
        found.append(f"win rate {rate.value:.3f}, over one half: {half.in_words}")
    for what in ("score", "tokens"):
        if change := line.get(f"held_out_{what}_difference"):
            found.append(f"{what}: {Estimate(*change).in_words}")
    return [f"held out, against the first policy on the same prompts: {text}" for text in found]


def _estimate(line: Line, key: str) -> Estimate | None:
    """A measured value with its interval; None without one."""
    interval = line.get(f"{key}_interval")
    return Estimate(line[key], *interval) if interval else None


def totals(lines: Sequence[Line]) -> Mapping[str, int]:
    """The sums over all rounds: prompts, rows, failed, kept, and dropped by reason.

    `not_asked` of the dropped rows were not asked for everything, where there are such rows. Raises
    AssertionError where rows were lost.
    """
    found: dict[str, int] = {
        key: sum(line.get(key) or 0 for line in lines)
        for key in ("prompts", "rows", "failed", "kept")
    }
    dropped: dict[str, int] = {}
    for line in lines:
        for reason, count in (line.get("dropped") or {}).items():
            dropped[reason] = dropped.get(reason, 0) + count
    wanted = sum((line.get("prompts") or 0) * (line.get("samples") or 1) for line in lines)
    found["samples"] = wanted
    if wanted != found["rows"] + found["failed"]:
        raise AssertionError(f"prompts {found} are not rows and failed ones")
    if found["rows"] != found["kept"] + sum(dropped.values()):
        raise AssertionError(f"rows {found} are not kept and dropped ones: {dropped}")
    if not_asked := sum(line.get("not_asked") or 0 for line in lines):
        found["not_asked"] = not_asked
    if not_asked > sum(dropped.values()):
        raise AssertionError(f"rows {found}: more were not asked for everything than {dropped}")
    return found | {f"dropped.{reason}": count for reason, count in dropped.items() if count}
