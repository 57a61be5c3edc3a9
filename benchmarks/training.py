"""The sides that `train.py` times, each in a process of its own: one training step of each.

`ours`: `SSOTrainer.training_step` as it is, three pairs, references from the rows.
`authors`: three pairs as the published trainer does them, rebuilt from its description.
`trl`: `trl.DPOTrainer.training_step` as it is, one pair, with its reference model.
All sides have the same rows, weights, number formats and optimizer; a step is forward, backward,
optimizer step.
"""

import copy
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sso_data.config.training import LossConfig, ReferenceConfig
from sso_data.core.records import VIEWS, View
from sso_data.models.head import IGNORED, disable_dropout
from sso_data.training.batch import Batch, Collator
from sso_data.training.encode import EncodedRow
from sso_data.training.loss import PREFERENCE_TERMS, sso_loss, terms_of
from sso_data.training.reference import model_scorer, resolve_references
from sso_data.training.trainer import SSOTrainer, spread_counts

PAD, BOS, EOS = 0, 1, 2
STEERING = 64
"""Tokens that the good and the bad view add to a prompt."""
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The sizes of a benchmark.

    The longest plain sequence has `length` tokens, `prompt_share` of them the prompt; the longest
    responses of other rows are down to `shortest` of that one's, the others of a row up to a third
    shorter. `micro`: rows of a micro-batch of ours (0: all of a step). `model`: a directory, or ""
    for a random model.
    """

    model: str
    vocab: int
    length: int
    prompt_share: float
    rows: int
    layers: int
    hidden: int
    device: str
    dtype: str
    checkpointing: bool
    optimizer: str
    attention: str | None
    threads: int
    micro: int = 0
    shortest: float = 1.0

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")


def policy_of(work: Work) -> Any:
    """The model directory's, or a random Llama with tied embeddings; the same for every side."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    options = {"dtype": getattr(torch, work.dtype), "attn_implementation": work.attention}
    if work.model:
        model = AutoModelForCausalLM.from_pretrained(work.model, **options)
        return model.to(work.device).train()
    torch.manual_seed(0)
    heads = max(1, work.hidden // 64)
    config = LlamaConfig(
        vocab_size=work.vocab,
        hidden_size=work.hidden,
        intermediate_size=4 * work.hidden,
        num_hidden_layers=work.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2 * work.length + 2 * STEERING,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = AutoModelForCausalLM.from_config(config, **options)
    return model.to(work.device).train()


def rows_of(work: Work) -> list[EncodedRow]:
    """Rows of random ids; every response ends with EOS."""
    rng = np.random.default_rng(0)
    prompt_tokens = max(1, round(work.length * work.prompt_share))
    longest = work.length - prompt_tokens

    def ids(count: int) -> Any:
        return rng.integers(3, work.vocab, count).astype(np.int32)

    def response(index: int, most: int) -> Any:
        count = most if index == 0 else int(rng.integers(2 * most // 3, most + 1))
        return np.append(ids(max(1, count - 1)), np.int32(EOS))

    found = []
    for index in range(work.rows):
        plain = ids(prompt_tokens)
        prompts: dict[View, Any] = {
            "plain": plain,
            "good": np.concatenate([ids(STEERING), plain]),
            "bad": np.concatenate([ids(STEERING), plain]),
        }
        least = longest if index == 0 else int(work.shortest * longest)
        most = int(rng.integers(least, longest + 1)) if least < longest else longest
        order = rng.permutation(len(VIEWS))
        completions: dict[View, Any] = {
            view: response(int(place), most) for view, place in zip(VIEWS, order, strict=True)
        }
        nothing = np.full((len(PREFERENCE_TERMS), 2), np.nan)
        found.append(
            EncodedRow(id=f"row-{index}", prompts=prompts, completions=completions, ref_CS=nothing)
        )
    return found


class Side(Protocol):
    """One way of training: forward and backward of the batch, gradients left in the model."""

    def gradients(self) -> float:
        """The loss; the model's `.grad` are filled."""
        ...


class Ours:
    """`SSOTrainer.training_step`; references were scored once, before the first step.

    A step's rows go in micro-batches, the longest first as the trainer has them, or `unsorted`.
    """

    def __init__(
        self,
        model: Any,
        work: Work,
        folder: Path,
        *,
        backward: Any = "one_pair",
        unsorted: bool = False,
        **loss: Any,
    ) -> None:
        config = LossConfig(**loss)
        rows = rows_of(work)
        scorer = model_scorer(model, terms_of(config).names, pad_id=PAD)
        rows, _ = resolve_references(rows, scorer, config, ReferenceConfig(mode="rescore"))
        self._trainer = SSOTrainer(
            model, arguments(work, folder), loss=config, rows=rows, pad_id=PAD, backward=backward
        )
        self._model = model
        items, terms = list(enumerate(rows)), terms_of(config).names
        if not unsorted:
            items.sort(key=lambda item: -item[1].length(terms))
        size = work.micro or len(rows)
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        self._batches: list[Batch] = [self._trainer.data_collator(part) for part in parts]

    def gradients(self) -> float:
        count = sum(len(batch["row"]) for batch in self._batches)
        steps = (self._trainer.training_step(self._model, one, count) for one in self._batches)
        return float(sum(steps))

    @property
    def padding(self) -> float:
        """The share of padding among the tokens of a step."""
        parts = [part for one in self._batches for part in one.values() if isinstance(part, dict)]
        masks = [part["attention_mask"] for part in parts]
        real, all_ = sum(int(mask.sum()) for mask in masks), sum(int(m.numel()) for m in masks)
        return 1 - real / all_


class Authors:
    """Three pairs by full logits, a live reference model, one backward over all of it.

    Each pair (its two responses together) is one forward pass of the policy and one of the
    reference: logits of every position in fp32, log-softmax, gather. What may be had without
    changing that is had: references first, while no graph is alive; logits dropped at once.
    """

    def __init__(self, model: Any, work: Work, *, live_reference: bool = True) -> None:
        disable_dropout(model)
        self._model = model
        self._reference = copy.deepcopy(model).eval().requires_grad_(False)
        batch = Collator(terms=PREFERENCE_TERMS, pad_id=PAD)(list(enumerate(rows_of(work))))
        self._tokens = spread_counts(batch, PREFERENCE_TERMS).to(work.device)
        self._pairs = [
            {name: tensor.to(work.device) for name, tensor in batch[term].items()}
            for term in PREFERENCE_TERMS
        ]
        self._config = LossConfig()
        self._recorded: Tensor | None = None
        if not live_reference:
            self._recorded = self._references()
            del self._reference

    def gradients(self) -> float:
        ref = self._references() if self._recorded is None else self._recorded
        loss = sso_loss(self._totals(self._model), ref, self._tokens, self._config).loss.mean()
        loss.backward()
        return float(loss.detach())

    def _references(self) -> Tensor:
        with torch.no_grad():
            return self._totals(self._reference)

    def _totals(self, model: Any) -> Tensor:
        """Total nats [B, C, S]."""
        return torch.stack([full_logits_totals(model, pair) for pair in self._pairs], 1)


def full_logits_totals(model: Any, pair: dict[str, Tensor]) -> Tensor:
    """Total nats [B, S] of a pair's 2B sequences, the preferred ones first."""
    logits = model(
        input_ids=pair["input_ids"], attention_mask=pair["attention_mask"], use_cache=False
    ).logits.to(torch.float32)
    labels = pair["labels"][:, 1:]
    wanted = labels != IGNORED
    nats = logits[:, :-1].log_softmax(-1)
    del logits
    picked = nats.gather(-1, labels.masked_fill(~wanted, 0)[..., None]).squeeze(-1)
    totals: Tensor = (picked * wanted).sum(-1).view(2, -1).T
    return totals


class Trl:
    """`trl.DPOTrainer.training_step` on (y+, y-) under the plain view, with its own collator."""

    def __init__(self, model: Any, work: Work, folder: Path) -> None:
        import trl
        from datasets import Dataset

        text = {"prompt": "a b", "chosen": " c", "rejected": " d"}
        options = common_options(work, folder)
        self._trainer = trl.DPOTrainer(
            model=model,
            ref_model=copy.deepcopy(model),
            args=trl.DPOConfig(
                **options,
                loss_type=["ipo"],
                beta=LossConfig().beta,
                max_length=None,
            ),
            processing_class=small_tokenizer(),
            train_dataset=Dataset.from_list([text] * 2),
        )
        self._trainer.current_gradient_accumulation_steps = 1  # set by `train`
        self._model = model
        items = [
            {
                "prompt_ids": row.prompts["plain"].tolist(),
                "chosen_ids": row.completions["good"].tolist(),
                "rejected_ids": row.completions["bad"].tolist(),
            }
            for row in rows_of(work)
        ]
        self._batch = self._trainer.data_collator(items)

    def gradients(self) -> float:
        return float(self._trainer.training_step(self._model, dict(self._batch)))


def small_tokenizer() -> Any:
    """A tokenizer for TRL's constructor; the batch has ids already."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "a": 3, "b": 4, "c": 5, "d": 6}
    core = Tokenizer(models.WordLevel(words, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def common_options(work: Work, folder: Path) -> dict[str, Any]:
    """Training arguments that all trainers share; weights keep their number format."""
    return {
        "output_dir": str(folder),
        "use_cpu": not work.on_cuda,
        "bf16": False,
        "report_to": "none",
        "per_device_train_batch_size": work.rows,
        "gradient_checkpointing": work.checkpointing,
        "disable_tqdm": True,
    }


def arguments(work: Work, folder: Path) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(**common_options(work, folder))


SIDES: dict[str, Callable[[Any, Work, Path], Side]] = {
    "authors": lambda model, work, _: Authors(model, work),
    "ours": lambda model, work, folder: Ours(model, work, folder),
    "trl": lambda model, work, folder: Trl(model, work, folder),
    "authors-recorded": lambda model, work, _: Authors(model, work, live_reference=False),
    "ours-two-pairs": lambda model, work, folder: Ours(model, work, folder, backward="two_pairs"),
    "ours-joint": lambda model, work, folder: Ours(model, work, folder, backward="joint"),
    "ours-one-pair": lambda model, work, folder: Ours(model, work, folder, objective="pairs"),
    "ours-unsorted": lambda model, work, folder: Ours(model, work, folder, unsorted=True),
    "ours-eager": lambda model, work, folder: Ours(model, work, folder),
    "ours-fused": lambda model, work, folder: Ours(model, work, folder),
}
OWN: dict[str, dict[str, Any]] = {
    "ours-eager": {"attention": "eager"},
    "ours-fused": {"optimizer": "adamw-fused"},
}
"""What sides change of the work."""


class Memory:
    """Memory in use and its peak, in bytes: of the process, or of the CUDA device."""

    def __init__(self, work: Work) -> None:
        self._cuda = work.on_cuda

    def now(self) -> int:
        if self._cuda:
            return torch.cuda.memory_allocated()
        return self._status("VmRSS:")

    def peak(self) -> int:
        """Since `reset`."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        return self._status("VmHWM:")

    def reset(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is no one's
        Path("/proc/self/clear_refs").write_text("5")

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def serve(name: str, work: Work) -> None:
    """One side in this process: a line on stdin asks for a step, a line of JSON answers.

    The first answer says how much memory the policy and all imports take; `peak` of the others is
    what came on top of that in the step.
    """
    work = replace(work, **OWN.get(name, {}))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    if work.threads:
        torch.set_num_threads(work.threads)
    import_all(name)
    memory = Memory(work)
    model = policy_of(work)
    if work.checkpointing:  # transformers.Trainer does it in `train`, which no side calls
        model.gradient_checkpointing_enable({"use_reentrant": False})
    memory.reset()
    base = memory.now()
    with tempfile.TemporaryDirectory(prefix="sso-data-bench-") as folder:
        side = SIDES[name](model, work, Path(folder))
        parameters = list(model.parameters())
        optimizer = optimizer_of(work, parameters)
        start = {"base": base, "ready": memory.now(), "padding": getattr(side, "padding", None)}
        print(json.dumps(start), file=answers)
        for _ in sys.stdin:
            memory.reset()
            answer = timed_step(side, optimizer, work)
            answer["peak"] = memory.peak() - base
            print(json.dumps(answer), file=answers)


def optimizer_of(work: Work, parameters: list[Any]) -> Any:
    if work.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-6)
    return torch.optim.AdamW(parameters, lr=1e-6, fused=work.optimizer == "adamw-fused" or None)


def import_all(name: str) -> None:
    """Import what a side would import later, so that no module counts as memory of a step."""
    import torch._dynamo  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    if name == "trl":
        import datasets  # noqa: F401
        import trl.trainer.dpo_trainer  # noqa: F401


def timed_step(side: Side, optimizer: Any, work: Work) -> dict[str, float]:
    """Seconds, processor seconds of all threads, and the loss of one step."""
    began, processor = time.perf_counter(), time.process_time()
    loss = side.gradients()
    optimizer.step()
    optimizer.zero_grad()
    if work.on_cuda:
        torch.cuda.synchronize()
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - processor,
        "loss": loss,
    }
