"""A reward model as judge: one that `train --objective reward` made of the tiny policy's rows."""

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from sso_data.config.evaluation import JudgeConfig
from sso_data.config.loading import load
from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.config.training import TrainConfig
from sso_data.core.errors import EngineError, ModelError
from sso_data.core.records import Message, Row
from sso_data.evaluation.judges import judge_identity, open_judge
from sso_data.evaluation.statistics import mean_score
from sso_data.evaluation.verdicts import Comparison, NoVerdict, Verdict, answered, signal_comparison
from sso_data.models.inference import RewardModel
from sso_data.runs.journal import read_rows
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer
from sso_data.training.run import train
from sso_data.world import policy_dir
from tests.evaluation.sides import compared, judged, verdicts_of
from tests.once import once
from tests.tiny_runs import Silent, tiny_run

ROWS = 40


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny policy whose filter kept nearly every row."""

    def make(folder: Path) -> None:
        tiny_run(folder, ROWS, seed=11, keep=True, max_tokens=128)

    return once(tmp_path_factory, "judged", make) / "run"


@pytest.fixture(scope="module")
def rows(run: Path) -> list[Row]:
    return list(read_rows(run))


@pytest.fixture(scope="module")
def reward(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model trained on its pairs."""
    settings = ["optim.max_steps=20", "optim.batch_size=8", "optim.micro_batch_rows=8"]
    settings += ["optim.lr=1e-3", "optim.warmup_steps=0", "log.plot=false"]
    config = load(TrainConfig, None, settings, model=str(policy_dir()), kind="reward")

    def make(folder: Path) -> None:
        train(str(run), folder / "model", config, Silent())

    return once(tmp_path_factory, "reward", make) / "model"


def config_of(model: Path, **options: Any) -> JudgeConfig:
    return JudgeConfig.model_validate(
        {"kind": "reward", "model": str(model), "engine": {"dtype": "float32"}, **options}
    )


def test_it_finds_what_it_was_trained_for(reward: Path, rows: list[Row]) -> None:
    judge = open_judge(config_of(reward))
    assert judge.name == "reward model model"
    verdicts = verdicts_of(judge, [signal_comparison(row) for row in rows])
    plain = [
        Comparison(
            key=row.id, messages=row.messages, a=answered(row, "plain"), b=answered(row, "bad")
        )
        for row in rows
    ]
    own = verdicts_of(judge, plain)
    judge.close()
    assert fmean(one.preference for one in verdicts) > 0.75
    assert all(one.scores is not None for one in verdicts)
    original = mean_score(own, 0)
    chosen, rejected = mean_score(verdicts, 0), mean_score(verdicts, 1)
    assert chosen is not None and original is not None and rejected is not None
    assert chosen > original > rejected
    identity = judge_identity(config_of(reward))
    assert identity["model"].startswith("model@")
    assert str(reward) not in json.dumps(identity)


def by_hand(model: Path, row: Row, side: Any) -> float:
    """The reward of the ids that were sampled, one sequence in one forward pass."""
    loaded = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    template = ChatTemplate(load_tokenizer(model), ViewsConfig(), today="2026-01-01")
    ids = [*template.ids(row.messages), *row.responses[side].token_ids]
    with torch.no_grad():
        hidden = loaded.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return float(loaded.score(hidden)[0])


def test_rewards_are_those_of_the_sampled_ids_whatever_the_batch(
    reward: Path, rows: list[Row]
) -> None:
    """Padding, sorting and rendering the answer's text again change nothing."""
    few = [row for row in rows if row.responses["good"].finish_reason == "stop"][:6]
    for batch_tokens in (256, 16384):
        judge = open_judge(config_of(reward, batch_tokens=batch_tokens))
        found = verdicts_of(judge, [signal_comparison(row) for row in few])
        judge.close()
        for row, verdict in zip(few, found, strict=True):
            assert verdict.scores is not None
            wanted = (by_hand(reward, row, "good"), by_hand(reward, row, "bad"))
            assert verdict.scores == pytest.approx(wanted, abs=1e-4)
            if abs(wanted[0] - wanted[1]) > 1e-4:
                assert verdict.preference == float(wanted[0] > wanted[1])


