"""Files of the tiny world: prompts, held-out prompts and labelled pairs, for runs to start from.

`python -m tools.tiny_world.examples` rewrites them; the same code gives the same files.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import sso_data.world
from sso_data.world.oracle import score
from sso_data.world.query import parse, queries
from tools.tiny_world.responses import LEVELS, sample_response

FOLDER = Path(sso_data.world.__file__).parent / "data"
_PROMPTS, _HELD_OUT, _PAIRS = 256, 48, 128


def files() -> dict[str, str]:
    """The content of each file by its name; JSON lines, with `prompt` in all of them.

    The pairs stand for a set that people labelled: two answers that the policy never gave, drawn
    from the response grammar, the one that the oracle scores higher as `chosen`.
    """
    return {
        "prompts.jsonl": _lines([{"prompt": text} for text in queries(_PROMPTS, seed=2)]),
        "held_out.jsonl": _lines(
            [{"prompt": text} for text in queries(_HELD_OUT, seed=3, held_out=True)]
        ),
        "pairs.jsonl": _lines([_pair(text, n) for n, text in enumerate(queries(_PAIRS, seed=4))]),
    }


def _pair(text: str, number: int) -> dict[str, str]:
    rng = random.Random(f"pair {number}")
    answers = [_answer(text, rng), _answer(text, rng)]
    while score(text, answers[0]).total == score(text, answers[1]).total:
        answers[1] = _answer(text, rng)
    rejected, chosen = sorted(answers, key=lambda answer: score(text, answer).total)
    return {"prompt": text, "chosen": chosen, "rejected": rejected}


def _answer(text: str, rng: random.Random) -> str:
    query = parse(text)
    return sample_response(query, {name: rng.choice(LEVELS) for name in query.features}, rng)


def _lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> int:
    """Write the files where they are shipped."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
