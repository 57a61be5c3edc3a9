"""The limits of `stop`, for when the signal is gone, and what to change when one is passed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sso_data.config.iteration import IterateConfig, StopRules

Line = Mapping[str, Any]
"""A round's line of the table; see `table.line_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The reason for which no further round is made, and what to change.

    `good_until` says which policy is the last good one: that which came out of this round (0: the
    first policy).
    """

    rule: str
    reason: str
    advice: tuple[str, ...]
    good_until: int

    def to_json(self) -> dict[str, Any]:
        """Its form in iterate.json."""
        return asdict(self) | {"advice": list(self.advice)}


def before_training(lines: Sequence[Line], config: StopRules) -> Stop | None:
    """Return a Stop if the newest round's rows should not be trained on; `lines`: all rounds."""
    line, number = lines[-1], int(lines[-1]["round"])
    if not line["kept"]:
        dropped: Mapping[str, int] = line.get("dropped") or {}
        worst = max(dropped, key=lambda reason: dropped[reason], default="failed")
        to_keep = line.get("to_keep") or "`sso-data filter RUN --dry-run` on its run says why"
        return Stop(
            rule="nothing_kept",
            reason=f"round {number}: the filter kept none of {line['rows']} rows; most are {worst}",
            advice=(to_keep, *_ADVICE["nothing"]),
            good_until=number - 1,
        )
    for key, limit, rule, what in (
        ("accuracy_kept", config.signal_accuracy, "signal_accuracy", "signal accuracy"),
        ("steered", config.steered, "steered", "the share of rows that are steered"),
        ("gap", config.gap, "gap", "the mean gap between the steered views (nats/token)"),
    ):
        found = line.get(key)
        if found is not None and found < limit:
            return Stop(
                rule=rule,
                reason=f"round {number}: {what} is {found:.3g}, below stop.{rule} {limit:g}",
                advice=_ADVICE[rule],
                good_until=number - 1,
            )
    first, last = lines[0].get("tokens_original"), line.get("tokens_original")
    if not first or not last or last / first <= config.length_growth:
        return None
    return Stop(
        rule="length_growth",
        reason=f"round {number}: the policy's own answers are {last / first:.1f} times as long as "
        f"in the first round ({last:.0f} and {first:.0f} tokens), over stop.length_growth "
        f"{config.length_growth:g}",
        advice=_ADVICE["length_growth"],
        good_until=max(number - 2, 0),  # the policy that wrote them is not good any more
    )


def after_training(line: Line, config: IterateConfig) -> Stop | None:
    """Return a Stop if a round gave no new policy: training changed nothing, or stopped early.

    Without the limit `train.stop.chosen_drop` an early stop is not counted as damage.
    """
    number = int(line["round"])
    if line.get("train_changed_saved") == 0:
        return Stop(
            rule="nothing_trained",
            reason=f"round {number}: no weight of its policy differs from the one it began with",
            advice=_ADVICE["nothing_trained"],
            good_until=number - 1,
        )
    if not line.get("train_stopped") or config.train.stop.chosen_drop is None:
        return None
    return Stop(
        rule="training",
        reason=f"round {number}: its training stopped early: {line['train_stopped']}",
        advice=_ADVICE["training"],
        good_until=number - 1,
    )


_ADVICE: Mapping[str, tuple[str, ...]] = {
    "signal_accuracy": (
        "make fewer rounds: the last good policy below is the result",
        "not shown to help, to be tried: train.loss.g, train.optim.lr or the steps of a round, a "
        "stricter filter (docs/claims.md)",
    ),
    "steered": (
        "look at the views with `sso-data preview`: the policy no longer tells them apart",
        "try another train.loss.g, the weight of the terms that train this, or train.optim.lr",
        "write principles for each prompt: generate.steering.principles=written",
    ),
    "gap": (
        "try another train.loss.g, the weight of the terms that train this, or train.optim.lr",
        "choose principles that are further apart (`sso-data principles stats RUN`)",
    ),
    "length_growth": (
        "raise generate.steering.concision_probability (0.2), or give Concision a weight",
        "bound lengths: generate.filter.max_tokens",
    ),
    "nothing": (
        "other tests and thresholds on the round's run: `sso-data filter RUN --sweep`",
        "or the policy is no longer steerable: make fewer rounds",
    ),
    "nothing_trained": (
        "raise train.optim.lr or the steps of a round, in a new --out",
        "save the policies in float32: carry_float32=true, or train.optim.save_dtype=float32",
    ),
    "training": (
        "lower train.optim.lr, raise train.loss.beta, or add train.loss.nll",
        "train.stop.chosen_drop is the limit that it passed; null switches it off",
    ),
}
