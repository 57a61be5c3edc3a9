"""What a GPU has to show, as one prepared script: vLLM first, then training and the engine.

    python benchmarks/gpu.py --out results.json [--model DIR] [--seconds 600]
    python benchmarks/gpu.py --tiny --out results.json      # the same on a CPU, in small

Models have random weights and the sizes of published ones; `--model` is a real one, which takes the
place of some of them. Every part is a process of its own; the results are written after each. A
part that failed, or that cannot end in the `--seconds` for all, says "not measured" and why. The
same command again, with the same --out, goes on with those. Needs torch, transformers, what this
package imports (PYTHONPATH, where it cannot be installed) and, by part, vLLM, TRL or peft; nothing
is downloaded.
"""

import argparse
import gc
import importlib.util
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from benchmarks.memory import Shape
    from sso_data.training.encode import EncodedRow

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
    *(("rows", "vllm", 60), ("agree", "model/0.5B vllm", 50), ("vllm", "0.5B 8192 V1", 35)),
    *(("vllm", "0.5B 8192", 55), ("vllm", "0.5B 2048", 55), ("vllm", "0.5B 16384", 55)),
    *(("steps", "0.5B", 40), ("memory", "0.5B bfloat16", 20), ("steps", "model/1.5B", 45)),
    *(("memory", "model/1.5B bfloat16", 20), ("memory", "3B bfloat16", 20)),
    *(("memory", "8B lora", 25), ("head", "0.5B", 15), ("agree", "model/0.5B transformers", 25)),
    *(("references", "model/policy vllm", 50), ("engine", "model/0.5B", 30)),
)
"""(part, what, seconds it is given), the most wanted first; it is ended at twice that.

`model/SIZE`: the real model where there is one, else random weights of that size (`policy`: the
embedded tiny policy, which is trained). `V1`: vLLM's model runner, for its memory.
"""
TINY_PLAN = (
    *(("rows", "vllm", 600), ("agree", "model/tiny vllm", 600), ("vllm", "tiny 4096 V1", 600)),
    *(("steps", "model/tiny", 600), ("memory", "model/tiny float32", 600)),
    *(("memory", "tiny lora", 600), ("head", "tiny", 600)),
    *(("agree", "model/tiny transformers", 600), ("references", "model/policy transformers", 600)),
    ("engine", "model/tiny", 600),
)
SECONDS = 600.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure engine and trainer on one GPU.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--model", default="", help="a real model's directory")
    parser.add_argument(
        "--seconds", type=float, help=f"for all parts (default: {SECONDS:.0f}; --tiny: no limit)"
    )
    parser.add_argument("--tiny", action="store_true", help="in small, on a CPU too")
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile")
    parser.add_argument("--parts", help="comma-separated, of the parts' names (default: all)")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(wanted_parts(arguments)) - PARTS.keys():
        parser.error(f"unknown part {sorted(unknown)[0]!r}; parts are {', '.join(PARTS)}")
    return arguments


def wanted_parts(arguments: argparse.Namespace) -> list[str]:
    return arguments.parts.split(",") if arguments.parts else list(PARTS)


def main() -> None:
    arguments = parse()
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    if arguments.part:
        name, what = arguments.part
        found = PARTS[name](what, arguments)
        arguments.out.write_text(json.dumps(found))
        return
    began = time.monotonic()
    here = machine()
    results: dict[str, Any] = {"machine": here}
    if arguments.out.exists():
        results = json.loads(arguments.out.read_text())
        if results["machine"] != here:
            raise SystemExit(f"{arguments.out}: measured on {results['machine']}, not {here}")
    budget = arguments.seconds or (math.inf if arguments.tiny else SECONDS)
    missing = []
    for name, what, seconds in plan(arguments):
        left, label = budget - (time.monotonic() - began), f"{name}, {what}"
        if "not measured" not in results.get(label, "not measured"):
            continue
        if left < seconds:
            reason = f"it is given {seconds} s, and {max(0.0, left):.0f} s were left"
            results.setdefault(label, {"not measured": reason})
        else:
            results[label] = in_process(name, what, min(left, 2 * seconds))
        missing += [label] if "not measured" in results[label] else []
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
        print(label, json.dumps(results[label])[:300], file=sys.stderr, flush=True)
    if missing:
        print(f"not measured: {'; '.join(missing)}", file=sys.stderr)


