"""Training a reward model: our pairs, others mixed in, a head of one number."""

from collections.abc import Mapping, Sequence
from typing import Any

from sso_data.config.training import TrainConfig
from sso_data.core.errors import InputError
from sso_data.models.training_model import PolicyFiles, with_adapter
from sso_data.prompts.preferences import read_preferences
from sso_data.training.checkpoints import SafeCheckpoints
from sso_data.training.dataset import fingerprint_of
from sso_data.training.job import Prepared, TrainContext
from sso_data.training.mix import PairReader, mix_summary, reward_data
from sso_data.training.reward import RewardTrainer, load_reward_model


class SafeRewardTrainer(SafeCheckpoints, RewardTrainer):
    """The reward trainer with checkpoints that survive being killed."""


class RewardJob:
    """Train a reward model by `config.reward` on the rows of `source`."""

    def __init__(self, source: str, policy: PolicyFiles, config: TrainConfig) -> None:
        """Reads and checks the rows; InputError for whatever is wrong with them."""
        self._policy = policy
        self._config = config
        self._source = source
        longest = min(config.sequence.max_length, policy.facts.context)
        reader = PairReader(
            tokenizer=policy.tokenizer,
            sequences=config.sequence.model_copy(update={"max_length": longest}),
            views=config.views,
            eos_ids=frozenset(policy.facts.eos_ids),
            vocab_size=policy.facts.vocab_size,
        )
        data = config.data
        try:
            self._rows = reward_data(
                read_preferences(source, split=data.split, limit=data.limit),
                [read_preferences(part.data, split=part.split) for part in config.reward.mix],
                reader,
                config.reward,
                eval_share=data.eval_share,
                seed=config.seed,
            )
        except InputError as error:
            message = str(error)
            raise InputError(message if source in message else f"{source}: {message}") from error

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which data."""
        return {"data": fingerprint_of([*self._rows.rows, *self._rows.eval_rows])}

    @property
    def data(self) -> Mapping[str, Any]:
        """The data, for train.json and the card."""
        reports = [report.to_json() for report in self._rows.reports]
        return {
            "source": self._source,
            "fingerprint": self.identity["data"],
            "training": len(self._rows.rows),
            "held_out": len(self._rows.eval_rows),
            "encoding": {name: sum(report[name] for report in reports) for name in reports[0]},
            "made_by": [],
            "mix": dict(mix_summary(self._rows, self._config.reward)),
        }

    @property
    def lines(self) -> Sequence[str]:
        """The data, for a person."""
        parts = mix_summary(self._rows, self._config.reward)
        taken = ", ".join(f"{name} {count}" for name, count in parts.items())
        return [
            f"training on {len(self._rows.rows)} rows ({taken}), "
            f"{len(self._rows.eval_rows)} held out"
        ]

    @property
    def warnings(self) -> Sequence[str]:
        """Nothing yet."""
        return []

    def prepare(self, context: TrainContext) -> Prepared:
        """Load the model under its new head and make the trainer."""
        context.progress.phase(f"loading {self._policy.name}")
        config, tokenizer = self._config, self._policy.tokenizer
        model = load_reward_model(
            self._policy.directory,
            tokenizer,
            seed=config.seed,
            trust_remote_code=config.trust_remote_code,
        )
        model.config.use_cache = False
        pad_id = model.config.get_text_config().pad_token_id
        if config.lora.enabled:
            model = with_adapter(model, self._policy, config, task="SEQ_CLS")
        trainer = SafeRewardTrainer(
            model,
            context.args,
            config=config.reward,
            rows=self._rows.rows,
            eval_rows=self._rows.eval_rows or None,
            pad_id=pad_id,
        )
        none = {"text": "a reward model needs none"}
        return Prepared(trainer=trainer, findings={"references": none}, tokenizer=tokenizer)
