"""The filter once more, written independently: plain loops over journal lines as dicts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from sso_data.config.run import FilterConfig
from sso_data.core.jinja import phrases
from sso_data.runs.columns import row_key

EPSILON = 1e-9
SIDES = {"good": "chosen", "bad": "rejected", "plain": "original"}
JsonRow = dict[str, Any]


def naive_reasons(rows: list[JsonRow], config: FilterConfig) -> list[str | None]:
    """Why each row is dropped (None: kept)."""
    reasons = unranked_reasons(rows, config)
    left = [i for i, reason in enumerate(reasons) if reason is None]
    best = sorted(left, key=lambda i: (-sum(gaps(rows[i])), row_key(rows[i]["id"])))
    for i in best[math.ceil(config.keep_best * len(left) - EPSILON) :]:
        reasons[i] = "low_margin"
    return reasons


def unranked_reasons(rows: list[JsonRow], config: FilterConfig) -> list[str | None]:
    """Why each row is dropped before the ranking by margin."""
    strict = config.preset == "reference" and config.strict_paper
    reasons = [local_reason(row, config, strict=strict) for row in rows]
    left = [i for i, reason in enumerate(reasons) if reason is None]
    if config.preset == "closeness":
        stages: list[tuple[str, Callable[[JsonRow], float], float | str]]
        stages = [("off_policy", partial(far, offset=config.closeness_offset), config.closeness)]
        stages.append(("gap", narrow, config.gap))
        for name, value, threshold in stages:
            limit = resolve(threshold, [value(rows[i]) for i in left])
            for i in left:
                over = value(rows[i]) - limit
                if (over > EPSILON) if name == "off_policy" else (over < -EPSILON):
                    reasons[i] = name
            left = [i for i in left if reasons[i] is None]
        return reasons
    good = average([mean(rows[i], "plain", "good") for i in left])
    bad = average([mean(rows[i], "plain", "bad") for i in left])
    for i in left:
        if mean(rows[i], "plain", "good") < good - EPSILON:
            reasons[i] = "off_policy"
        if mean(rows[i], "plain", "bad") < bad - EPSILON:
            reasons[i] = "off_policy"
    left = [i for i in left if reasons[i] is None]
    good = average([gaps(rows[i])[0] for i in left])
    bad = average([gaps(rows[i])[1] for i in left])
    for i in left:
        over = min(gaps(rows[i])[0] - good, gaps(rows[i])[1] - bad)
        if over <= EPSILON if strict else over < -EPSILON:
            reasons[i] = "gap"
    return reasons


def local_reason(row: JsonRow, config: FilterConfig, *, strict: bool) -> str | None:
    own, identical = own_rules(row, config), identical_rules(row)
    test = "chain" if config.preset == "reference" else config.steered
    scores = score_rules(row, test)
    rules = identical + scores if strict else own[:2] + identical + own[2:] + scores
    return next((reason for reason, applies in rules if applies), None)


def own_rules(row: JsonRow, config: FilterConfig) -> list[tuple[str, bool]]:
    text = {view: row[side][0]["content"] for view, side in SIDES.items()}
    count = [len(row[f"{side}_token_ids"]) for side in SIDES.values()]
    finish = [row[f"{side}_finish_reason"] for side in SIDES.values()]
    said = (text["good"] + "\n" + text["bad"]).lower()
    blank = any(text[view].isspace() or text[view] == "" for view in SIDES)
    return [
        ("empty", blank or 0 in count),
        ("truncated", config.drop_truncated and finish != ["stop", "stop", "stop"]),
        ("leak", config.drop_leaks and any(p in said for p in phrases("leakage.txt"))),
        ("echo", config.drop_echoes and (repeats(row, "good") or repeats(row, "bad"))),
        ("too_short", min(count) < config.min_tokens),
        ("too_long", max(count) > (config.max_tokens or 10**9)),
    ]


def repeats(row: JsonRow, view: str) -> bool:
    """Six words in a row of a principle, as plain words between blanks; texts here are plain."""
    said = f" {' '.join(row[SIDES[view]][0]['content'].lower().replace('.', '').split())} "
    for principle in row[f"principles_{view}"]:
        asked = principle.lower().replace(".", "").split()
        for start in range(len(asked) - 5):
            if f" {' '.join(asked[start : start + 6])} " in said:
                return True
    return False


def identical_rules(row: JsonRow) -> list[tuple[str, bool]]:
    pairs = (("chosen", "rejected"), ("chosen", "original"), ("rejected", "original"))
    return [(f"identical_{a}_{b}", row[a] == row[b]) for a, b in pairs]


def score_rules(row: JsonRow, test: str) -> list[tuple[str, bool]]:
    cells = [(s, d) for s in SIDES for d in SIDES if (s, d) != ("good", "plain")]
    if any(row.get(f"logp_{s}_{d}") is None for s, d in cells):
        return [("incomplete_scores", True)]
    if any(len(row[f"{side}_token_ids"]) == 0 for side in SIDES.values()):
        return [("incomplete_scores", True)]
    m = {(s, d): mean(row, s, d) for s, d in cells}
    chosen_is = m["good", "good"] > m["plain", "good"] > m["bad", "good"]
    rejected_is = m["bad", "bad"] > m["plain", "bad"] > m["good", "bad"]
    if test == "off":
        return []
    if test == "contrast":
        chosen_is = m["good", "good"] > m["bad", "good"]
        rejected_is = m["bad", "bad"] > m["good", "bad"]
    return [("not_steered", not (chosen_is and rejected_is))]


def mean(row: JsonRow, seen: str, drawn: str) -> float:
    total: float = row[f"logp_{seen}_{drawn}"]
    return total / len(row[f"{SIDES[drawn]}_token_ids"])


def far(row: JsonRow, *, offset: float) -> float:
    own = mean(row, "plain", "plain")
    distances: list[float] = []
    for view in ("good", "bad"):
        tokens = len(row[f"{SIDES[view]}_token_ids"])
        distances.append((own * tokens - row[f"logp_plain_{view}"] - offset) / tokens)
    return max(distances)


def gaps(row: JsonRow) -> tuple[float, float]:
    good = mean(row, "good", "good") - mean(row, "bad", "good")
    return good, mean(row, "bad", "bad") - mean(row, "good", "bad")


def narrow(row: JsonRow) -> float:
    return min(gaps(row))


def average(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def resolve(threshold: float | str, values: list[float]) -> float:
    """The smallest value that at least the wanted share of the values does not exceed."""
    if isinstance(threshold, float):
        return threshold
    share = float(threshold.removeprefix("q"))
    for value in sorted(values):
        if sum(other <= value for other in values) >= share * len(values) - EPSILON:
            return value
    return math.nan
