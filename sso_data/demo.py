"""`demo`: the whole job on the embedded tiny policy, judged by the exact oracle of its world."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sso_data.config import RunConfig, load_config
from sso_data.generate import Listener, Summary, generate
from sso_data.records import SIDE_OF, Row
from sso_data.store.journal import read_rows
from sso_data.world import catalogue_dir, policy_dir, queries, score

_SEED = 1
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """How often the oracle agrees that *chosen* is better than *rejected*.

    `accuracy` counts a tie as half; `chosen`, `rejected`, `original` are mean scores, 0 to 1.
    """

    rows: int
    accuracy: float
    chosen: float
    rejected: float
    original: float

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.3f} over {self.rows} rows (mean score: chosen {self.chosen:.2f}, "
            f"original {self.original:.2f}, rejected {self.rejected:.2f})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made and how good it is; `examples` are kept rows."""

    summary: Summary
    all_rows: Signal
    kept: Signal | None
    examples: tuple[Row, ...]

    @property
    def verdict(self) -> str:
        """The measured signal accuracy, in two lines."""
        kept = self.kept if self.kept else "no row was kept"
        return (
            f"signal accuracy by the oracle, all rows:   {self.all_rows}\n"
            f"signal accuracy by the oracle, kept pairs: {kept}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "account": asdict(self.summary.account),
            "seconds": round(self.summary.seconds, 2),
            "kept": len(self.summary.decision.kept),
            "dropped": self.summary.decision.dropped,
            "signal_all": asdict(self.all_rows),
            "signal_kept": asdict(self.kept) if self.kept else None,
        }


def run_demo(out: Path | None, number: int, listener: Listener) -> DemoResult:
    """Generate and filter with the tiny policy; the run goes to `out`, or is thrown away."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sso-data-demo-")))
        prompts = scratch / "prompts.jsonl"
        lines = [json.dumps({"prompt": text}) for text in queries(number, seed=_SEED)]
        prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        run = out or scratch / "run"
        summary = generate(str(prompts), run, demo_config(), listener)
        rows = list(read_rows(run))
        pairs = [rows[position] for position in summary.decision.kept]
        return DemoResult(
            summary=summary,
            all_rows=signal(rows),
            kept=signal(pairs) if pairs else None,
            examples=tuple(pairs[:_EXAMPLES]),
        )


def demo_config() -> RunConfig:
    """The demo's settings: the tiny policy in this process, its short catalogue."""
    return load_config(
        model=str(policy_dir()),
        seed=_SEED,
        principles=catalogue_dir(),
        engine={"name": "transformers", "process": "inline", "dtype": "float32", "threads": 1},
        sampling={"max_tokens": 192},
    )


def signal(rows: Sequence[Row]) -> Signal:
    """The oracle's judgement of rows whose prompts are queries of the tiny world."""
    totals = {
        side: [score(row.messages[-1].content, row.responses[view].text).total for row in rows]
        for view, side in SIDE_OF.items()
    }
    wins = [
        float(chosen > rejected) + 0.5 * float(chosen == rejected)
        for chosen, rejected in zip(totals["chosen"], totals["rejected"], strict=True)
    ]
    means = {side: sum(values) / len(rows) for side, values in totals.items()}
    return Signal(rows=len(rows), accuracy=sum(wins) / len(rows), **means)
