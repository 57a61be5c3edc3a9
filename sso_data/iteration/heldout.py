"""A round's policy against the first one on held-out prompts."""

from typing import Any

from sso_data.evaluation import evaluate
from sso_data.iteration.plans import eval_config
from sso_data.iteration.rounds import Work
from sso_data.iteration.state import PolicyAt, RoundDir

FOLDER = "eval"
_BEGUN = "evaluating"


def evaluated(work: Work, place: RoundDir, policy: PolicyAt) -> None:
    """Evaluate the policy that came out of a round, where there are held-out prompts.

    What was done stays done; another judge is asked about the answers that are there.
    """
    if work.config.held_out.prompts is None:
        return
    config = eval_config(work.config)
    dumped = config.model_dump(mode="json")
    judge = {"judge": dumped.pop("judge")}
    answers = {"model": policy.fingerprint, "config": dumped}
    if place.step("evaluated") and place.step("evaluated")["of"] == answers | judge:
        return
    begun = place.facts.get(_BEGUN)
    if begun != answers:
        place.facts[_BEGUN] = answers
        place.save()
    with work.stage(work.heading(place.number, "held-out prompts")) as listener:
        found = evaluate(
            policy.path,
            work.config.model,
            config,
            place.path / FOLDER,
            listener,
            overwrite=begun is not None and begun != answers,
        ).to_json()
    place.mark("evaluated", _shown(found) | {"of": answers | judge})


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers for the table."""
    mine, first, steering = found["model"], found["against"], found["steering"]
    return {
        "win_rate": _rounded(_value(found.get("win_rate"))),
        "win_rate_length_controlled": _rounded(_value(found.get("length_controlled_win_rate"))),
        "held_out_accuracy": _rounded(_value(found.get("signal_accuracy"))),
        "held_out_steered": _rounded(steering["both"]),
        "held_out_score": _rounded(mine["score"]),
        "held_out_score_first": _rounded(first["score"]),
        "held_out_tokens": _rounded(mine["mean_tokens"]),
        "held_out_tokens_first": _rounded(first["mean_tokens"]),
    }


def _value(rate: Any) -> float | None:
    found: float | None = rate["value"] if rate else None
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