def test_a_text_is_scored_once_and_equal_answers_tie(
    reward: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = RewardModel._forward

    def counted(self: RewardModel, batch: list[list[int]]) -> list[float]:
        seen.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(RewardModel, "_forward", counted)
    text = rows[0].responses["good"].text
    question = rows[0].messages[-1].content
    asked = [compared(text, "No.", question), compared("No.", text, question)]
    asked.append(compared(text, text, question))
    judge = open_judge(config_of(reward))
    results = verdicts_of(judge, asked)
    judge.close()
    assert sum(seen) == 2
    assert results[0].preference == 1 - results[1].preference
    assert results[2].preference == 0.5


def test_what_does_not_fit_is_refused(reward: Path) -> None:
    judge = open_judge(config_of(reward, engine={"dtype": "float32", "max_model_len": 64}))
    long, fine = judged(judge, [compared("word " * 80, "No."), compared("No.", "Yes.")])
    judge.close()
    assert isinstance(long, NoVerdict)
    assert long.reason == "too_long"
    assert isinstance(fine, Verdict)


def test_bfloat16_keeps_the_head_apart(reward: Path, rows: list[Row]) -> None:
    """Rewards of a bf16 model differ a little from the fp32 model's, and not in steps of bf16."""
    asked = [signal_comparison(row) for row in rows[:24]]
    wide, narrow = (
        open_judge(config_of(reward, engine={"dtype": name})) for name in ("float32", "bfloat16")
    )
    exact, rough = (
        [one.scores[0] for one in verdicts_of(judge, asked) if one.scores]
        for judge in (wide, narrow)
    )
    assert len(exact) == len(rough) == len(asked)
    assert rough == pytest.approx(exact, abs=0.1)
    in_steps = [float(torch.tensor(one).bfloat16()) for one in rough]
    assert in_steps != rough


def copy_of(model: Path, folder: Path) -> Path:
    target = folder / "copy"
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("checkpoints"))
    return target


def test_a_policy_is_no_reward_model(reward: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a reward model: its files have no score\.weight"):
        open_judge(config_of(policy_dir()))
    several = copy_of(reward, tmp_path)
    content = json.loads((several / "config.json").read_text())
    content["id2label"] = {"0": "a", "1": "b"}
    content["label2id"] = {"a": 0, "b": 1}
    (several / "config.json").write_text(json.dumps(content))
    weights = load_file(several / "model.safetensors")
    weights["score.weight"] = weights["score.weight"].repeat(2, 1)
    save_file(weights, several / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="it has 2 labels"):
        open_judge(config_of(several))


def test_a_broken_model_gives_no_verdicts(reward: Path, tmp_path: Path) -> None:
    broken = copy_of(reward, tmp_path)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    judge = open_judge(config_of(broken))
    with pytest.raises(EngineError, match=r"not finite; try engine\.dtype=float32"):
        judged(judge, [compared("a", "b")])


def test_a_batch_that_does_not_fit_is_halved(reward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = RewardModel._forward

    def small(self: RewardModel, batch: list[list[int]]) -> list[float]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("no more")
        return forward(self, batch)

    model = RewardModel(reward, EngineConfig(dtype="float32"), pad_id=0, batch_tokens=4096)
    sequences = [[5 + i] * (10 + i) for i in range(9)]
    plain = dict(model.rewards(sequences))
    monkeypatch.setattr(RewardModel, "_forward", small)
    assert dict(model.rewards(sequences)) == pytest.approx(plain, abs=1e-5)
    assert sizes[:3] == [9, 4, 2]
    assert max(sizes[2:]) <= 3


def test_a_message_that_cannot_be_rendered_fails_alone(reward: Path) -> None:
    odd = compared("a", "b")
    turn = (Message(role="tool", content="x"), *odd.messages)
    judge = open_judge(config_of(reward))
    first, second = judged(
        judge,
        [type(odd)(key="odd", messages=turn, a=odd.a, b=odd.b), compared("a", "b", key="fine")],
    )
    judge.close()
    assert isinstance(second, Verdict)
    assert isinstance(first, NoVerdict)
    assert first.key == "odd"
