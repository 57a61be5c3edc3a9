"""Train the tiny policy from scratch: `python -m tools.tiny_world.train_policy --out DIR`."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.tiny_world.batches import stream
from tools.tiny_world.dialogues import CLEAR, NOISY
from tools.tiny_world.tokenizer import CONTEXT, build_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the policy is trained; steps are optimizer steps, `batch` is dialogues a step.

    The learning rate rises over `warmup` steps, stays at `lr` to the end of the clear phase and
    falls along a cosine to a twentieth of it over the noisy phase. `ramble`: see
    `world.responses.sample_response`; 0 for the shipped policy.
    """

    seed: int = 0
    clear_steps: int = 1650
    noisy_steps: int = 1050
    batch: int = 32
    lr: float = 3e-3
    warmup: int = 60
    weight_decay: float = 0.01
    ramble: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of both phases."""
        return self.clear_steps + self.noisy_steps

    def rate(self, step: int) -> float:
        """The learning rate at a step (from 0)."""
        if step < self.clear_steps:
            return self.lr * min(1.0, (step + 1) / self.warmup)
        part = (step - self.clear_steps) / max(1, self.noisy_steps)
        return self.lr * (0.05 + 0.95 * (1 + math.cos(math.pi * part)) / 2)


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of about 0.6 M parameters with fresh weights (of torch's global generator)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
        use_cache=True,
    )
    return LlamaForCausalLM(config)


def response_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy in nats per response token; ids and targets are [B, T]."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = targets != -100
    logits = model.lm_head(hidden[wanted])
    return torch.nn.functional.cross_entropy(logits, targets[wanted])


def train(recipe: Recipe, log_every: int = 50) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The trained model (fp32) and its tokenizer; the same recipe gives the same weights."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    rng = random.Random(recipe.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    mixtures = [replace(mixture, ramble=recipe.ramble) for mixture in (CLEAR, NOISY)]
    phases = [stream(tokenizer, mixture, rng, recipe.batch) for mixture in mixtures]
    start, mean_loss = time.monotonic(), math.nan
    for step in range(recipe.steps):
        ids, targets = next(phases[step >= recipe.clear_steps])
        loss = response_loss(model, ids, targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        mean_loss = loss.item() if step == 0 else 0.95 * mean_loss + 0.05 * loss.item()
        if (step + 1) % log_every == 0 or step + 1 == recipe.steps:
            seconds = time.monotonic() - start
            left = seconds / (step + 1) * (recipe.steps - step - 1)
            sys.stderr.write(
                f"step {step + 1}/{recipe.steps}  loss {mean_loss:.4f} nats/token  "
                f"{seconds:.0f} s  ETA {left:.0f} s\n"
            )
            sys.stderr.flush()
    return model, tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint: bf16 weights, configs, tokenizer and chat template.

    Files of the same names are replaced, others in the folder are left alone.
    """
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    # transformers 5 writes a class name that no earlier version knows; both read this one.
    settings = folder / "tokenizer_config.json"
    known = json.loads(settings.read_text(encoding="utf-8"))
    known["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def main(arguments: list[str] | None = None) -> int:
    """Train with the recipe's numbers (or those given) and write the checkpoint."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--clear-steps", type=int, default=recipe.clear_steps)
    parser.add_argument("--noisy-steps", type=int, default=recipe.noisy_steps)
    parser.add_argument("--batch", type=int, default=recipe.batch, help="dialogues a step")
    parser.add_argument("--lr", type=float, default=recipe.lr)
    parser.add_argument("--ramble", type=float, default=recipe.ramble, help="chance to go on")
    given = vars(parser.parse_args(arguments))
    out: Path = given.pop("out")
    begun = time.monotonic()
    model, tokenizer = train(Recipe(**given))
    parameters = sum(weight.numel() for weight in model.parameters())
    save(model, tokenizer, out)
    size = sum(path.stat().st_size for path in out.iterdir())
    seconds = round(time.monotonic() - begun)
    sys.stdout.write(json.dumps({"parameters": parameters, "bytes": size, "seconds": seconds}))
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
