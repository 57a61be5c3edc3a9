"""The trainer: exact gradients term by term, and steps that do not depend on their cut."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sso_data.config.loading import load
from sso_data.config.training import EarlyStoppingConfig, LossConfig, TrainConfig
from sso_data.core.errors import TrainError
from sso_data.core.progress import NullProgress
from sso_data.models.head import CompletionScorer
from sso_data.training.backward import BackwardMode
from sso_data.training.callbacks import EarlyStopping, FewSteps, FiniteGradients
from sso_data.training.encode import EncodedRow
from sso_data.training.loss import sso_loss
from sso_data.training.processes import training_arguments
from sso_data.training.trainer import SSOTrainer, join, spread_counts
from tests.training.models import gpt2, random_rows

LOSSES: dict[str, dict[str, Any]] = {
    "sso": {},
    "detached": {"detach_weight": True},
    "all": {"weight_scope": "all"},
    "all, detached": {"weight_scope": "all", "detach_weight": True},
    "nll": {"nll": 0.3, "weight_scope": "all"},
    "without w": {"use_w": False},
    "without g": {"use_g": False},
    "without both": {"use_w": False, "use_g": False},
    "dpo": {"type": "dpo"},
    "simpo": {"type": "simpo"},
    "orpo": {"type": "orpo"},
    "generator": {"objective": "sso-generator"},
    "pairs": {"objective": "pairs", "nll": 0.1},
}
MODES: tuple[BackwardMode, ...] = ("one_pair", "two_pairs", "joint")


def make_trainer(
    tmp_path: Path,
    rows: list[EncodedRow],
    *,
    loss: LossConfig | None = None,
    model: Any = None,
    backward: BackwardMode = "one_pair",
    eval_rows: list[EncodedRow] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    **options: Any,
) -> SSOTrainer:
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "disable_tqdm": True,
        "seed": 3,
    }
    return SSOTrainer(
        model=gpt2() if model is None else model,
        args=TrainingArguments(**(settings | options)),
        loss=loss or LossConfig(),
        rows=rows,
        eval_rows=eval_rows,
        backward=backward,
        callbacks=callbacks,
    )


def batch_of(trainer: SSOTrainer, count: int) -> dict[str, Any]:
    batch: dict[str, Any] = trainer.data_collator([trainer.train_dataset[i] for i in range(count)])
    return batch


def gradients(trainer: SSOTrainer) -> list[Tensor]:
    return [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]


def by_hand(trainer: SSOTrainer, batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Mean loss and its gradients from one graph over plain full logits."""
    policy = torch.full((len(batch["row"]), 3, 2), torch.nan, dtype=torch.float64)
    columns = []
    for c, name in enumerate(("base", "good", "bad")):
        if name in batch:
            part = batch[name]
            logits = trainer.model(
                input_ids=part["input_ids"], attention_mask=part["attention_mask"]
            ).logits
            nats = logits[:, :-1].log_softmax(-1)
            labels = part["labels"][:, 1:]
            picked = nats.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
            columns.append((picked * (labels != -100)).sum(-1).view(2, -1).T)
        else:
            columns.append(policy[:, c])
    tokens = spread_counts(batch, trainer.terms)
    loss = sso_loss(torch.stack(columns, 1), batch["ref_nats"], tokens, trainer.loss).loss.mean()
    found = torch.autograd.grad(loss, list(trainer.model.parameters()))
    return loss.detach(), list(found)


@pytest.mark.parametrize("name", LOSSES)
def test_every_mode_has_the_gradient_of_the_whole_loss(tmp_path: Path, name: str) -> None:
    """In float64: value and gradients equal the plain computation's, mode by mode."""
    for mode in MODES:
        trainer = make_trainer(
            tmp_path, random_rows(5), loss=LossConfig(**LOSSES[name]), backward=mode
        )
        batch = batch_of(trainer, 5)
        expected, wanted = by_hand(trainer, batch)
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        found = gradients(trainer)
        largest = max(float(one.abs().max()) for one in wanted)
        worst = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        assert worst <= 1e-12 * max(1.0, largest), mode


def test_how_often_the_model_runs(tmp_path: Path) -> None:
    """(forward with gradient, forward without) a micro-batch: what each mode costs."""
    counted: dict[tuple[str, str], tuple[int, int]] = {}
    for name in ("sso", "detached", "without g", "generator", "pairs"):
        for mode in MODES:
            trainer = make_trainer(
                tmp_path, random_rows(2), loss=LossConfig(**LOSSES[name]), backward=mode
            )
            batch = batch_of(trainer, 2)
            trainer.training_step(trainer.model, batch)  # the first one tries the head
            calls: list[bool] = []
            trainer.model.register_forward_pre_hook(
                lambda *_, calls=calls: calls.append(torch.is_grad_enabled())
            )
            trainer.training_step(trainer.model, batch)
            counted[name, mode] = (sum(calls), len(calls) - sum(calls))
    assert counted == {
        ("sso", "one_pair"): (3, 1),
        ("sso", "two_pairs"): (3, 0),
        ("sso", "joint"): (1, 0),
        ("detached", "one_pair"): (3, 0),
        ("detached", "two_pairs"): (3, 0),
        ("detached", "joint"): (1, 0),
        ("without g", "one_pair"): (1, 0),
        ("without g", "two_pairs"): (1, 0),
        ("without g", "joint"): (1, 0),
        ("generator", "one_pair"): (2, 0),
        ("generator", "two_pairs"): (2, 0),
        ("generator", "joint"): (1, 0),
        ("pairs", "one_pair"): (1, 0),
        ("pairs", "two_pairs"): (1, 0),
        ("pairs", "joint"): (1, 0),
    }


