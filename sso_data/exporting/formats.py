"""The formats of `export`: which rows they hold, in which files, with which recipe, for whom."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sso_data.core.errors import ConfigError, nearest
from sso_data.core.records import JsonRow, Row
from sso_data.engines.devices import list_gpus, visible_gpus
from sso_data.exporting import rows
from sso_data.exporting.recipes import ExportJob, recipe_text

Convert = Callable[[ExportJob, Row], JsonRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One value of `--to`.

    `holds`: the pairs that the filter kept, or the answers of every row. `files` maps names of data
    files to what makes their rows: JSON lines, or one array in a `.json` file. `unfit` returns why
    a row has no place in the format, or None; `wants` describes those that do. Of rows with the
    same value of `once` the first is exported. `doubt` is said, with their number, of exported rows
    that are `doubtful`. `recipes` maps file names to templates, `info` file names to JSON content;
    `next` is the command to run, with `on_cpu` behind it where there is no GPU. `shows_system`: its
    rows hold the views' system messages, and no other place of the principles.
    """

    name: str
    files: Mapping[str, Convert]
    next: str
    on_cpu: str = ""
    holds: Literal["pairs", "answers"] = "pairs"
    unfit: Callable[[Row], str | None] = rows.any_row
    wants: str = "any prompt"
    once: Callable[[Row], object] | None = None
    doubtful: Callable[[Row], bool] | None = None
    doubt: str = ""
    recipes: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    shows_system: bool = False

    def converters(self, job: ExportJob) -> dict[str, Convert]:
        """Return the functions that make the rows of the data files, by file name."""
        return {file.format(name=job.name): convert for file, convert in self.files.items()}

    def texts(self, job: ExportJob) -> dict[str, str]:
        """The recipe files, by name."""
        written = {name: recipe_text(template, job) for name, template in self.recipes.items()}
        infos = {name: json.dumps(content, indent=2) + "\n" for name, content in self.info.items()}
        return written | infos

    def command(self, job: ExportJob) -> str:
        """The command to run next on this machine, quoted for a shell."""
        has_no_gpu = bool(self.on_cpu) and not visible_gpus(list_gpus(), os.environ)
        words = (
            word.format(directory=job.directory, name=job.name) if "{" in word else word
            for word in self.next.split() + has_no_gpu * self.on_cpu.split()
        )
        return shlex.join(words)


def _preference(job: ExportJob, row: Row) -> JsonRow:
    return rows.preference(row, folded=job.folded)


def _alpaca_eval(job: ExportJob, row: Row) -> JsonRow:
    return rows.alpaca_eval(row, drawn=job.drawn, name=job.name)


def _mt_bench(job: ExportJob, row: Row) -> JsonRow:
    return rows.mt_bench(row, drawn=job.drawn, name=job.name, made=job.made)


def llama_factory_entry(**where: str) -> dict[str, Any]:
    """LLaMA-Factory's entry for our preference rows; `where`: file_name, or hf_hub_url and subset.

    With the list-typed `chosen` and `rejected` it would drop every row with a warning.
    """
    return {
        **where,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "prompt",
            "chosen": "chosen_message",
            "rejected": "rejected_message",
        },
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }


_SSO_ENTRY = {
    "file_name": "train.json",
    "formatting": "sso",
    "ranking": True,
    "columns": {
        "prompt": "instruction",
        "history": "history",
        "system": "system",
        "p_system": "p_system",
        "n_system": "n_system",
        "chosen": "chosen",
        "rejected": "rejected",
        "raw": "raw",
    },
}

_UNSEEN = "were given under a system message of the prompt's own, which the judge does not see"
_TURNS = "prompts in which user and assistant take turns, user first and last"

FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(
            name="trl",
            files={"train.jsonl": _preference},
            recipes={"dpo.yaml": "recipe_trl.yaml.j2"},
            next="trl dpo --config {directory}/dpo.yaml",
            on_cpu="--use_cpu true --bf16 false",
        ),
        Format(
            name="llama-factory",
            files={"train.jsonl": _preference},
            unfit=rows.alternates,
            wants=_TURNS,
            recipes={"dpo.yaml": "recipe_llama_factory.yaml.j2"},
            info={"dataset_info.json": {"pairs": llama_factory_entry(file_name="train.jsonl")}},
            next="llamafactory-cli train {directory}/dpo.yaml",
        ),
        Format(
            name="axolotl",
            files={"train.jsonl": _preference},
            doubtful=rows.hard_to_find,
            doubt="have a response that begins or ends with white space, or is part of "
            f"{rows.AXOLOTL_PLACEHOLDER!r}: Axolotl may cut it wrongly where the chat template "
            "trims messages (Llama 3's does)",
            recipes={"ipo.yaml": "recipe_axolotl.yaml.j2"},
            next="axolotl train {directory}/ipo.yaml",
        ),
        Format(
            name="openrlhf",
            files={"train.jsonl": _preference},
            recipes={"dpo.sh": "recipe_openrlhf.sh.j2"},
            next="bash {directory}/dpo.sh",
        ),
        Format(
            name="sso",
            files={"train.json": lambda _, row: rows.sso(row)},
            unfit=rows.alternates,
            wants=_TURNS,
            recipes={"sso.yaml": "recipe_sso.yaml.j2"},
            info={"dataset_info.json": {"pairs": _SSO_ENTRY}},
            next="llamafactory-cli train {directory}/sso.yaml",
            shows_system=True,
        ),
        Format(
            name="autoalign",
            files={
                "sso.json": lambda _, row: rows.autoalign_sso(row),
                "dpo.json": lambda _, row: rows.autoalign_dpo(row),
            },
            recipes={"train.sh": "recipe_autoalign.sh.j2"},
            next="bash {directory}/train.sh",
            shows_system=True,
        ),
        Format(
            name="rewardbench",
            files={"pairs.jsonl": lambda _, row: rows.whole_conversations(row)},
            unfit=rows.alternates_without_system,
            wants=f"{_TURNS}, without a system message",
            next="rewardbench --model REWARD_MODEL --dataset {directory}/pairs.jsonl --load_json",
        ),
        Format(
            name="alpaca-eval",
            holds="answers",
            files={"model_outputs.json": _alpaca_eval},
            unfit=rows.one_instruction,
            wants="prompts of one user turn",
            doubtful=rows.has_own_system,
            doubt=_UNSEEN,
            next="alpaca_eval --model_outputs {directory}/model_outputs.json",
        ),
        Format(
            name="mt-bench",
            holds="answers",
            files={"{name}.jsonl": _mt_bench},
            once=rows.question_id,
            unfit=rows.second_turn,
            wants="prompts of a first question, its answer and a second question, each with a "
            "question_id",
            doubtful=rows.has_own_system,
            doubt=_UNSEEN,
            next="cp {directory}/{name}.jsonl FASTCHAT/data/mt_bench/model_answer/",
        ),
    )
}


def format_of(name: str) -> Format:
    """The format called `name`; ConfigError lists them all."""
    if name not in FORMATS:
        raise ConfigError(
            f"--to {name}: no such format; there are {', '.join(FORMATS)}{nearest(name, FORMATS)}"
        )
    return FORMATS[name]
