"""A reward model as judge: the higher reward of prompt and answer is the better answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sso_data.config.evaluation import JudgeConfig
from sso_data.core.paths import public_name
from sso_data.core.records import Message
from sso_data.engines.environment import prepare_environment
from sso_data.evaluation.verdicts import Answered, Comparison, NoVerdict, Verdict, preference_of
from sso_data.models.directory import resolve_model
from sso_data.models.facts import read_model_facts
from sso_data.templating.chat_template import ChatTemplate, Unrenderable, load_tokenizer, today
from sso_data.templating.external_rows import sequence_ids

TOO_LONG = "too_long"
"""Why a comparison is refused: prompt and answer are longer than the reward model's context."""

_Text = tuple[tuple[Message, ...], str]


class RewardJudge:
    """Renders prompt and answer with the reward model's own chat template and scores them.

    A text that occurs in several comparisons of one call is scored once. Equal rewards are ties.
    """

    def __init__(self, config: JudgeConfig) -> None:
        """Loads the model; raises ModelError or EngineError."""
        assert config.model is not None
        engine = config.loading
        prepare_environment(engine)
        trusted = engine.trust_remote_code
        directory = resolve_model(config.model, engine.revision, trust_remote_code=trusted)
        self.name = f"reward model {public_name(config.model)}"
        tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
        self._template = ChatTemplate(tokenizer, config.views, today=today())
        facts = read_model_facts(directory, engine)
        self._context = facts.context
        self._eos_ids = frozenset(facts.eos_ids)
        from sso_data.models.inference import RewardModel
        from sso_data.training.reward import padding_id

        self._model: RewardModel | None = RewardModel(
            directory, engine, pad_id=padding_id(tokenizer), batch_tokens=config.batch_tokens
        )

    def compare(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict | NoVerdict]:
        """Yield each verdict when the second of its texts is scored.

        Raises EngineError where a reward is not finite or the model does not fit into memory.
        """
        users: dict[_Text, list[Comparison]] = {}
        for comparison in comparisons:
            for text in {_text(comparison, side) for side in (comparison.a, comparison.b)}:
                users.setdefault(text, []).append(comparison)
        rewards: dict[_Text, float | NoVerdict] = {}
        for text, reward in self._rewards(list(users)):
            rewards[text] = reward
            for comparison in users[text]:
                sides = (comparison.a, comparison.b)
                match [rewards.get(_text(comparison, side)) for side in sides]:
                    case (None, _) | (_, None):
                        continue
                    case (NoVerdict() as failed, _) | (_, NoVerdict() as failed):
                        yield replace(failed, key=comparison.key)
                    case (float(a), float(b)):
                        preference = preference_of(a, b)
                        yield Verdict(key=comparison.key, preference=preference, scores=(a, b))

    def close(self) -> None:
        """Free the model's memory."""
        model, self._model = self._model, None
        if model is not None:
            model.close()

    def _rewards(self, texts: Sequence[_Text]) -> Iterator[tuple[_Text, float | NoVerdict]]:
        """(text, its reward or why it has none), in any order."""
        assert self._model is not None, "the judge is closed"
        sequences: list[list[int]] = []
        scored: list[_Text] = []
        for text in texts:
            ids = self._ids(*text)
            if isinstance(ids, NoVerdict):
                yield text, ids
            else:
                sequences.append(ids)
                scored.append(text)
        for position, reward in self._model.rewards(sequences):
            yield scored[position], reward

    def _ids(self, messages: tuple[Message, ...], answer: str) -> list[int] | NoVerdict:
        """Prompt and answer as one sequence of ids, as `train` renders pairs that are text."""
        said = (Message(role="assistant", content=answer),)
        try:
            prompt, [answered] = sequence_ids(self._template, messages, [said], self._eos_ids)
        except Unrenderable as error:
            return NoVerdict(key="", reason=error.reason, detail=str(error))
        ids = [*prompt, *answered]
        if len(ids) > self._context:
            detail = f"prompt and answer have {len(ids)} tokens, the context {self._context}"
            return NoVerdict(key="", reason=TOO_LONG, detail=detail)
        return ids


def _text(comparison: Comparison, side: Answered) -> _Text:
    return comparison.messages, side.text
