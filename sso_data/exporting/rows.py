"""Rows in the layouts of other programs, and the reasons why a row does not fit one."""

import json
from collections.abc import Sequence

from sso_data.core.records import JsonRow, Message, Row, View
from sso_data.templating.chat_template import fold_system

AXOLOTL_PLACEHOLDER = "[[dummy_message]]"
_HUMAN = {"user": "human", "assistant": "gpt", "system": "system"}


def preference(row: Row, *, folded: bool) -> JsonRow:
    """Return a row for TRL, Axolotl and OpenRLHF (the lists) and LLaMA-Factory (two messages).

    `folded`: the model's template has no system role, so that the prompt's own system message
    stands before its first user turn, as it did when the row was sampled. The arguments that the
    chat template was given travel along; TRL passes them on.
    """
    messages = fold_system(row.messages) if folded else row.messages
    chosen, rejected = _answer(row, "good"), _answer(row, "bad")
    found = {
        "id": row.id,
        "prompt": [message.to_json() for message in messages],
        "chosen": [chosen],
        "rejected": [rejected],
        "chosen_message": chosen,
        "rejected_message": rejected,
    }
    kwargs = json.loads(row.template_kwargs)
    return found | ({"chat_template_kwargs": kwargs} if kwargs else {})


def whole_conversations(row: Row) -> JsonRow:
    """Return a row for readers with an implicit prompt: each side is a whole conversation."""
    prompt = [message.to_json() for message in row.messages]
    return {
        "id": row.id,
        "chosen": [*prompt, _answer(row, "good")],
        "rejected": [*prompt, _answer(row, "bad")],
    }


def sso(row: Row) -> JsonRow:
    """Return a row for the published SSO trainer: last user turn, earlier turns as pairs, texts."""
    turns = [message.content for message in _without_system(row)]
    earlier, instruction = turns[:-1], turns[-1]
    return {
        "instruction": instruction,
        "history": [list(pair) for pair in zip(earlier[::2], earlier[1::2], strict=True)],
        "system": own_system(row) or "",
        "p_system": row.system["good"],
        "n_system": row.system["bad"],
        "chosen": row.responses["good"].text,
        "rejected": row.responses["bad"].text,
        "raw": row.responses["plain"].text,
    }


def autoalign_sso(row: Row) -> JsonRow:
    """Return a row for AutoAlign's generator training, which places the system messages itself."""
    turns = _shared_turns(_without_system(row))
    return {
        "prompt": row.messages[-1].content,
        "uuid": row.id,
        "p_system": row.system["good"],
        "n_system": row.system["bad"],
        "system": own_system(row) or "",
        "chosen": [*turns, _gpt(row, "good")],
        "rejected": [*turns, _gpt(row, "bad")],
        "raw": [*turns, _gpt(row, "plain")],
        "history": [],
    }


def autoalign_dpo(row: Row) -> JsonRow:
    """Return a row for AutoAlign's DPO; a system message of the prompt's own is the first turn."""
    turns = _shared_turns(row.messages)
    chosen = [*turns, _gpt(row, "good")]
    return {
        "prompt": row.messages[-1].content,
        "chosen": chosen,
        "rejected": [*turns, _gpt(row, "bad")],
        "conversations": chosen,
        "prompt_id": row.id,
    }


def alpaca_eval(row: Row, *, drawn: View, name: str) -> JsonRow:
    """Return an output for AlpacaEval; with `dataset` where the prompt file had such a column."""
    answer = {
        "instruction": row.messages[-1].content,
        "output": row.responses[drawn].text,
        "generator": name,
    }
    dataset = json.loads(row.metadata).get("dataset")
    return {"dataset": dataset, **answer} if isinstance(dataset, str) else answer


def mt_bench(row: Row, *, drawn: View, name: str, made: float) -> JsonRow:
    """Return an answer for MT-Bench: the first turn is in the prompt, the second was sampled.

    `made` is when the run was started, in seconds since 1970.
    """
    first = _without_system(row)[1].content
    return {
        "question_id": question_id(row),
        "answer_id": f"{row.id}-{drawn}",
        "model_id": name,
        "choices": [{"index": 0, "turns": [first, row.responses[drawn].text]}],
        "tstamp": made,
    }


def question_id(row: Row) -> int | str | None:
    """The prompt file's `question_id`, or the prompt's own id; a number where it looks like one."""
    found = json.loads(row.metadata).get("question_id", row.source_id)
    if isinstance(found, str) and found.isascii() and found.isdigit():
        return int(found)
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def any_row(_row: Row) -> str | None:
    """Return None: every row fits."""
    return None


def alternates(row: Row) -> str | None:
    """Return a reason unless user and assistant take turns, user first and last."""
    roles = [message.role for message in _without_system(row)]
    wanted = ["user", "assistant"] * (len(roles) // 2) + ["user"]
    return None if roles == wanted else "turns_do_not_alternate"


def alternates_without_system(row: Row) -> str | None:
    """RewardBench takes the first turn for the user's, whatever its role is."""
    return "system_message" if has_own_system(row) else alternates(row)


def one_instruction(row: Row) -> str | None:
    """One user turn, and the first row with this prompt: outputs are matched by instruction."""
    if [message.role for message in _without_system(row)] != ["user"]:
        return "several_turns"
    return None if row.id.endswith("-0") else "repeated_prompt"


def second_turn(row: Row) -> str | None:
    """A first question, its answer, a second question; and a question id."""
    if [message.role for message in _without_system(row)] != ["user", "assistant", "user"]:
        return "not_two_turns"
    if row.sample > 1:
        return "repeated_prompt"
    return None if question_id(row) is not None else "no_question_id"


def hard_to_find(row: Row) -> bool:
    """Return True where Axolotl may cut chosen or rejected wrongly.

    It renders a placeholder and the response with the chat template, and cuts where it finds the
    response first.
    """
    texts = (row.responses["good"].text, row.responses["bad"].text)
    return any(text != text.strip() or text in AXOLOTL_PLACEHOLDER for text in texts)


def has_own_system(row: Row) -> bool:
    """Return True where the prompt opens with a system message."""
    return own_system(row) is not None


def own_system(row: Row) -> str | None:
    """The prompt's own system message, if it opens with one."""
    first = row.messages[0]
    return first.content if first.role == "system" else None


def _without_system(row: Row) -> Sequence[Message]:
    return row.messages if own_system(row) is None else row.messages[1:]


def _answer(row: Row, drawn: View) -> dict[str, str]:
    return {"role": "assistant", "content": row.responses[drawn].text}


def _gpt(row: Row, drawn: View) -> dict[str, str]:
    return {"from": "gpt", "value": row.responses[drawn].text}


def _shared_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"from": _HUMAN[message.role], "value": message.content} for message in messages]
