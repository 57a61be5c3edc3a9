"""Do our pairs help a reward model (the paper's table 4)? Trained once, asked labelled pairs."""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.claims_grid import Chain
from benchmarks.claims_rounds import QUIET, Rounds, write_labelled
from sso_data.config.evaluation import JudgeConfig
from sso_data.config.loading import load
from sso_data.config.training import TrainConfig
from sso_data.evaluation.judges import open_judge
from sso_data.evaluation.verdicts import Verdict
from sso_data.iteration.measure import labelled_comparison
from sso_data.prompts.preferences import read_preferences
from sso_data.templating.chat_template import load_tokenizer
from sso_data.world import queries

BASE, ADDED, JUDGED = 64, 192, 400
"""Prompts of the labelled pairs that every reward model sees, of those that are added, and of those
it is judged on; prompts whose two answers tie give no pair."""
EPOCHS, STEP_ROWS, LEARNING_RATE = 3.0, 16, 3e-4


class Rewarding:
    """One reward model of the study, in `work`."""

    def __init__(self, chain: Chain, work: Path, policies: dict[str, Path]) -> None:
        self.chain, self.work, self.policies = chain, work, policies
        name = chain.arm.name.replace(" ", "_").replace(":", "")
        self.here = work / "reward" / f"{name}-{chain.seed}"

    def run(self) -> list[dict[str, Any]]:
        """The share of held-out labelled pairs that the reward model ranks as the oracle does."""
        seed = self.chain.seed
        base = self.here / "base.jsonl"
        write_labelled(base, self.policies["second"], queries(BASE, seed=7000 + seed), seed)
        self._train(base, self._added())
        asked = self.here / "asked.jsonl"
        texts = queries(JUDGED, seed=8000 + seed, held_out=True)
        write_labelled(asked, self.policies["shipped"], texts, 100 + seed)
        verdicts = self._judged(asked)
        accuracy = fmean(verdict.preference for verdict in verdicts)
        found = {"rows": len(verdicts), "reward_accuracy": accuracy}
        return [{"on": "held-out", "trained": 1, **found}]

    def _added(self) -> Path | None:
        """The pairs that this arm adds to the base."""
        if self.chain.arm.name == "reward: base":
            return None
        if self.chain.arm.pairs == "own":
            return Rounds(self.chain, self.work, self.policies).first_run()
        file = self.here / "added.jsonl"
        texts = queries(ADDED, seed=1000 * self.chain.seed + 1)
        write_labelled(file, self.policies["rambling"], texts, 200 + self.chain.seed)
        return file

    def _train(self, base: Path, added: Path | None) -> None:
        from sso_data.training.run import train

        config = load(
            TrainConfig,
            model=str(self.policies["shipped"]),
            seed=self.chain.seed,
            kind="reward",
            reward={"mix": [{"data": str(added)}] if added else []},
            optim={
                "lr": LEARNING_RATE,
                "epochs": EPOCHS,
                "batch_size": STEP_ROWS,
                "micro_batch_rows": STEP_ROWS,
            },
            log={"plot": False},
        )
        train(str(base), self.here / "model", config, QUIET)

    def _judged(self, pairs: Path) -> list[Verdict]:
        """Is the chosen answer the better one? Lengths in tokens of the policy that wrote them."""
        tokenizer = load_tokenizer(self.policies["shipped"])
        asked = [
            labelled_comparison(row, number, f"{pairs}:{number + 1}", partial(_tokens, tokenizer))
            for number, row in enumerate(read_preferences(str(pairs)))
        ]
        judge = open_judge(JudgeConfig(kind="reward", model=str(self.here / "model")))
        try:
            verdicts = [one for one in judge.compare(asked) if isinstance(one, Verdict)]
        finally:
            judge.close()
        assert len(verdicts) == len(asked)
        return verdicts


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
