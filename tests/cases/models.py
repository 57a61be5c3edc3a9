"""Odd model directories for the cases, made from the embedded policy."""

import json
import shutil
from pathlib import Path

THINK = """{{- bos_token -}}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set body = m.content -%}{%- set why = '' -%}
{%- if '</think>' in body -%}
{%- set why = body.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set body = body.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- '<|assistant|>' -}}
{%- if loop.index0 > ns.last and (loop.last or why) -%}{{- '<think>\\n' + why + '\\n</think>\\n\\n' + body -}}{%- else -%}{{- body -}}{%- endif -%}
{{- '<|end|>' -}}
{%- else -%}{{- '<|' + m.role + '|>' + m.content + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""  # noqa: E501

TOOL = """{{- bos_token -}}
{%- if tools -%}{{- '<|system|>Tools: ' + (tools | tojson) + '<|end|>' -}}{%- endif -%}
{%- for m in messages -%}
{{- '<|' + ('user' if m.role == 'tool' else m.role) + '|>' -}}
{%- if m.reasoning_content -%}{{- '<think>' + m.reasoning_content + '</think>' -}}{%- endif -%}
{{- m.content or '' -}}
{%- for call in m.tool_calls or [] -%}{{- '<call>' + (call.function | tojson) + '</call>' -}}{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""  # noqa: E501


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def main(policy: Path, out: Path) -> None:
    def new(name: str) -> Path:
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(policy, out / name)
        return out / name

    edit(new("gencfg") / "generation_config.json", temperature=0.9, top_p=0.6)
    (new("think") / "chat_template.jinja").write_text(THINK)
    (new("tool") / "chat_template.jinja").write_text(TOOL)
    eos = new("eos")
    edit(eos / "config.json", eos_token_id=0)
    edit(eos / "generation_config.json", eos_token_id=0)
    edit(eos / "tokenizer_config.json", eos_token="<|pad|>")
