"""Chat templates in the manner of model families, written after their documented behaviour.

None is a copy: each keeps the traits that matter here, with the control tokens of
`tests/tokenizers_of_the_field.py` in place of the family's own.
"""

_CHATML_TURN = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_CHATML_ASK = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"

QWEN3 = (
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set body = m.content %}{%- set why = '' %}{%- if '</think>' in body %}"
    "{%- set why = body.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set body = body.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or why) %}"
    "{{- '<think>\n' + why + '\n</think>\n\n' + body }}{%- else %}{{- body }}{%- endif %}"
    "{{- '<|im_end|>\n' }}"
    "{%- else %}" + _CHATML_TURN + "{%- endif %}{%- endfor %}" + _CHATML_ASK + ""
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
"""Qwen3: reasoning is dropped from earlier turns, the last one has a thinking block, if empty."""

R1_DISTILL = (
    "{{- bos_token }}{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{{- '<|start|>assistant' + m.content.split('</think>')[-1] }}"
    "{{- '<|eot|>' }}{%- else %}{{- '<|start|>' + m.role + m.content }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant<think>\n' }}{%- endif %}"
)
"""DeepSeek-R1's distillations: the prompt opens a thinking block, answers are shown without it."""

LLAMA32 = (
    "{{- bos_token }}{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set day = '26 Jul 2024' %}{%- endif %}"
    "{%- if messages[0].role == 'system' %}{%- set said = messages[0].content | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set said = '' %}{%- endif %}"
    "{{- '<|start|>system<|header|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + day + '\n\n' + said + '<|eot|>' }}"
    "{%- for m in messages %}{%- if m.tool_calls %}{{- raise_exception('one call at a time') }}"
    "{%- endif %}{{- '<|start|>' + m.role + '<|header|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant<|header|>\n\n' }}"
    "{%- endif %}"
)
"""Llama 3.1 and 3.2: today's date in a system header of its own, contents trimmed."""

GEMMA = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}"
    "{{- raise_exception('System role not supported') }}{%- endif %}"
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{{- '<|start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{- m.content | trim + '<|eot|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>model\n' }}{%- endif %}"
)
"""Gemma: no system role, strict alternation, `model` for the assistant."""

MISTRAL = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set said = messages[0].content %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set said = '' %}{%- endif %}"
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{%- if m.role == 'user' %}{{- '<|start|>' }}"
    "{%- if loop.last and said %}{{- said + '\n\n' }}{%- endif %}{{- m.content + '<|header|>' }}"
    "{%- else %}{{- ' ' + m.content + '<|eot|>' }}{%- endif %}{%- endfor %}"
)
"""Mistral: alternation, no generation prompt, the system message in the last user turn."""

PHI = (
    "{%- for m in messages %}{{- '<|start|>' + m.role + '\n' + m.content + '<|eot|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant\n' }}{%- endif %}"
)
"""Phi 3: no BOS, a line end after every header and turn."""

GLM = (
    "{{- '<|bos|>' }}{%- for m in messages %}{{- '<|start|>' + m.role + '\n' + m.content }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant\n' }}{%- endif %}"
)
"""GLM 4: no token ends a turn; the next role's does."""

HERMES = (
    "{%- if tools %}{{- '<|im_start|>system\nTools: ' + (tools | tojson) + '<|im_end|>\n' }}"
    "{%- endif %}{%- for m in messages %}" + _CHATML_TURN + "{%- endfor %}"
    "" + _CHATML_ASK + "{%- endif %}"
)
"""Hermes: ChatML, with tool calls as `<tool_call>` in the text of assistants."""

SMOLLM = (
    "{%- for m in messages %}{%- if loop.first and messages[0].role != 'system' %}"
    "{{- '<|im_start|>system\nYou are a helpful assistant named SmolLM<|im_end|>\n' }}{%- endif %}"
    "" + _CHATML_TURN + "{%- endfor %}" + _CHATML_ASK + "{%- endif %}"
)
"""SmolLM2: ChatML with a default system message."""

PARTS = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- for part in m.content %}{%- if part.type == 'text' %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}" + _CHATML_ASK + "{%- endif %}"
)
"""A template of a vision model, which takes contents as lists of parts alone."""

FAMILIES = {
    "qwen3": (QWEN3, {}),
    "r1-distill": (R1_DISTILL, {"bos": True, "plain_start": True}),
    "llama-3.2": (LLAMA32, {"bos": True}),
    "gemma": (GEMMA, {"bos": True, "spaces": True}),
    "mistral": (MISTRAL, {"bos": True}),
    "phi": (PHI, {"plain_start": True}),
    "glm": (GLM, {}),
    "hermes": (HERMES, {}),
    "smollm": (SMOLLM, {}),
    "parts": (PARTS, {}),
}
