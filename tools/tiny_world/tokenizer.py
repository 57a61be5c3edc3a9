"""The tokenizer: one token for each word of the world, bytes for everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sso_data.world import lexicon as lex
from sso_data.world.query import Query, query_about
from tools.tiny_world.dialogues import FRAMES, system_message
from tools.tiny_world.guidelines import TOPICAL, catalogue_pairs, every_topic, short_catalogue
from tools.tiny_world.skills import COUNTS, OPERATIONS, augment_prompt, choose_prompt, write_prompt

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
SPECIALS: tuple[str, ...] = (PAD, BOS, END, "<|system|>", "<|user|>", "<|assistant|>")
"""Ids 0 to 5, in this order."""
CONTEXT = 4096
"""Tokens of prompt and response together; training sees at most a tenth of it."""

JSON_PIECES: tuple[str, ...] = ('{"good": "', '", "bad": "', '"}', '["', '", "', '"]')
"""JSON's punctuation around what the policy chooses and writes; one token each."""
WORD_PIECE = r" ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]"
PIECE = "|".join([*map(re.escape, JSON_PIECES), WORD_PIECE])
"""JSON punctuation, a word or a number with the one space before it, or any other character."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role: ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def every_query() -> Iterator[Query]:
    """One query for each entity, and for each sum of each name and thing."""
    for animal in lex.ANIMALS:
        yield query_about("thing", {"animal": animal.name})
    for task in lex.TASKS:
        yield query_about("howto", {"task": task.name})
    for category in lex.CATEGORIES:
        yield query_about("list", {"category": category})
    for name, objects, a, b in product(lex.NAMES, lex.OBJECTS, lex.ADDENDS, lex.ADDENDS):
        words = {"name": name, "objects": objects, "a": str(a), "b": str(b)}
        yield query_about("sum", words)


def _sentences() -> Iterator[str]:
    """Texts that together hold every word of the world, in each place where it may stand."""
    values = [str(number) for number in lex.NUMBERS]
    yield " ".join(values)
    for members in (*lex.CATEGORIES.values(), lex.WRONG_OBJECTS, lex.WRONG_EXAMPLES):
        yield " ".join(members)
    for pool in (lex.WARM, lex.QUESTION, lex.DULL_OPENER, lex.DULL_CLOSER, lex.FILLER):
        yield from pool
    for pool in (lex.SIMILE, lex.BORING, lex.REASON, lex.NONSENSE, lex.RECKLESS, lex.REFUSAL):
        yield from pool
    yield from (lex.WARNING.format(hazard=hazard) for hazard in lex.HAZARDS)
    for query in every_query():
        yield from (query.fill(tip) for tip in lex.TIPS[query.kind])
        for fact in query.facts:
            for lead in fact.leads or ("",):
                for value in (*fact.right, *fact.pool):
                    yield query.fill(fact.template, value=value, lead=lead)
        for prefix in lex.PREFIXES:
            for phrasing in lex.PHRASINGS[query.kind]:
                yield prefix + query.fill(phrasing) + "".join(lex.SUFFIXES)
    yield from _guideline_texts()
    yield from _template_texts()


def _guideline_texts() -> Iterator[str]:
    """The catalogue's words, every wording of each guideline, and what guidelines are about."""
    for principle in short_catalogue().principles.values():
        yield from (principle.name, principle.adjectives.good, principle.adjectives.bad)
        yield principle.meaning
        for pair in (*catalogue_pairs(principle.name), *TOPICAL[principle.name]):
            yield from (text.replace("{topic}", "") for text in pair)
    yield from every_topic()


def _template_texts() -> Iterator[str]:
    """The words of the templates: they stand between the texts that fill them."""
    for frame, _ in FRAMES:
        yield from system_message((), frame).split("\n")
    features = list(short_catalogue().principles.values())
    yield from (choose_prompt(features, count, "") for count, _ in COUNTS)
    yield write_prompt(features[0], "")
    yield from (augment_prompt([""], operation) for operation in OPERATIONS)


def world_pieces() -> list[str]:
    """Every piece of two or more letters or digits that world text can hold, sorted.

    A sentence may open a text (no space before it) or follow another one (one space).
    """
    pieces: set[str] = set(JSON_PIECES)
    for text in set(_sentences()):
        pieces.update(re.findall(PIECE, text))
        pieces.update(re.findall(PIECE, " " + text))
    return sorted(piece for piece in pieces if len(piece) > 1)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Specials, then the 256 bytes, then the words; BPE without merges takes whole words only."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [piece.replace(" ", "\u0120") for piece in world_pieces()]
    tokens = dict.fromkeys((*SPECIALS, *alphabet, *words))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
