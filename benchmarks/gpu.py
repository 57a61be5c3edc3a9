"""What a GPU has to show, as one prepared script: engine, LM head, agreement, training, memory.

    python benchmarks/gpu.py --out results.json [--model DIR] [--limit 700]
    python benchmarks/gpu.py --tiny --out results.json      # the same on a CPU, in small

Models have random weights and the sizes of published ones; `--model` adds a real one. Every part is
a process of its own, with the time that is left; the results are written after each of them. A
part that failed, or for which there was no time, says "not measured" and why. Needs torch,
transformers and this package, for one side TRL, for another peft; nothing is downloaded.
"""

import argparse
import gc
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).resolve().parent
SIZES = {
    "0.5B": (24, 896, 4864, 14, 2, 64, 151_936, True),
    "1.5B": (28, 1536, 8960, 12, 2, 128, 151_936, True),
    "3B": (36, 2048, 11_008, 16, 2, 128, 151_936, True),
    "8B": (36, 4096, 12_288, 32, 8, 128, 151_936, False),
    "tiny": (2, 64, 128, 2, 2, 32, 1000, True),
}
"""Layers, hidden, intermediate, heads, key-value heads, head size, vocabulary, tied."""
PLAN = (
    *(("agree", "0.5B", 60), ("engine", "0.5B", 70), ("head", "0.5B", 30)),
    *(("steps", "0.5B", 90), ("memory", "0.5B bfloat16", 50), ("memory", "1.5B bfloat16", 60)),
    *(("engine", "8B", 120), ("memory", "8B lora", 80), ("memory", "3B bfloat16", 70)),
    *(("steps", "1.5B", 90), ("engine", "1.5B", 70)),
)
"""(part, what, seconds it may take), the most wanted first."""
TINY_PLAN = (
    *(("agree", "tiny", 600), ("engine", "tiny", 600), ("head", "tiny", 600)),
    *(("memory", "tiny float32", 600), ("memory", "tiny lora", 600), ("steps", "tiny", 600)),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure engine and trainer on one GPU.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument(
        "--model", default="", help="a real model's directory, for engine and agree"
    )
    parser.add_argument("--limit", type=float, default=700.0, help="seconds for all parts")
    parser.add_argument("--tiny", action="store_true", help="in small, on a CPU too")
    parser.add_argument("--parts", help="comma-separated, of the parts' names (default: all)")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    if arguments.part:
        name, what = arguments.part
        found = PARTS[name](what, arguments)
        arguments.out.write_text(json.dumps(found))
        return
    began = time.monotonic()
    results: dict[str, Any] = {"machine": machine()}
    for name, what, seconds in plan(arguments):
        left = float("inf" if arguments.tiny else arguments.limit) - (time.monotonic() - began)
        label = f"{name}, {what}"
        if left < seconds / 2:
            results[label] = {"not measured": f"{left:.0f} s were left"}
        else:
            results[label] = in_process(name, what, min(left, 2 * seconds))
        results["seconds"] = round(time.monotonic() - began, 1)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
        print(label, json.dumps(results[label])[:300], file=sys.stderr, flush=True)


def plan(arguments: argparse.Namespace) -> list[tuple[str, str, int]]:
    """The parts to run: those of a real model come first."""
    parts = list(TINY_PLAN if arguments.tiny else PLAN)
    if arguments.model:
        parts[:0] = [("agree", "model", 60), ("engine", "model", 70)]
    wanted = arguments.parts.split(",") if arguments.parts else list(PARTS)
    return [part for part in parts if part[0] in wanted]


def machine() -> dict[str, Any]:
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": device, "torch": torch.__version__, "transformers": transformers.__version__}


def in_process(name: str, what: str, seconds: float) -> dict[str, Any]:
    """A part in a process of its own; why it was not measured where it failed."""
    with tempfile.TemporaryDirectory(prefix="sso-data-gpu-") as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--part", name, what, "--out", str(out)]
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TMPDIR": folder}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds,
                env=os.environ | quiet,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"not measured": f"more than {seconds:.0f} s"}
        if done.returncode:
            return {"not measured": done.stderr[-1500:]}
        found: dict[str, Any] = json.loads(out.read_text())
        return found


# parts


