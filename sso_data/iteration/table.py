"""The table over the rounds: one flat line a round, its display, and remarks in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sso_data.iteration.state import RoundDir
from sso_data.iteration.stopping import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A row of the shown table: its name, and the keys of a line that it shows.

    `form` formats each value; a quantity that no round has is left out.
    """

    name: str
    keys: tuple[str, ...]
    form: str = "{:.3f}"

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
    Quantity(name="steered share", keys=("steered",), form="{:.1%}"),
    Quantity(name="signal accuracy: kept / all rows", keys=("accuracy_kept", "accuracy_all")),
    Quantity(
        name="below the own answer: y+ / y- (nats/token)",
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
    return {
        "round": place.number,
        "policy": place.facts.get("policy", {}).get("fingerprint"),
        "malformed": (place.step("sliced") or {}).get("malformed") or None,
        "prompts": generated.get("prompts"),
        "rows": rows,
        "failed": generated.get("failed"),
        "kept": kept,
        "dropped": generated.get("dropped"),
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
        **{name: evaluated.get(name) for name in _EVALUATED},
    }


_JUDGED = ("accuracy_kept", "accuracy_all", "judged", "unprompted", "unprompted_win_rate")
_EVALUATED = (
    *("win_rate", "win_rate_length_controlled", "held_out_accuracy", "held_out_steered"),
    *("held_out_score", "held_out_score_first", "held_out_tokens", "held_out_tokens_first"),
)


def shown(lines: Sequence[Line]) -> list[tuple[str, list[str]]]:
    """(name, one cell a round) of every quantity that any round has."""
    found = [(one.name, [one.cell(line) for line in lines]) for one in QUANTITIES]
    return [(name, cells) for name, cells in found if any(cell != "-" for cell in cells)]


_MUCH_LONGER, _FALLS, _DRIFT, _FEW = 1.5, 0.05, 0.1, 0.2
"""Limits over which advice is added: growth, falls of shares, nats/token, a kept share."""


def remarks(lines: Sequence[Line]) -> list[str]:
    """Return what the rounds show, each line with advice where needed; none of a single round."""
    if len(lines) < 2:
        return []
    first, last = lines[0], lines[-1]

    def both(key: str) -> tuple[float, float] | None:
        before, after = first.get(key), last.get(key)
        return None if before is None or after is None else (before, after)

    found = []
    if (tokens := both("tokens_original")) and tokens[0]:
        growth = tokens[1] / tokens[0]
        advice = "; to limit it, raise generate.steering.concision_probability"
        found.append(
            f"the policy's own answers went from {tokens[0]:.1f} to {tokens[1]:.1f} tokens "
            f"({growth:.2f} times)" + advice * (growth > _MUCH_LONGER)
        )
    if accuracy := both("accuracy_kept"):
        advice = "; the policy of an earlier round may be the better one"
        found.append(
            f"signal accuracy of the kept pairs: {accuracy[0]:.3f} to {accuracy[1]:.3f}"
            + advice * (accuracy[0] - accuracy[1] > _FALLS)
        )
    if score := both("unprompted"):
        word = "rose" if score[1] > score[0] else "fell" if score[1] < score[0] else "stayed"
        found.append(
            f"the score of the policy's own answers {word}: {score[0]:.3f} to {score[1]:.3f}"
        )
    if drift := both("closeness_chosen"):
        advice = "; generate.filter.closeness bounds it"
        found.append(
            "distance of chosen responses below the policy's own answer: "
            f"{drift[0]:.3f} to {drift[1]:.3f} nats/token" + advice * (drift[1] - drift[0] > _DRIFT)
        )
    share, dropped = last.get("kept_share"), last.get("dropped") or {}
    if share is not None and share < _FEW and dropped:
        worst = max(dropped, key=lambda reason: dropped[reason])
        found.append(
            f"the last round kept {share:.0%} of its rows; most others are {worst} (docs/filter.md)"
        )
    return found


def totals(lines: Sequence[Line]) -> Mapping[str, int]:
    """The sums over all rounds: prompts, rows, failed, kept, and dropped by reason.

    Raises AssertionError where rows were lost.
    """
    found: dict[str, int] = {
        key: sum(line.get(key) or 0 for line in lines)
        for key in ("prompts", "rows", "failed", "kept")
    }
    dropped: dict[str, int] = {}
    for line in lines:
        for reason, count in (line.get("dropped") or {}).items():
            dropped[reason] = dropped.get(reason, 0) + count
    if found["prompts"] != found["rows"] + found["failed"]:
        raise AssertionError(f"prompts {found} are not rows and failed ones")
    if found["rows"] != found["kept"] + sum(dropped.values()):
        raise AssertionError(f"rows {found} are not kept and dropped ones: {dropped}")
    return found | {f"dropped.{reason}": count for reason, count in dropped.items() if count}
