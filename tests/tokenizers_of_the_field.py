"""Small real tokenizers with the chat templates (and the traps) that real models have."""

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_CORPUS = [
    "You are a helpful assistant. Answer the question about the weather in Paris.",
    "user assistant system Today Date: 26 Jul 2024 Cutting Knowledge Date: December 2023",
    "Is 3 < 4? Yes, it is.\n\nHello there, how are you?\nI am fine. start end im_start im_end",
] * 4

CHATML = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Qwen2.5's kind: a default system message when none is given; no BOS."""

CHATML_THINKING = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
"""Qwen3's kind: an empty thinking block where thinking is switched off."""

OPENS_THINKING = CHATML_THINKING.replace(
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}",
    "{{- '<think>\n' }}",
)
"""DeepSeek-R1's kind: the generation prompt opens the thinking block."""

LLAMA3 = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start|>system<|header|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{{- system_message }}{{- '<|eot|>' }}"
    "{%- for m in messages %}"
    "{{- '<|start|>' + m['role'] + '<|header|>\n\n' + m['content'] | trim + '<|eot|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant<|header|>\n\n' }}{%- endif %}"
)
"""Llama 3.1's kind: BOS, today's date in every system header, contents trimmed."""

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{{ '<|start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
"""Gemma's kind: no system role, strictly alternating turns."""

NO_BOS_IN_TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""The tokenizer adds a BOS to text, but the template writes none."""

TWO_BOS = "{{ bos_token }}{{ bos_token }}" + NO_BOS_IN_TEMPLATE

CONTROLS = (
    "<|bos|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|header|>",
    "<|eot|>",
)


SPACES = ("\n", "\n\n", "  ", "\u2581\u2581")
"""White space that Gemma's, Phi-2's and other tokenizers have as added tokens."""


def build(
    template: str,
    *,
    bos: bool = False,
    adds_bos: bool = False,
    spaces: bool = False,
    plain_start: bool = False,
) -> Any:
    """A byte-level BPE tokenizer with `template`; `<think>` tokens are added, not special.

    `plain_start`: `<|start|>` is not special either, as DeepSeek's `<|User|>`.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(CONTROLS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    core.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    core.add_tokens([AddedToken(text, normalized=False) for text in SPACES if spaces])
    if plain_start:
        spec = json.loads(core.to_str())
        for token in spec["added_tokens"]:
            token["special"] = token["special"] and token["content"] != "<|start|>"
        core = Tokenizer.from_str(json.dumps(spec))
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", core.token_to_id("<|bos|>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|bos|>" if bos or adds_bos else None,
        eos_token="<|im_end|>" if "im_end" in template else "<|eot|>",
        pad_token="<|bos|>",
    )
    tokenizer.chat_template = template
    return tokenizer
