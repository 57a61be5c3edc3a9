"""The three views of a prompt: the chat template, probed once, and the token ids it renders to.

Ids equal the tokenizer's own `apply_chat_template` on text without control tokens. Where a message
holds the text of a control token, only the template's own control tokens become control ids.
"""

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cached_property, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sso_data.config.run import ViewsConfig
from sso_data.core.errors import ConfigError, ModelError, described, one_line
from sso_data.core.limits import TooMuchError, limited
from sso_data.core.records import STEERED_VIEWS, Message, Placement, View

_PROBE_SYSTEM, _PROBE_USER = "Qz7001zQ", "Qz7002zQ"
_FIRST_MARK = 9000
_MARK = re.compile(r"Qz(\d+)zQ")
_OURS = frozenset(
    (
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    )
)
"""Arguments of `apply_chat_template` that are no template's own, or that we set."""
_MODELS_OWN = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),
    *("[THINK]", "[/THINK]", "[TOOL_CALLS]"),
)
"""Control tokens that a model itself writes inside its turns; none of them opens or ends a turn."""
ROLE = re.compile(r"[A-Za-z][\w-]{0,31}", re.ASCII)
"""A role is a plain word: templates write it between control tokens."""
_MOST_FRAMES, _MOST_KEPT_TURNS = 512, 256
_SHORT_RUN, _MOST_SHORT_RUNS, _MOST_LONG_RUNS = 2000, 16_384, 64
"""Characters of a short text between control tokens, and texts whose ids are kept: about 20 MB."""
_MOST_CHARS = 2**26
"""The longest rendering that is accepted, about 16 million tokens; longer is a template's bug."""


class Unrenderable(Exception):  # noqa: N818 - an answer about one row, not a fault
    """The template cannot render this prompt: `reason` in one word, the detail as the message."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """Findings of the probe of a chat template; written to run.json.

    system_role: `native`, or `folded` into the first user turn where the template has none.
    default_system: what the template says when no system message is given; steering is added to it.
    bos: where the one BOS comes from (`none`: this tokenizer uses none).
    control_tokens: whether typed control tokens can be kept as text.
    date: the pinned date, where the template inserts one.
    opens_thinking: the generation prompt ends inside a thinking block.
    content: `parts` for a template that takes contents as lists of typed parts alone.
    """

    system_role: Literal["native", "folded"]
    default_system: str | None
    bos: Literal["template", "added", "none"]
    control_tokens: Literal["text", "refused"]
    date: str | None
    template_kwargs: Mapping[str, Any]
    opens_thinking: bool
    content: Literal["text", "parts"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedViews:
    """Per view the prompt's token ids; for good and bad the system message, and the user's end."""

    ids: Mapping[View, list[int]]
    system: Mapping[View, str]
    user: Mapping[View, str]

    @property
    def longest(self) -> int:
        """Tokens of the longest of the three prompts."""
        return max(len(ids) for ids in self.ids.values())


def load_tokenizer(model: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model directory; ModelError when there is none, or no chat template."""
    from transformers import AutoTokenizer

    if not model.is_dir():
        raise ModelError(f"{model}: no such model directory")
    if not (model / "config.json").is_file():
        if (model / "adapter_config.json").is_file():
            raise ModelError(
                f"{model}: is a LoRA adapter; --model takes a whole model: train with --set "
                "lora.merge=true, or merge it; to sample with it, give its base model and --set "
                f"engine.adapter={model}"
            )
        raise ModelError(f"{model}: not a model directory (no config.json in it)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model, trust_remote_code=trust_remote_code, local_files_only=True
        )
        has_template = bool(tokenizer.chat_template and tokenizer.get_chat_template())
    except Exception as error:
        reason = described(error)
        raise ModelError(f"{model}: its tokenizer cannot be loaded: {reason}") from error
    if not has_template:
        raise ModelError(
            f"{model}: its tokenizer has no chat template; use an instruction-tuned model, "
            "or put a chat_template.jinja into the directory"
        )
    return tokenizer