def test_one_pairs_graph_at_a_time(tmp_path: Path) -> None:
    """Bytes that the graphs hold at once: one pair's, two pairs', three pairs'."""
    rows = random_rows(1) * 4  # equal lengths everywhere but between terms
    peaks = {}
    for mode in MODES:
        trainer = make_trainer(tmp_path, rows, backward=mode)
        batch = batch_of(trainer, 4)
        trainer.training_step(trainer.model, batch)
        batch["good"] = batch["bad"] = batch["base"]
        peaks[mode] = peak_saved(trainer, batch)
    assert peaks["two_pairs"] == pytest.approx(2 * peaks["one_pair"], rel=0.02)
    assert peaks["joint"] == pytest.approx(3 * peaks["one_pair"], rel=0.02)


class _Saved:
    """A tensor that a graph holds; the bytes are given back when the graph goes."""

    alive = 0
    peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.bytes = tensor.numel() * tensor.element_size()
        _Saved.alive += self.bytes
        _Saved.peak = max(_Saved.peak, _Saved.alive)

    def __del__(self) -> None:
        _Saved.alive -= self.bytes


def peak_saved(trainer: SSOTrainer, batch: dict[str, Any]) -> int:
    """Most bytes of activations that graphs hold for their backward at one time."""
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}

    def pack(tensor: Tensor) -> Any:
        return tensor if tensor.untyped_storage().data_ptr() in weights else _Saved(tensor)

    _Saved.alive = _Saved.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(
        pack, lambda held: held.tensor if isinstance(held, _Saved) else held
    ):
        trainer.training_step(trainer.model, batch)
    return _Saved.peak


def trained(tmp_path: Path, rows: list[EncodedRow], **options: Any) -> tuple[Any, list[Any]]:
    trainer = make_trainer(tmp_path, rows, num_train_epochs=2, **options)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model.state_dict(), history