def plan(arguments: argparse.Namespace) -> list[tuple[str, str, int]]:
    """The parts to run, with the real model in its places where there is one."""
    pattern, place = (r"model/\w+(\.\w+)?", "model") if arguments.model else ("model/", "")
    return [
        (name, re.sub(pattern, place, what), seconds)
        for name, what, seconds in (TINY_PLAN if arguments.tiny else PLAN)
        if name in wanted_parts(arguments)
    ]


def machine() -> dict[str, Any]:
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": device, "torch": torch.__version__, "transformers": transformers.__version__}


def in_process(name: str, what: str, seconds: float) -> dict[str, Any]:
    """A part in processes of its own, which end with it; why it was not measured where it failed.

    `what` may end with the model runner of vLLM, V1; V2 is its own choice on a GPU.
    """
    with tempfile.TemporaryDirectory(prefix="sso-data-gpu-", ignore_cleanup_errors=True) as folder:
        out, log = Path(folder) / "found.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, *sys.argv[1:], "--part", name, what, "--out", str(out)]
        own = {
            **{"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TMPDIR": folder},
            "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it would compile kernels
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
            **({"VLLM_USE_V2_MODEL_RUNNER": "0"} if what.endswith(" V1") else {}),
        }
        began = time.monotonic()
        with log.open("w") as stream:
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=stream,
                env=os.environ | own,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
                process.wait()
                return {"not measured": f"more than {seconds:.0f} s: {tail(log)}"}
        if code:
            return {"not measured": tail(log)}
        found: dict[str, Any] = json.loads(out.read_text())
        return found | {"wall_s": round(time.monotonic() - began, 1)}


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:]


# parts