def turn_end(tokenizer: Any) -> int | None:
    """The control token that the chat template writes after an answer; None where there is none."""
    for parts in (False, True):
        turns = [
            _turn(Message(role=role, content=text), parts=parts)
            for role, text in (("user", _PROBE_USER), ("assistant", _PROBE_SYSTEM))
        ]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception:  # noqa: BLE001 - the probe of the template says what is wrong with it
            continue
        _, found, tail = str(text).rpartition(_PROBE_SYSTEM)
        if found and (ids := tokenizer(tail, add_special_tokens=False)["input_ids"]):
            controls = set(control_tokens(tokenizer).values())
            return next((int(token) for token in ids if token in controls), None)
    return None


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """The added tokens, special or not: text that the tokenizer turns into one id.

    White space is none of them: Gemma adds line ends, others runs of spaces, which are plain text.
    """
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    return {text: index for text, index in added.items() if text.replace("\u2581", " ").strip()}


def _turn(message: Message, *, parts: bool) -> dict[str, Any]:
    """A turn as a template takes it: its content as text, or as a list of one part."""
    content = [{"type": "text", "text": message.content}] if parts else message.content
    return {"role": message.role, "content": content}


def reserved(template_kwargs: Mapping[str, Any]) -> str | None:
    """The first of some template arguments that may not be set, if there is one."""
    return min(_OURS & template_kwargs.keys(), default=None)


