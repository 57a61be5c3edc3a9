"""Random-weight models of real architectures, built on this machine for the benchmarks.

Nothing is downloaded. The speed of an engine depends on shapes, vocabulary and lengths, not on what
the weights have learnt, so three things are made realistic and the rest is noise: the vocabulary
(trained on the texts of the Python installation), how peaked the next-token distribution is, and
how long responses are (end-of-sequence comes with a set mean hazard).
"""

import argparse
import json
import math
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prompts import everyday

Kind = Literal["qwen-36m", "llama-36m", "llama-tiny-random"]

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEFAULT_SYSTEM = "You are a helpful assistant."
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before merging: the expression of Qwen2's tokenizer."""

TEXT_SUFFIXES = frozenset({".py", ".pyi", ".md", ".rst", ".txt"})
CHARS_PER_FILE = 60_000
LOGIT_SPREAD = 3.0
"""Standard deviation of the logits: a nucleus of tens of tokens at temperature 0.7, top-p 0.8."""
BUILT = "benchmark-model.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's sizes; `merged` tokens come from training, rows up to `vocab` are reserved.

    End-of-sequence has a mean probability of 1 / `mean_tokens` at temperature 0.7 and top-p 0.8;
    it differs between contexts, so responses turn out up to twice as long as `mean_tokens`.
    """

    architecture: Literal["qwen2", "llama"]
    vocab: int
    merged: int
    corpus_chars: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    context: int = 4096
    mean_tokens: int = 64
    seed: int = 0


SHAPES: dict[Kind, Shape] = {
    "qwen-36m": Shape(
        architecture="qwen2",
        vocab=151_936,
        merged=151_643,
        corpus_chars=64_000_000,
        hidden=192,
        intermediate=1280,
        layers=8,
        heads=6,
        kv_heads=2,
    ),
    "llama-36m": Shape(
        architecture="llama",
        vocab=32_768,
        merged=32_765,
        corpus_chars=32_000_000,
        hidden=384,
        intermediate=1024,
        layers=15,
        heads=6,
        kv_heads=2,
    ),
    "llama-tiny-random": Shape(
        architecture="llama",
        vocab=4096,
        merged=4000,
        corpus_chars=2_000_000,
        hidden=64,
        intermediate=128,
        layers=2,
        heads=2,
        kv_heads=2,
        mean_tokens=160,
    ),
}


def build(kind: Kind, directory: Path) -> Path:
    """Build the model into `directory`, or keep it when it is there already; returns the directory.

    `qwen-36m` takes about two minutes on two cores, nearly all of it for the tokenizer.
    """
    shape = SHAPES[kind]
    stamp = directory / BUILT
    if stamp.is_file() and json.loads(stamp.read_text()) == asdict(shape):
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(shape)
    tokenizer.save_pretrained(directory)
    model = _model(shape, tokenizer)
    model.save_pretrained(directory)
    stamp.write_text(json.dumps(asdict(shape)))
    return directory


def corpus(chars: int) -> Iterator[str]:
    """About `chars` characters of sources and documentation of this Python installation."""
    seen: set[Path] = set()
    for root in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(root)).rglob("*")):
            if path.suffix not in TEXT_SUFFIXES or path in seen or not path.is_file():
                continue
            seen.add(path)
            text = path.read_text(encoding="utf-8", errors="ignore")[:CHARS_PER_FILE]
            chars -= len(text)
            if chars < 0:
                return
            yield text


def _tokenizer(shape: Shape) -> Any:
    """A byte-level BPE tokenizer, trained here, with ChatML and Qwen's special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.merged,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(shape.corpus_chars), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIALS),
        model_max_length=shape.context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _model(shape: Shape, tokenizer: Any) -> Any:
    """The model with calibrated random weights, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.manual_seed(shape.seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(_config(shape, end=end, pad=pad))
    with torch.no_grad():
        _randomise(model, shape)
        weights = model.get_input_embeddings().weight
        weights[len(tokenizer) :] = 0.0  # reserved rows, as Qwen2 has them: never sampled
        weights[tokenizer.all_special_ids] = 0.0
        model.to(torch.bfloat16).to(torch.float32)  # what is saved is what is calibrated
        _calibrate_end(model, shape, tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        repetition_penalty=1.05,
        eos_token_id=[end, pad],
        pad_token_id=pad,
    )
    return model.to(torch.bfloat16)


def _config(shape: Shape, *, end: int, pad: int) -> Any:
    from transformers import LlamaConfig, Qwen2Config

    sizes = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    if shape.architecture == "qwen2":
        return Qwen2Config(**sizes)
    return LlamaConfig(**sizes, attention_bias=True)


def _randomise(model: Any, shape: Shape) -> None:
    """Blocks that write about as much as they read, and embeddings small beside them.

    Tied embeddings would otherwise make the model repeat its last token. The value bias is a
    constant that attention passes through: the direction that end-of-sequence will listen to.
    """
    import torch

    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.fill_(1.0)
        elif "embed_tokens" in name:
            weight.normal_(std=LOGIT_SPREAD / math.sqrt(shape.hidden))
        elif name.endswith("v_proj.bias"):
            weight.normal_(std=1.0)
        elif name.endswith(".bias"):
            weight.zero_()
        else:
            gain = 2.0 if "down_proj" in name else 1.0
            torch.nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))


def _calibrate_end(model: Any, shape: Shape, tokenizer: Any) -> None:
    """Set the embedding of end-of-sequence so that it comes with the wanted mean hazard.

    The hazard is the probability of the end under temperature 0.7 and top-p 0.8, averaged over
    the model's own continuations; it grows with the length of the embedding, which is bisected.
    """
    import torch

    hidden = _own_states(model, tokenizer)
    end = tokenizer.eos_token_id
    weights = model.get_input_embeddings().weight
    direction = hidden.mean(0) / hidden.mean(0).norm()
    logits = hidden @ weights.T
    low, high = 0.0, 100.0
    for _ in range(30):
        middle = (low + high) / 2
        logits[:, end] = hidden @ (middle * direction)
        if _hazard(logits, end) < 1 / shape.mean_tokens:
            low = middle
        else:
            high = middle
    weights[end] = (high * direction).to(torch.bfloat16)


def _own_states(model: Any, tokenizer: Any) -> Any:
    """Final hidden states [positions, hidden] along sampled continuations of chat prompts."""
    import torch

    states = []
    for text in everyday(8):
        turns = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.7,
            top_p=0.8,
            top_k=0,
            max_new_tokens=64,
            eos_token_id=None,
            suppress_tokens=tokenizer.all_special_ids,
            pad_token_id=tokenizer.pad_token_id,
        )
        states.append(model.model(input_ids=drawn).last_hidden_state[0, ids.shape[1] :])
    return torch.cat(states)


def _hazard(logits: Any, end: int) -> float:
    """Mean probability of `end` at temperature 0.7 within the nucleus of 0.8."""
    import torch

    probabilities = torch.softmax(logits / 0.7, dim=-1)
    nucleus = torch.topk(probabilities, min(4096, probabilities.shape[1])).values
    before = nucleus.cumsum(-1) - nucleus
    kept = torch.where(before < 0.8, nucleus, torch.zeros(()))
    least = torch.where(before < 0.8, nucleus, torch.ones(())).amin(-1)
    own = probabilities[:, end]
    share = torch.where(own >= least, own / kept.sum(-1), torch.zeros(()))
    return float(share.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a random-weight model for benchmarks.")
    parser.add_argument("--kind", choices=list(SHAPES), default="qwen-36m")
    parser.add_argument("--out", type=Path, required=True, help="directory to build into")
    arguments = parser.parse_args()
    print(build(arguments.kind, arguments.out))


if __name__ == "__main__":
    main()
