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
        to_keep = _TO_KEEP.get(worst, "docs/filter.md explains every reason")
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
    """Return a Stop if the policy of a round may be damaged: its training stopped early.

    Without the limit `train.stop.chosen_drop` an early stop is not counted as damage.
    """
    if not line.get("train_stopped") or config.train.stop.chosen_drop is None:
        return None
    number = int(line["round"])
    return Stop(
        rule="training",
        reason=f"round {number}: its training stopped early: {line['train_stopped']}",
        advice=_ADVICE["training"],
        good_until=number - 1,
    )


_TO_KEEP: Mapping[str, str] = {
    "truncated": "raise generate.sampling.max_tokens, or set generate.filter.drop_truncated=false",
    "not_steered": "look at the views with `sso-data preview`: the policy does not tell them apart",
    "leak": "set generate.filter.drop_leaks=false, or change the wording of the system message",
    "off_policy": "loosen the filter: generate.filter.closeness=q0.8",
    "gap": "loosen the filter: generate.filter.gap=q0.2",
}
"""What to change where a reason drops most rows."""

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
        "try other thresholds on the round's run, which costs nothing: `sso-data filter RUN "
        "--set filter.gap=q0.2 --dry-run`",
        "or the policy is no longer steerable: make fewer rounds",
    ),
    "training": (
        "lower train.optim.lr, raise train.loss.beta, or add train.loss.nll",
        "train.stop.chosen_drop is the limit that it passed; null switches it off",
    ),
}