class ChatTemplate:
    """A tokenizer's chat template, with everything pinned that differs between views or days."""

    def __init__(self, tokenizer: Any, config: ViewsConfig, *, today: str) -> None:
        """Raises ModelError where the template cannot be used, ConfigError for its arguments."""
        if name := reserved(config.template_kwargs):
            raise ConfigError(
                f"views.template_kwargs.{name} is reserved; set only the template's own arguments"
            )
        self.tokenizer = tokenizer
        self._config = config
        self._refuse_control = config.control_tokens == "refuse"
        self._source = str(tokenizer.get_chat_template())
        self._date = config.date or today
        self._kwargs = dict(config.template_kwargs)
        if re.search(r"\benable_thinking\b", self._source):
            self._kwargs.setdefault("enable_thinking", False)
        self._frames: dict[tuple[str, ...], _Frame | None] = {}
        self._parts = False
        self.facts = self._probe()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the template's text and all that was found or pinned."""
        facts = asdict(self.facts)
        if self.facts.content == "text":  # as fingerprints were before there were parts
            del facts["content"]
        content = json.dumps([self._source, facts], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def views(
        self,
        messages: tuple[Message, ...],
        good: str,
        bad: str,
        placement: Placement = "system",
    ) -> RenderedViews:
        """The three views of a prompt, `good` and `bad` being the steering texts.

        They are added to the system message (`placement` system), to the end of the last user turn
        (user), or to both. Raises Unrenderable when the template refuses the prompt.
        """
        own = messages[0].content if messages and messages[0].role == "system" else None
        base = own if own is not None else self.facts.default_system
        ids: dict[View, list[int]] = {"plain": self.ids(messages)}
        system: dict[View, str] = {}
        user: dict[View, str] = {}
        for view, text in zip(STEERED_VIEWS, (good, bad), strict=True):
            steered = f"{base}\n\n{text}" if base else text
            system[view] = (own or "") if placement == "user" else steered
            user[view] = "" if placement == "system" else text
            ids[view] = self.ids(steered_turns(messages, system[view], user[view]))
        return RenderedViews(ids=ids, system=system, user=user)

    def ids(self, messages: tuple[Message, ...]) -> list[int]:
        """The prompt's ids, generation prompt included, with exactly one BOS where there is one.

        Raises Unrenderable when the template refuses the prompt.
        """
        messages = self.folded(messages)
        text = self.render(messages)
        ids = self.plain_ids(text)
        frame = self._frame(tuple(message.role for message in messages))
        answers = [message.content for message in messages if message.role == "assistant"]
        if frame is None or any(token in said for token in self._own for said in answers):
            forged = any(self.holds_others(message, self._own) for message in messages)
            forged = forged or self.forges(text, ids)
        else:
            forged = self._controls(ids) != frame.controls
        if forged:
            contents = [message.content for message in messages]
            if frame is None or interleaved(frame.literals, contents) != text:
                raise Unrenderable(
                    "control_tokens",
                    "a message contains a control token, which this template cannot keep as text",
                )
            ids = self.segment_ids(*around_own(frame.literals, messages, contents, self._own))
        return [self.tokenizer.bos_token_id, *ids] if self.facts.bos == "added" else ids

    def folded(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages as the template takes them: without a system role where it has none."""
        return fold_system(messages) if self.facts.system_role == "folded" else messages

    def render(self, messages: Sequence[Message], *, generation: bool = True) -> str:
        """The text of `folded` messages, by default with the generation prompt.

        Raises Unrenderable when the template refuses them.
        """
        pinned: dict[str, Any] = dict(self._kwargs)
        if "strftime_now" in self._source:
            pinned["strftime_now"] = datetime.fromisoformat(self._date).strftime
        turns = [_turn(message, parts=self._parts) for message in messages]
        try:
            with limited():
                rendered = self.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=generation, **pinned
                )
        except Exception as error:
            reason = one_line(error, 300)
            raise Unrenderable("template_refused", f"the chat template raised: {reason}") from error
        if len(rendered) > _MOST_CHARS:
            detail = f"the chat template writes {len(rendered)} characters"
            raise Unrenderable("template_refused", detail)
        if not is_encodable(rendered):
            raise Unrenderable("half_character", "a text holds invalid Unicode (lone surrogate)")
        return str(rendered)

    def plain_ids(self, text: str) -> list[int]:
        """The tokenizer's own ids; long texts are judged later, so it need not warn of them."""
        if self._fast is None:
            return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if not self._is_local:
            return list(self._fast.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        ids: list[int] = []
        for piece in self._control_pattern.split(text):
            control = self._control_ids.get(piece)
            if control is not None:
                ids.append(control)
            elif piece:
                ids += self._run_ids(piece)
        return ids

    @cached_property
    def _run_ids(self) -> "Callable[[str], array[int]]":
        """The ids of a text between control tokens.

        The three views of a prompt share most, and rows the system messages of a catalogue.
        """

        def encode(run: str) -> "array[int]":
            return array("I", self._fast.encode_batch_fast([run], add_special_tokens=False)[0].ids)

        short, long = lru_cache(_MOST_SHORT_RUNS)(encode), lru_cache(_MOST_LONG_RUNS)(encode)
        return lambda run: (short if len(run) <= _SHORT_RUN else long)(run)

    @cached_property
    def _is_local(self) -> bool:
        """True where control tokens cut a text before anything else looks at it."""
        backend = self._fast
        parts = json.loads(backend.to_str())
        first = json.dumps([parts["normalizer"], parts["pre_tokenizer"]])
        tokens = self.tokenizer.added_tokens_decoder.values()
        normalized = {token.normalized and parts["normalizer"] is not None for token in tokens}
        return (
            normalized == {False}
            and len({token.normalized for token in tokens}) == 1
            and not self.tokenizer.split_special_tokens
            and not any(token.lstrip or token.rstrip or token.single_word for token in tokens)
            and "Prepend" not in first
            and '"first"' not in first
        )

    @cached_property
    def _fast(self) -> Any:
        """The tokenizer's Rust part where it alone decides: calling it is quicker."""
        from transformers import PreTrainedTokenizerFast as Fast

        if not isinstance(self.tokenizer, Fast) or self._has_own("__call__", "_encode_plus"):
            return None
        self.tokenizer("a", add_special_tokens=False)  # leaves it without truncation and padding
        return self.tokenizer.backend_tokenizer

    @cached_property
    def _decodes_alone(self) -> bool:
        """True where ids are decoded by the tokenizer's Rust part, and nothing else."""
        return self._fast is not None and not self._has_own("decode", "_decode")

    def _has_own(self, *methods: str) -> bool:
        """Return True if the tokenizer's class has one of these methods of its own."""
        from transformers import PreTrainedTokenizerFast as Fast

        kind = type(self.tokenizer)
        return any(getattr(kind, name) is not getattr(Fast, name) for name in methods)

    def holds_control(self, text: str) -> bool:
        """Return True if `text` contains the text of a control token."""
        return any(control in text for control in self._control_ids)

    @cached_property
    def _own(self) -> tuple[str, ...]:
        """The model's own thinking and tool-call tokens, as far as the tokenizer has them."""
        return tuple(token for token in _MODELS_OWN if token in self._control_ids)

    @cached_property
    def of_responses(self) -> dict[str, int]:
        """The control tokens that a response may hold, with their ids.

        They are the model's own and those that are not special, unless the template writes turns
        with them: `<|User|>` may be such a one.
        """
        system, *turns = marked(("system", "user", "assistant", "user"))
        written = self._try_render(turns) + self._try_render([system, *turns])
        added, own = self.tokenizer.added_tokens_decoder, self._own
        return {
            text: index
            for text, index in self._control_ids.items()
            if text in own or not (added[index].special or text in written)
        }

    def holds_others(self, message: Message, own: Sequence[str]) -> bool:
        """Return True if a message holds a control token's text that is not its own to write.

        `own` are the tokens that a model writes inside its responses: `<think>` and the like.
        """
        allowed = own if message.role == "assistant" else ()
        return any(token in message.content for token in self._control_ids if token not in allowed)

    def forges(self, text: str, ids: Sequence[int]) -> bool:
        """Return True if `ids`, the tokenizer's of `text`, hold more than the control tokens in it.

        A tokenizer that normalises may find one in letters that only look like it.
        """
        if not self._control_ids:
            return False
        written = [self._control_ids[control] for control in self._control_pattern.findall(text)]
        return Counter(self._controls(ids)) - Counter(written) != Counter()

    def segment_ids(self, literals: Sequence[str], contents: Sequence[str]) -> list[int]:
        """Ids of contents between literals; control tokens come from the literals only.

        Raises Unrenderable where control tokens' text cannot be kept as text.
        """
        if self._refuse_control or self.facts.control_tokens == "refused":
            raise Unrenderable("control_tokens", "a message contains a control token")
        return self._segment_ids(literals, contents)

    @cached_property
    def generation_prompts(self) -> "tuple[ChatTemplate, ...]":
        """This template, and the same with thinking on where nobody has switched it off."""
        if (
            "enable_thinking" not in self._kwargs
            or "enable_thinking" in self._config.template_kwargs
        ):
            return (self,)
        kwargs = {**self._kwargs, "enable_thinking": True}
        config = self._config.model_copy(update={"template_kwargs": kwargs})
        return (self, ChatTemplate(self.tokenizer, config, today=self._date))

    @cached_property
    def kwargs_json(self) -> str:
        """The template arguments as JSON text, as every row has them."""
        return json.dumps(self.facts.template_kwargs, sort_keys=True)

    def is_rendered(self, text: str) -> bool:
        """Return True if a text ends with the generation prompt: somebody has rendered it."""
        frame = self._frame(("user",))
        end = frame.literals[-1].strip() if frame else ""
        return bool(end) and self.holds_control(end) and text.rstrip().endswith(end)

    def text(self, token_ids: Sequence[int]) -> str:
        """A response's text: its ids without special tokens, otherwise unchanged."""
        if self._decodes_alone:
            return str(self._fast.decode(token_ids, skip_special_tokens=True))
        ids = np.array(token_ids)  # a list is looked through, id by id
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def is_unclosed_thinking(self, text: str) -> bool:
        """Return True if a response ends inside its thinking block, without an answer."""
        opened = text.count("<think>") + int(self.facts.opens_thinking)
        return opened > text.count("</think>")

    def _frame(self, roles: tuple[str, ...]) -> "_Frame | None":
        """The template's own text around turns of these roles; None if it cannot be determined."""
        if roles in self._frames:
            return self._frames[roles]
        for role in set(roles):
            if not ROLE.fullmatch(role) or self.holds_control(role):
                raise Unrenderable("unknown_role", f"a turn has the role {one_line(role, 80)!r}")
        literals = literals_around(self._try_render(marked(roles)), len(roles))
        frame = None
        if literals is not None:
            controls = self._controls(self.plain_ids(" ".join(literals)))
            frame = _Frame(literals=tuple(literals), controls=controls)
        if len(self._frames) < _MOST_FRAMES and len(roles) <= _MOST_KEPT_TURNS:
            self._frames[roles] = frame
        return frame

    @cached_property
    def _control_ids(self) -> dict[str, int]:
        return control_tokens(self.tokenizer)

    @cached_property
    def _control_id_set(self) -> frozenset[int]:
        return frozenset(self._control_ids.values())

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return list(filter(self._control_id_set.__contains__, ids))

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        controls = sorted(self._control_ids, key=len, reverse=True)
        return re.compile("(" + "|".join(re.escape(control) for control in controls) + ")")

    @cached_property
    def _text_only(self) -> Any:
        """The same tokenizer without control tokens: their text is ordinary text.

        They are renamed to what no text holds, so that every other token keeps its id.
        """
        from tokenizers import Tokenizer

        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        spec.update(post_processor=None, truncation=None, padding=None)
        vocabulary = spec["model"].get("vocab")
        for token in spec["added_tokens"]:
            if (control := token["content"]) in self._control_ids:
                token["content"] = hidden = f"\0{token['id']}\0"
                if isinstance(vocabulary, dict) and control in vocabulary:
                    vocabulary[hidden] = vocabulary.pop(control)
        return Tokenizer.from_str(json.dumps(spec))

    def _segment_ids(self, literals: Sequence[str], contents: Sequence[str]) -> list[int]:
        """Ids with control tokens from the literals only; the text between them is one run."""
        runs, controls = [""], []
        for literal, content in zip_longest(literals, contents, fillvalue=""):
            for piece in self._control_pattern.split(literal):
                if piece in self._control_ids:
                    controls.append(self._control_ids[piece])
                    runs.append("")
                else:
                    runs[-1] += piece
            runs[-1] += content
        ids: list[int] = []
        for run, control in zip_longest(runs, controls):
            found = list(self._text_only.encode(run, add_special_tokens=False).ids) if run else []
            if self._controls(found):
                raise Unrenderable("control_tokens", "a message's text is read as a control token")
            ids += found if control is None else [*found, control]
        return ids

    def _probe(self) -> TemplateFacts:
        """Find out what the template does; ModelError when it cannot render a plain question."""
        user = Message(role="user", content=_PROBE_USER)
        system = Message(role="system", content=_PROBE_SYSTEM)
        plain = self._probe_turn(user)
        if not self.plain_ids(_PROBE_USER):
            raise ModelError("the tokenizer returns no tokens; download the model again")
        steered = self._try_render([system, user])
        native = (
            steered.count(_PROBE_SYSTEM) == 1
            and steered.count(_PROBE_USER) == 1
            and steered.index(_PROBE_SYSTEM) < steered.index(_PROBE_USER)
        )
        default = None
        before, _, after = steered.partition(_PROBE_SYSTEM)
        if native and plain.startswith(before) and plain.endswith(after):
            default = plain[len(before) : len(plain) - len(after)] or None
        tail = plain[plain.index(_PROBE_USER) :]
        token, start = self.tokenizer.bos_token_id, self.plain_ids(plain)[:2]
        bos: Literal["template", "added", "none"] = "none"
        if token is not None and start == [token, token]:
            raise ModelError("the chat template writes two BOS tokens; remove one from it")
        if token is not None and start[:1] == [token]:
            bos = "template"
        elif token is not None and self.tokenizer("a")["input_ids"][:1] == [token]:
            bos = "added"
        return TemplateFacts(
            system_role="native" if native else "folded",
            default_system=default,
            bos=bos,
            control_tokens="text" if self._keeps_control_text() else "refused",
            date=self._date if "strftime_now" in self._source else None,
            template_kwargs=self._kwargs,
            opens_thinking=tail.count("<think>") > tail.count("</think>"),
            content="parts" if self._parts else "text",
        )

    def _probe_turn(self, user: Message) -> str:
        """The rendering of a question, its content as text or else in parts; ModelError if none."""
        failed = None
        try:
            plain = self.render([user])
        except Unrenderable as error:
            plain, failed = "", error
        is_endless = failed and isinstance(failed.__cause__, TooMuchError)
        if plain.count(_PROBE_USER) != 1 and not is_endless:
            self._parts = True
            plain = self._try_render([user])
            self._parts = plain.count(_PROBE_USER) == 1
        if plain.count(_PROBE_USER) == 1:
            return plain
        if failed:
            raise ModelError(f"the chat template cannot render one user turn: {failed}") from failed
        raise ModelError("the chat template does not show the user's turn exactly once")

    def _try_render(self, messages: Sequence[Message]) -> str:
        try:
            return self.render(messages)
        except Unrenderable:
            return ""

    def _keeps_control_text(self) -> bool:
        """Return True if encoding by segments gives the tokenizer's own ids on ordinary text."""
        if getattr(self.tokenizer, "backend_tokenizer", None) is None or not self._control_ids:
            return False
        turns = [Message(role="user", content="Is 3 < 4?\nYes, it is.")]
        frame = self._frame(("user",))
        text = self.render(turns)
        contents = [turn.content for turn in turns]
        if frame is None or interleaved(frame.literals, contents) != text:
            return False
        try:
            return self._segment_ids(frame.literals, contents) == self.plain_ids(text)
        except Exception:  # noqa: BLE001 - a tokenizer whose twin cannot be built
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A chat template's own text before, between and after contents, and its control ids."""

    literals: tuple[str, ...]
    controls: list[int]


def marked(roles: Sequence[str]) -> tuple[Message, ...]:
    """Turns of these roles whose contents are marks that `literals_around` finds again."""
    return tuple(
        Message(role=role, content=f"Qz{_FIRST_MARK + index}zQ") for index, role in enumerate(roles)
    )


def literals_around(text: str, count: int) -> list[str] | None:
    """The text before, between and after the marks of `count` turns; None unless each is there
    once, in order."""
    split = _MARK.split(text)
    found = split[1::2]
    return split[::2] if found == [str(_FIRST_MARK + index) for index in range(count)] else None


def interleaved(literals: Sequence[str], contents: Sequence[str]) -> str:
    """The rendering of contents between literals, if the template shows contents as they are."""
    pairs = zip_longest(literals, contents, fillvalue="")
    return "".join(part for pair in pairs for part in pair)


def around_own(
    literals: Sequence[str],
    turns: Sequence[Message],
    contents: Sequence[str],
    own: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Literals and contents in which the tokens of `own` that assistants wrote are literals, too.

    `contents` are those of `turns`, as the template shows them.
    """
    pattern = "|".join(map(re.escape, own))
    all_literals: list[str] = [literals[0]]
    all_contents: list[str] = []
    for turn, content, literal in zip(turns, contents, literals[1:], strict=True):
        splits = bool(own) and turn.role == "assistant"
        pieces = re.split(f"({pattern})", content) if splits else [content]
        all_contents += pieces[::2]
        all_literals += [*pieces[1::2], literal]
    return all_literals, all_contents


def is_encodable(text: str) -> bool:
    """Return True if UTF-8 can hold `text`: a lone surrogate, such as a JSON \\ud800, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def today() -> str:
    """The date that a template may show, as YYYY-MM-DD."""
    return date.today().isoformat()


def with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """The messages with `system` in the place of their own system message."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    return (Message(role="system", content=system), *turns)


def steered_turns(
    messages: tuple[Message, ...], system: str, user: str = ""
) -> tuple[Message, ...]:
    """The messages of a steered view: its system message, and the end of its last user turn.

    An empty text leaves what the messages have.
    """
    turns = list(with_system(messages, system) if system else messages)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if user and last is not None:
        turns[last] = Message(role="user", content=f"{turns[last].content}\n\n{user}")
    return tuple(turns)


def fold_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The system message put before the first user turn, for templates without a system role."""
    if not messages or messages[0].role != "system":
        return messages
    system, *turns = messages
    for index, turn in enumerate(turns):
        if turn.role == "user":
            content = f"{system.content}\n\n{turn.content}" if system.content else turn.content
            turns[index] = Message(role="user", content=content)
            return tuple(turns)
    return tuple(turns)