@pytest.mark.parametrize("count", [16, 13])
@pytest.mark.parametrize(("size", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_steps_do_not_depend_on_their_cut(
    tmp_path: Path, count: int, size: int, accumulation: int
) -> None:
    """8 rows a step in whatever micro-batches: the same weights, losses and metrics.

    With 13 rows the last step of an epoch and its last micro-batch are smaller.
    """
    rows = random_rows(count)
    whole, history = trained(tmp_path, rows, per_device_train_batch_size=8)
    cut, other = trained(
        tmp_path,
        rows,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
    )
    for name, weight in whole.items():
        torch.testing.assert_close(cut[name], weight, rtol=1e-11, atol=1e-12)
    assert len(history) == len(other) == 2 * math.ceil(count / 8)
    for one, two in zip(history, other, strict=True):
        shared = {key for key in one if key not in {"epoch", "grad_norm"}}
        assert {key: one[key] for key in shared} == pytest.approx(
            {key: two[key] for key in shared}, rel=1e-4, abs=1e-5
        )


def test_what_is_logged(tmp_path: Path) -> None:
    rows = random_rows(6)
    trainer = make_trainer(
        tmp_path,
        rows,
        eval_rows=rows[:5],
        max_steps=2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=1,
    )
    names = {
        *(
            f"{kind}_{c}"
            for kind in ("margin", "accuracy", "loss")
            for c in ("base", "good", "bad")
        ),
        *("weight", "logp_chosen", "logp_rejected", "tokens_chosen", "tokens_rejected"),
    }
    before = trainer.evaluate()
    expected, _ = by_hand(trainer, batch_of(trainer, 5))
    assert before["eval_loss"] == pytest.approx(float(expected), rel=1e-6)
    chosen = [len(row.completions["good"]) for row in rows[:5]]
    assert before["eval_tokens_chosen"] == pytest.approx(sum(chosen) / 5)
    trainer.train()
    train = [entry for entry in trainer.state.log_history if "loss" in entry]
    evals = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(train) == 2
    assert len(evals) == 2
    assert names <= set(train[0])
    assert {f"eval_{name}" for name in names} <= set(evals[0])
    assert 0.5 < train[0]["weight"] < 1


def test_a_loss_that_is_no_number_stops_with_step_and_rows(tmp_path: Path) -> None:
    rows = random_rows(4)
    rows[2].ref_CS[1, 0] = float("inf")
    trainer = make_trainer(tmp_path, rows, max_steps=3, per_device_train_batch_size=4)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    with pytest.raises(TrainError, match=r"step 1: .* rows row-2;"):
        trainer.train()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_training_learns_the_preference(tmp_path: Path) -> None:
    """A few steps raise every term's margin above where it starts."""
    model = gpt2()
    rows = random_rows(8)
    trainer = make_trainer(
        tmp_path,
        rows,
        model=model,
        loss=LossConfig(type="simpo", g=1.0, beta=1.0),
        max_steps=30,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        gradient_checkpointing=True,
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("base", "good", "bad"):
        assert history[-1][f"margin_{name}"] > history[0][f"margin_{name}"] + 0.5


def test_joining_terms_pads_to_the_widest(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, random_rows(3))
    batch = batch_of(trainer, 3)
    parts = [batch[name] for name in ("base", "good", "bad")]
    whole = join(parts)
    assert whole["labels"].shape == (18, max(part["labels"].shape[1] for part in parts))
    scorer, model = CompletionScorer(trainer.model), trainer.model
    columns = ("input_ids", "attention_mask", "labels")
    apart = torch.cat([scorer.totals(model, *(p[c] for c in columns)) for p in parts])
    torch.testing.assert_close(scorer.totals(model, *(whole[c] for c in columns)), apart)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change() -> None:
    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None
    state = TrainerState(global_step=4)
    FiniteGradients().on_pre_optimizer_step(None, state, None, model=model)
    model.weight.grad[0, 1] = float("nan")
    with pytest.raises(TrainError, match="step 5: the gradient is not finite"):
        FiniteGradients().on_pre_optimizer_step(None, state, None, model=model)


def test_a_continued_training_judges_the_steps_before_as_well() -> None:
    """Chosen fell by 1 at the last step: alone that would stop, averaged over four it does not."""
    logs = [{"logp_chosen": -1.0}, {"logp_chosen": -1.0}, {"logp_chosen": -1.0}]
    found = []
    for earlier, now in ((logs, []), ([], logs)):
        watch = EarlyStopping(EarlyStoppingConfig(chosen_drop=0.5), -1.0, NullProgress())
        state, control = TrainerState(log_history=earlier), TrainerControl()
        watch.on_train_begin(None, state, control)
        for log in now:
            watch.on_log(None, state, control, logs=log)
        watch.on_log(None, state, control, logs={"logp_chosen": -2.0})
        found.append(control.should_training_stop)
    assert found == [False, False]


@pytest.mark.parametrize(("given", "steps"), [("0", 0), ("0.04", 4), ("1", 1), ("7", 7)])
def test_warmup_is_a_share_below_1_and_steps_from_1(tmp_path: Path, given: str, steps: int) -> None:
    config = load(TrainConfig, None, [f"optim.warmup_steps={given}"])
    assert training_arguments(config, tmp_path).get_warmup_steps(100) == steps


@pytest.mark.parametrize(
    ("from_zero", "shares"),
    [(False, [1 / 3, 2 / 3, 1.0, 0.75]), (True, [0.0, 0.5, 1.0, 0.75])],
)
def test_the_first_step_has_a_rate(tmp_path: Path, from_zero: bool, shares: list[float]) -> None:
    """Two steps of warm-up before a cosine over three: (1 + cos(pi k/3)) / 2 is 1, 3/4, 1/4."""
    rates: dict[str, Any] = {"learning_rate": 2e-3, "warmup_steps": 2}
    rates["lr_scheduler_type"] = "cosine"
    trainer = make_trainer(tmp_path, random_rows(1), max_steps=5, **rates)
    trainer.warmup_from_zero = from_zero
    trainer.create_optimizer_and_scheduler(num_training_steps=5)
    found = []
    for _ in shares:
        found += trainer.lr_scheduler.get_last_lr()[:1]
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert found == pytest.approx([2e-3 * share for share in shares])


class Heard(NullProgress):
    """Keeps notes and warnings."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("in_bfloat16", [True, None], ids=["saved", "adapter"])
def test_fewer_than_ten_steps_are_told(tmp_path: Path, in_bfloat16: bool | None) -> None:
    """At whatever rate; one of 0.1 moves every weight, and so nothing is warned about."""
    heard = Heard()
    few = FewSteps(heard, saved_in_bfloat16=in_bfloat16)
    options: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    linear = options | {"learning_rate": 0.1, "lr_scheduler_type": "linear"}
    make_trainer(tmp_path, random_rows(2), callbacks=[few], max_steps=2, **linear).train()
    steps = "2 steps: the weights change 2 times in all, by at most 2 rows each time"
    assert heard.notes == [f"{steps}, at rates of 0.1, 0.05"] and not heard.warnings
    options |= {"learning_rate": 1e-9}
    make_trainer(tmp_path, random_rows(2), callbacks=[few], max_steps=1, **options).train()
    assert heard.notes[1].startswith("1 step: the weights change once in all, by")
    assert [line[:7] for line in heard.warnings] == (["1 step,"] if in_bfloat16 else [])
    make_trainer(tmp_path, random_rows(2), callbacks=[few], max_steps=10, **options).train()
    assert len(heard.notes) == 2, "ten are not few"
