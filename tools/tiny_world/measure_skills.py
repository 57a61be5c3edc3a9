"""Measure the policy's other skills: `python -m tools.tiny_world.measure_skills`."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from sso_data.world import lexicon as lex
from sso_data.world import policy_dir, queries, score
from sso_data.world.lexicon import Kind
from sso_data.world.query import parse
from tools.tiny_world.dialogues import Message, system_message
from tools.tiny_world.guidelines import Pair, feature_pairs, short_catalogue
from tools.tiny_world.measure import estimate, show
from tools.tiny_world.sampling import Heat, Policy, sample
from tools.tiny_world.skills import OPERATIONS, augment_prompt, choose_prompt, fits, write_prompt

Numbers = dict[str, dict[str, float]]


def _ask(policy: Policy, prompts: Sequence[str], seed: int, heat: Heat) -> list[str]:
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [drawn.text for drawn in sample(policy, turns, seed=seed, heat=heat)]


def read_choice(answer: str, count: int, kind: Kind) -> list[str]:
    """The `count` different features that the answer lists; empty unless all of them apply."""
    try:
        names = json.loads(answer)
    except ValueError:
        return []
    if not isinstance(names, list) or not all(name in lex.features_of(kind) for name in names):
        return []
    return names if len(names) == len(set(names)) == count else []


def read_principle(answer: str) -> Pair | None:
    """The two guidelines of the answer, where it is a JSON object of exactly these two texts."""
    try:
        pair = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(pair, dict) or set(pair) != {"good", "bad"}:
        return None
    return Pair(str(pair["good"]), str(pair["bad"]))


def choosing(policy: Policy, n: int, *, seed: int, heat: Heat) -> Numbers:
    """Two features for each of `n` held-out queries, all but Concision on offer.

    "applies" is the share of answers that are a JSON list of two features that apply; "pairs_seen"
    the share of all pairs that can be chosen which came at least once.
    """
    texts = queries(n, seed=seed, held_out=True)
    offered = [one for one in short_catalogue().principles.values() if one.name != "Concision"]
    answers = _ask(policy, [choose_prompt(offered, 2, text) for text in texts], seed, heat)
    kinds = [parse(text).kind for text in texts]
    chosen = [read_choice(answer, 2, kind) for kind, answer in zip(kinds, answers, strict=True)]
    pairs = {(kind, frozenset(pair)) for kind, pair in zip(kinds, chosen, strict=True) if pair}
    sizes = {kind: len(lex.features_of(kind)) - 1 for kind in lex.KINDS}
    possible = sum(size * (size - 1) // 2 for size in sizes.values())
    return {
        "applies": estimate([float(bool(names)) for names in chosen]),
        "pairs_seen": {"mean": round(len(pairs) / possible, 4), "n": possible},
    }


def writing(policy: Policy, n: int, *, seed: int, heat: Heat) -> Numbers:
    """A pair of guidelines for each of `n` held-out queries and a feature that applies to it.

    "valid" is the share of answers with two different texts; "known" the share whose texts are
    wordings of this very feature and side. "good" and "bad" are the oracle's score of the feature
    in a response that had the written text as its only guideline.
    """
    rng = random.Random(seed)
    texts = queries(n, seed=seed, held_out=True)
    names = [rng.choice(parse(text).features) for text in texts]
    prompts = [
        write_prompt(short_catalogue()[name], text) for name, text in zip(names, texts, strict=True)
    ]
    written = [read_principle(answer) for answer in _ask(policy, prompts, seed, heat)]
    rows = [
        (text, name, pair)
        for text, name, pair in zip(texts, names, written, strict=True)
        if pair and pair.good != pair.bad
    ]
    known = []
    for text, name, pair in rows:
        wordings = feature_pairs(name, parse(text))
        is_good = pair.good in {one.good for one in wordings}
        known.append(float(is_good and pair.bad in {one.bad for one in wordings}))
    obeyed = {
        side: _obeyed(
            policy, [(text, name, getattr(pair, side)) for text, name, pair in rows], seed
        )
        for side in ("good", "bad")
    }
    wins = [0.5 + 0.5 * ((g > b) - (g < b)) for g, b in zip(*obeyed.values(), strict=True)]
    return {
        "valid": estimate([float(i < len(rows)) for i in range(n)]),
        "known": estimate(known),
        "distinct": {"mean": len({pair for *_, pair in rows}), "n": len(rows)},
        "good": estimate(obeyed["good"]),
        "bad": estimate(obeyed["bad"]),
        "good_beats_bad": estimate(wins),
    }


def _obeyed(policy: Policy, rows: list[tuple[str, str, str]], seed: int) -> list[float]:
    """The oracle's score of the feature in a response to (query, feature, guideline)."""
    prompts: list[list[Message]] = [
        [
            {"role": "system", "content": system_message((guideline,))},
            {"role": "user", "content": text},
        ]
        for text, _, guideline in rows
    ]
    drawn = sample(policy, prompts, seed=seed)
    return [
        score(text, one.text).features[name]
        for (text, name, _), one in zip(rows, drawn, strict=True)
    ]


def augmenting(policy: Policy, n: int, *, seed: int, heat: Heat) -> dict[str, Numbers]:
    """For each operation: one new query from each of `n` held-out seed queries.

    "parses" is the share that are queries of the world, "fits" of those that are what the
    operation asks for, "distinct" the share of different texts among all.
    """
    seeds = queries(n, seed=seed, held_out=True)
    table: dict[str, Numbers] = {}
    for operation in OPERATIONS:
        texts = _ask(policy, [augment_prompt([one], operation) for one in seeds], seed, heat)
        fitting = [float(fits(old, new, operation)) for old, new in zip(seeds, texts, strict=True)]
        table[operation] = {
            "parses": estimate([float(_parses(text)) for text in texts]),
            "fits": estimate(fitting),
            "distinct": {"mean": round(len(set(texts)) / n, 4), "n": n},
        }
    return table


def _parses(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def measure_skills(folder: Path, n: int, *, seed: int, heat: Heat) -> dict[str, object]:
    """All three skills of a checkpoint."""
    policy = Policy.load(folder)
    return {
        "choose": choosing(policy, n, seed=seed, heat=heat),
        "write": writing(policy, n, seed=seed, heat=heat),
        "augment": augmenting(policy, n, seed=seed, heat=heat),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the numbers as JSON and, with --out, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=policy_dir(), help="checkpoint folder")
    parser.add_argument("-n", type=int, default=400, help="queries for each skill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=0.8)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args(arguments)
    heat = Heat(temperature=given.temperature, top_p=given.top_p)
    show(measure_skills(given.policy, given.n, seed=given.seed, heat=heat), given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