def device_of() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def directory(what: str, arguments: argparse.Namespace) -> Path:
    """A model directory: the real model's, or one of random weights, written to a scratch place."""
    if what == "model":
        return Path(arguments.model)
    from sso_data.world import policy_dir

    folder = Path(tempfile.mkdtemp()) / "model"
    shutil.copytree(policy_dir(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    random_model(what, "bfloat16").save_pretrained(folder)
    gc.collect()
    return folder


def random_model(size: str, dtype: str) -> Any:
    """A Llama of a size with random weights, made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, tied = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype=dtype,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device_of()):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


def requests(count: int, prompt: int, tokens: int, folder: Path) -> list[Any]:
    """Samples of random prompts, up to a third shorter than `prompt`."""
    from sso_data.engines.interface import SampleRequest

    draw = random.Random(0)
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    return [
        SampleRequest(
            key=f"{number}",
            prompt_ids=tuple(
                draw.randrange(3, vocab) for _ in range(draw.randint(2 * prompt // 3, prompt))
            ),
            max_tokens=tokens,
            seed=number,
            temperature=0.7,
            top_p=0.8,
        )
        for number in range(count)
    ]


def crossed(samples: Sequence[Any], drawn: dict[str, tuple[int, ...]], turn: int) -> list[Any]:
    """Scores of the responses after their own prompts, or after those `turn` further on."""
    from sso_data.engines.interface import ScoreRequest

    others = [*samples[turn:], *samples[:turn]]
    return [
        ScoreRequest(key=one.key, prompt_ids=other.prompt_ids, completion_ids=drawn[one.key])
        for one, other in zip(samples, others, strict=True)
    ]


def start(folder: Path, dtype: str, batch: int) -> Any:
    from sso_data.config.run import EngineConfig
    from sso_data.engines import start_inline

    settings: dict[str, Any] = {"name": "transformers", "isolation": "inline", "dtype": dtype}
    settings |= {"max_num_seqs": batch, "max_model_len": 4096}
    return start_inline(folder, EngineConfig.model_validate(settings))


def engine(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second and GiB: ours and `generate()` with full logits, the same batch."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks import transformers_engine as bench

    count, prompt, tokens, batch = (6, 24, 8, 4) if arguments.tiny else (128, 256, 256, 64)
    folder = directory(what, arguments)
    samples = requests(count, prompt, tokens, folder)
    dtype = "bfloat16" if device_of() == "cuda" else "float32"
    found: dict[str, Any] = {}
    scores: list[Any] = []
    for name in ("ours", "generate"):
        if name == "ours":
            side: bench.Side = bench.OurEngine(start(folder, dtype, batch))
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
            side = bench.Generate(model.to(device_of()).eval(), [2], batch)
        drawn = side.sample(samples[:4])
        side.score(crossed(samples[:4], drawn, 1))  # warmed up
        scores = scores or crossed(samples, side.sample(samples), 1)
        reset_peak()
        done = bench.one_pass(side, samples, scores)
        done.pop("nats")
        found[name] = bench.medians([done]) | {"peak_gib": peak_gib()}
        del side
        gc.collect()
        if device_of() == "cuda":
            torch.cuda.empty_cache()
    return {"ratios": bench.ratios_of(found), "sides": found, "batch": batch, "dtype": dtype}


def agree(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Nats a token: sampled against scored (the log-prob check), and scored against float32."""
    count, prompt, tokens = (4, 24, 16) if arguments.tiny else (32, 128, 128)
    folder = directory(what, arguments)
    samples, found = requests(count, prompt, tokens, folder), {}
    totals: dict[str, dict[str, float]] = {}
    drawn: dict[str, tuple[int, ...]] = {}
    for dtype in ("bfloat16", "float32"):
        one = start(folder, dtype, 32)
        if not drawn:
            answers = asked(one, samples)
            drawn = {key: answer.token_ids for key, answer in answers.items()}
            totals["sampled"] = {key: answer.total_nats for key, answer in answers.items()}
        scored = asked(one, crossed(samples, drawn, 0))
        totals[dtype] = {key: answer.total_nats for key, answer in scored.items()}
        one.close()
        gc.collect()
    for label, other in (
        ("sampled - scored, bfloat16", "sampled"),
        ("float32 - bfloat16", "float32"),
    ):
        gaps = [(totals[other][k] - totals["bfloat16"][k]) / len(drawn[k]) for k in drawn]
        found[label] = {"mean": sum(gaps) / len(gaps), "worst": max(map(abs, gaps))}
    return found


def asked(one: Any, wanted: Sequence[Any]) -> dict[str, Any]:
    one.submit(wanted)
    found: dict[str, Any] = {}
    while len(found) < len(wanted):
        found |= {answer.key: answer for answer in one.step()}
    return found


def head(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The LM head's log-probs with gradient, in chunks and by full logits: seconds and GiB."""
    import torch

    from sso_data.models.logprobs import target_logprobs

    vocab, width = SIZES[what][6], SIZES[what][1]
    count, device = (64 if arguments.tiny else 4096), device_of()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(count, width, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, device=device, dtype=dtype).mul_(0.02).requires_grad_()
    targets = torch.randint(0, vocab, (count,), device=device)

    def full() -> torch.Tensor:
        nats = (hidden @ weight.T).float().log_softmax(-1)
        return nats.gather(-1, targets[:, None]).squeeze(-1)

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "chunked": lambda: target_logprobs(hidden, weight, targets),
        "full": full,
    }
    found: dict[str, Any] = {}
    values = {}
    for name, way in ways.items():
        for _ in range(2):  # the first one warms up
            reset_peak()
            began = time.perf_counter()
            nats = way()
            nats.sum().backward()
            synchronize()
            found[name] = {"seconds": time.perf_counter() - began, "peak_gib": peak_gib()}
            hidden.grad = weight.grad = None
        values[name] = nats.detach()
    gap = (values["chunked"] - values["full"]).abs().max()
    return found | {"largest difference, nats": float(gap), "positions": count}


def steps(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """`train.py`: ours, the authors' step, and TRL's where it is installed."""
    layers, hidden, _, _, _, _, vocab, _ = SIZES[what]
    sides = ["authors", "ours", "ours-one-pair"]
    sides += ["trl"] if importlib.util.find_spec("trl") else []
    length = 48 if arguments.tiny else 1024
    command = [sys.executable, str(HERE / "train.py"), "--json", "--device", device_of()]
    command += ["--vocab", str(vocab), "--layers", str(layers), "--hidden", str(hidden)]
    command += ["--length", str(length), "--sides", ",".join(sides), "--checkpointing"]
    command += ["--repeat", "1" if arguments.tiny else "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-1500:])
    found: dict[str, Any] = json.loads(done.stdout)
    left_out = {} if "trl" in sides else {"trl": "not measured: not installed"}
    return {name: found[name] for name in ("ratios", "sides", "dtype")} | left_out


def memory(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps of `SSOTrainer.train` as the product does them: GiB, computed and measured."""
    from sso_data.models.memory import Shape, TrainingMethod, training_bytes

    size, _, method = what.partition(" ")
    sizes: dict[str, Any] = dict(zip(Shape.__dataclass_fields__, SIZES[size], strict=True))
    shape = Shape(**sizes)
    length, count = (48, 2) if arguments.tiny else (1024, 4)
    found = trained(size, method, length, count)
    computed = training_bytes(shape, cast(TrainingMethod, method), tokens=2 * length)
    parts = {name: round(value / 2**30, 3) for name, value in computed.items()}
    return found | {"computed_gib": parts | {"all": round(sum(computed.values()) / 2**30, 3)}}


def trained(size: str, method: str, length: int, count: int) -> dict[str, Any]:
    """`count` optimizer steps of one row: seconds a step, and the peak."""
    from training import PAD, Work, rows_of
    from transformers import TrainingArguments

    from sso_data.config.training import LossConfig, ReferenceConfig
    from sso_data.training.loss import terms_of
    from sso_data.training.reference import model_scorer, resolve_references
    from sso_data.training.trainer import SSOTrainer

    on_gpu = device_of() == "cuda"
    work = Work(
        **{"model": "", "vocab": SIZES[size][6], "length": length, "prompt_share": 0.25},
        **{"rows": count, "layers": 0, "hidden": 0, "device": device_of(), "dtype": "float32"},
        **{"checkpointing": True, "optimizer": "adamw", "attention": None, "threads": 0},
    )
    reset_peak()
    model = random_model(size, "bfloat16" if method == "lora" and on_gpu else "float32")
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
        model = get_peft_model(model, adapter)
        model.enable_input_require_grads()
    loss = LossConfig()
    scorer = model_scorer(model, terms_of(loss).names, pad_id=PAD)
    rows, _ = resolve_references(rows_of(work), scorer, loss, ReferenceConfig(mode="rescore"))
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder,
            use_cpu=not on_gpu,
            bf16=on_gpu and method != "float32",
            per_device_train_batch_size=1,
            max_steps=count,
            gradient_checkpointing=True,
            optim="adamw_torch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SSOTrainer(model, options, loss=loss, rows=rows, pad_id=PAD)
        began = time.perf_counter()
        trainer.train()
        synchronize()
    seconds = (time.perf_counter() - began) / count
    return {"seconds_a_step": seconds, "peak_gib": peak_gib()}


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    import torch
    from generation import reset_peak as reset_resident

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_resident()


def peak_gib() -> float:
    """Since `reset_peak`: what PyTorch gave out on the GPU; on a CPU the resident size."""
    import torch
    from generation import peak_mib

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return (peak_mib() or 0.0) / 2**10


PARTS: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    **{"agree": agree, "engine": engine, "head": head, "steps": steps, "memory": memory},
}

if __name__ == "__main__":
    main()