def device_of() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def directory(what: str, arguments: argparse.Namespace) -> Path:
    """A model directory: the real model's, the tiny policy's, or one of random weights."""
    if what == "model":
        return Path(arguments.model)
    from sso_data.world import policy_dir

    if what == "policy":
        return policy_dir()
    folder = Path(tempfile.mkdtemp()) / "model"
    shutil.copytree(policy_dir(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    loaded(what, "bfloat16", arguments).save_pretrained(folder)
    gc.collect()
    return folder


def shape(size: str, arguments: argparse.Namespace) -> "Shape":
    from transformers import AutoConfig

    from benchmarks.memory import Shape

    if size != "model":
        sizes: dict[str, Any] = dict(zip(Shape.__dataclass_fields__, SIZES[size], strict=True))
        return Shape(**sizes)
    config = AutoConfig.from_pretrained(arguments.model)
    each = config.hidden_size // config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or each,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
    )


def loaded(size: str, dtype: str, arguments: argparse.Namespace) -> Any:
    """The real model, or a Llama of a size with random weights, on the device."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if size == "model":
        real = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, dtype))
        return real.to(device_of())
    of = shape(size, arguments)
    config = LlamaConfig(
        vocab_size=of.vocab,
        hidden_size=of.hidden,
        intermediate_size=of.intermediate,
        num_hidden_layers=of.layers,
        num_attention_heads=of.heads,
        num_key_value_heads=of.kv_heads,
        head_dim=of.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=of.tied,
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


def start(folder: Path, dtype: str, batch: int, name: str = "transformers", **vllm: Any) -> Any:
    """An engine in this process; vLLM with a part of the GPU, so that others fit beside it."""
    from sso_data.config.run import EngineConfig
    from sso_data.engines.inline import start_inline

    settings: dict[str, Any] = {"name": name, "isolation": "inline", "dtype": dtype}
    settings |= {"max_num_seqs": batch, "max_model_len": 4096}
    settings |= {"gpu_memory_utilization": 0.5, "vllm": vllm} if name == "vllm" else {}
    return start_inline(folder, EngineConfig.model_validate(settings))


def eager(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """vLLM's settings where it starts without torch.compile: by `--eager`, and on V1."""
    return {"enforce_eager": True} if arguments.eager or what.endswith(" V1") else {}


def rows(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """`generate` over queries of the tiny world: its summary, and its check of log-probs."""
    from sso_data.world import catalogue_dir, policy_dir, queries

    folder = Path(tempfile.mkdtemp())
    lines = [json.dumps({"prompt": one}) for one in queries(8 if arguments.tiny else 64, seed=1)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "sso_data", "generate", folder / "prompts.jsonl", "--json"]
    command += ["--out", folder / "run", "--engine", what, "--model", policy_dir()]
    command += ["--principles", catalogue_dir(), "--set", "sampling.max_tokens=192"]
    command += ["--set", "engine.vllm.enforce_eager=true"] if arguments.eager else []
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.returncode)
    summary, manifest = json.loads(done.stdout), (folder / "run" / "run.json").read_text()
    kept = {key: summary[key] for key in ("rows", "failed", "kept", "dropped")}
    return kept | {"logprob_check": json.loads(manifest)["logprob_check"]}


def vllm(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """vLLM with so many tokens a step: seconds of samples and of scores, those of vLLM alone for
    the same tokens, and the memory that scoring adds."""
    import torch

    from sso_data.core.errors import EngineError
    from sso_data.engines.interface import ScoreRequest

    size, tokens_a_step = what.split()[:2]
    count, prompt, tokens = (6, 64, 16) if arguments.tiny else (192, 256, 300)
    folder = directory(size, arguments)
    more = {"max_num_batched_tokens": int(tokens_a_step), **eager(what, arguments)}
    one = start(folder, "auto", 8 if arguments.tiny else 256, "vllm", **more)
    asked(one, requests(count, prompt, 8, folder))  # warmed up
    one._engine.reset_prefix_cache()
    samples = requests(count, prompt, tokens, folder)
    found: dict[str, Any] = {}
    began = time.perf_counter()
    drawn = {key: answer.token_ids for key, answer in asked(one, samples).items()}
    found["sampling_s"] = time.perf_counter() - began
    scores = [
        ScoreRequest(
            key=f"{number}",
            prompt_ids=samples[number % count].prompt_ids,
            completion_ids=drawn[f"{(number + 1) % count}"],
        )
        for number in range(5 * count // 3)
    ]
    reset_peak()
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    try:
        asked(one, scores)
    except EngineError as error:
        return found | {"scoring died": str(error)[:900], "peak_gib": peak_gib()}
    found["scoring_s"] = time.perf_counter() - began
    if device_of() == "cuda":
        found["scoring_adds_gib"] = peak_gib() - before / 2**30
    one._engine.reset_prefix_cache()
    jobs = [[(ask.prompt_ids, len(drawn[ask.key])) for ask in samples]]
    jobs += [[((*ask.prompt_ids, *ask.completion_ids), 1) for ask in scores]]
    raw = [raw_seconds(one._engine, job) for job in jobs]
    ours = found["sampling_s"] + found["scoring_s"]
    made = sum(map(len, drawn.values()))
    found |= {"ours / raw": ours / sum(raw), "tokens/s": made / found["sampling_s"]}
    return found | {"raw_s": raw, "tokens": made, "eager": bool(eager(what, arguments))}


def raw_seconds(core: Any, jobs: Sequence[tuple[Sequence[int], int]]) -> float:
    """Seconds that vLLM alone takes for (prompt, tokens to draw), without log-probs."""
    from vllm import SamplingParams

    began = time.perf_counter()
    for number, (ids, most) in enumerate(jobs):
        how = SamplingParams(max_tokens=most, ignore_eos=True, detokenize=False)
        core.add_request(f"raw-{most}-{number}", {"prompt_token_ids": list(ids)}, how)
    while core.has_unfinished_requests():
        core.step()
    return time.perf_counter() - began


def engine(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second and GiB: ours and `generate()` with full logits, the same batch."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks import transformers_engine as bench
    from sso_data.config.run import EngineConfig
    from sso_data.models.facts import read_model_facts

    count, prompt, tokens, batch = (6, 24, 8, 4) if arguments.tiny else (64, 256, 128, 64)
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
            eos_ids = read_model_facts(folder, EngineConfig()).eos_ids
            side = bench.Generate(model.to(device_of()).eval(), eos_ids, batch)
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
    """Nats a token of an engine in bfloat16: sampled against scored (the log-prob check), scored
    with cached prefixes read, and scored against the transformers engine in float32."""
    size, name = what.split()
    count, prompt, tokens = (4, 24, 16) if arguments.tiny else (32, 128, 128)
    folder = directory(size, arguments)
    samples, found = requests(count, prompt, tokens, folder), {}
    one = start(folder, "bfloat16", 32, name, **eager(what, arguments))
    answers = asked(one, samples)
    drawn = {key: answer.token_ids for key, answer in answers.items()}
    totals = {"sampled": answers}
    scores = crossed(samples, drawn, 0)
    totals["scored, cache read"] = asked(one, scores)
    fresh = [replace(score, was_sampled=True) for score in scores]
    totals["scored"] = asked(one, fresh)
    one.close()
    del one
    gc.collect()
    totals["float32"] = asked(start(folder, "float32", 32), scores)
    for label, answers in totals.items():
        gaps = [
            (answers[key].total_nats - totals["scored"][key].total_nats) / len(drawn[key])
            for key in drawn
        ]
        found[f"{label} - scored"] = {"mean": sum(gaps) / len(gaps), "worst": max(map(abs, gaps))}
    del found["scored - scored"]
    return found


def references(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """An engine's recorded log-probs through the trainer's own check of references."""
    import torch
    from training import PAD, rows_of

    from sso_data.config.training import TrainConfig
    from sso_data.models.training_model import compute_dtype, find_policy, load_model
    from sso_data.training.loss import terms_of
    from sso_data.training.reference import model_scorer, resolve_references

    size, name = what.split()
    count, length = (4, 48) if arguments.tiny else (64, 256)
    folder = directory(size, arguments)
    config = TrainConfig(model=str(folder))
    policy, loss, dtype = find_policy(config), config.loss, compute_dtype(config)
    one = start(folder, "auto", 64, name, **eager(what, arguments))
    rows = recorded(rows_of(work(policy.facts.vocab_size, length, count)), one, length // 2)
    sampled_in = one.info.dtype
    one.close()
    del one
    gc.collect()
    model = load_model(policy, config).to(device_of())
    autocast = dtype if dtype is torch.bfloat16 else None
    scorer = model_scorer(model, terms_of(loss).names, pad_id=PAD, autocast=autocast)
    formats = str(dtype).removeprefix("torch."), sampled_in
    _, report = resolve_references(rows, scorer, loss, config.reference, formats=formats)
    return {"text": str(report), **report.to_json()}


def recorded(rows: Sequence["EncodedRow"], one: Any, tokens: int) -> list["EncodedRow"]:
    """The rows with an engine's responses and the log-probs that `generate` records of them."""
    import numpy as np

    from sso_data.core.records import VIEWS
    from sso_data.engines.interface import SampleRequest, ScoreRequest
    from sso_data.training.loss import DRAWN, PREFERENCE_TERMS, SEEN

    samples = [
        SampleRequest(
            key=f"{place}/{view}/{view}",
            prompt_ids=row.prompts[view].tolist(),
            max_tokens=tokens,
            seed=place,
            temperature=0.7,
            top_p=0.8,
        )
        for place, row in enumerate(rows)
        for view in VIEWS
    ]
    found = asked(one, samples)
    drawn = {key.rpartition("/")[0]: answer.token_ids for key, answer in found.items()}
    cells = [(SEEN[term], of) for term in PREFERENCE_TERMS for of in DRAWN[term]]
    scores = [
        ScoreRequest(
            key=f"{place}/{of}/{seen}",
            prompt_ids=row.prompts[seen].tolist(),
            completion_ids=drawn[f"{place}/{of}"],
        )
        for place, row in enumerate(rows)
        for seen, of in cells
        if seen != of
    ]
    found |= asked(one, scores)
    done = []
    for place, row in enumerate(rows):
        completions = {view: np.array(drawn[f"{place}/{view}"], np.int32) for view in VIEWS}
        nats = np.array([found[f"{place}/{of}/{seen}"].total_nats for seen, of in cells])
        done.append(replace(row, completions=completions, ref_CS=nats.reshape(-1, 2)))
    return done


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
    """`train.py`: ours, the authors' step, and TRL's where it is installed and runs."""
    of = shape(what, arguments)
    command = [sys.executable, str(HERE / "train.py"), "--json", "--device", device_of()]
    command += ["--length", "48" if arguments.tiny else "1024", "--checkpointing"]
    command += ["--repeat", "1" if arguments.tiny else "3"]
    command += ["--vocab", str(of.vocab), "--layers", str(of.layers), "--hidden", str(of.hidden)]
    command += ["--model", arguments.model] if what == "model" else []
    is_there = importlib.util.find_spec("trl") is not None
    left_out = {} if is_there else {"trl": "not measured: not installed"}
    for sides in ["authors,ours,trl"] * is_there + ["authors,ours"]:
        done = subprocess.run(
            [*command, "--sides", sides], capture_output=True, text=True, check=False
        )
        if not done.returncode:
            found: dict[str, Any] = json.loads(done.stdout)
            return {name: found[name] for name in ("ratios", "sides", "dtype")} | left_out
        left_out = {"trl": f"not measured: {done.stderr[-600:]}"}
    raise SystemExit(done.stderr[-1500:])


def memory(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps of `SSOTrainer.train` as the product does them: seconds; GiB, computed and measured."""
    from benchmarks.memory import TrainingMethod, training_bytes

    size, _, method = what.partition(" ")
    of = shape(size, arguments)
    length, count = (48, 2) if arguments.tiny else (1024, 4)
    reset_peak()
    frozen = method == "lora" and device_of() == "cuda"
    model = loaded(size, "bfloat16" if frozen else "float32", arguments)
    found = trained(model, of.vocab, method, length, count)
    computed = training_bytes(of, cast(TrainingMethod, method), tokens=2 * length)
    parts = {name: round(value / 2**30, 3) for name, value in computed.items()}
    return found | {"computed_gib": parts | {"all": round(sum(computed.values()) / 2**30, 3)}}


def work(vocab: int, length: int, count: int) -> Any:
    """`count` rows of random ids, of at most `length` tokens and their steering."""
    from training import Work

    return Work(
        **{"model": "", "vocab": vocab, "length": length, "prompt_share": 0.25, "rows": count},
        **{"layers": 0, "hidden": 0, "device": device_of(), "dtype": "float32", "threads": 0},
        **{"checkpointing": True, "optimizer": "adamw", "attention": None},
    )


def trained(model: Any, vocab: int, method: str, length: int, count: int) -> dict[str, Any]:
    """`count` optimizer steps of one row: seconds a step, and the peak."""
    from training import PAD, rows_of
    from transformers import TrainingArguments

    from sso_data.config.training import LossConfig, ReferenceConfig
    from sso_data.training.loss import terms_of
    from sso_data.training.reference import model_scorer, resolve_references
    from sso_data.training.trainer import SSOTrainer

    on_gpu = device_of() == "cuda"
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
        model = get_peft_model(model, adapter)
        model.enable_input_require_grads()
    loss, rows = LossConfig(), rows_of(work(vocab, length, count))
    scorer = model_scorer(model, terms_of(loss).names, pad_id=PAD)
    rows, _ = resolve_references(rows, scorer, loss, ReferenceConfig(mode="rescore"))
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
    **{"rows": rows, "vllm": vllm, "agree": agree, "engine": engine, "head": head},
    **{"steps": steps, "memory": memory, "references": references},
}

if __name__ == "__main__":
    main()
