"""Rows to ids: as sampled, checked against the template, cut or dropped in the open."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sso_data.config.run import ViewsConfig
from sso_data.config.training import SequenceConfig
from sso_data.core.errors import InputError
from sso_data.core.records import SIDE_OF, JsonRow, Message, hash_ids
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, with_system
from sso_data.training.encode import EncodedRow, Encoder, template_for
from sso_data.training.loss import PREFERENCE_TERMS, PreferenceTerm
from sso_data.world import policy_dir
from tests import tokenizers_of_the_field as field

USER = {"role": "user", "content": "Is 3 < 4?"}
YES = {"role": "assistant", "content": "Yes, it is."}
NO = {"role": "assistant", "content": "I am fine."}


def encoder_of(
    template: ChatTemplate,
    terms: tuple[PreferenceTerm, ...] = ("base",),
    **config: Any,
) -> Encoder:
    return Encoder(
        template=template,
        config=SequenceConfig(**config),
        terms=terms,
        eos_ids=frozenset({template.tokenizer.eos_token_id}),
        vocab_size=len(template.tokenizer),
    )


def template_of(source: str, **kind: bool) -> ChatTemplate:
    return ChatTemplate(field.build(source, **kind), ViewsConfig(), today="2026-02-03")


class TestOurRows:
    def test_ids_are_those_that_were_sampled(
        self, encoder: Encoder, journal: list[JsonRow]
    ) -> None:
        row = journal[0]
        (encoded,) = encoder.encode([row])
        for view, side in SIDE_OF.items():
            assert encoded.completions[view].tolist() == row[f"{side}_token_ids"]
            assert hash_ids(encoded.prompts[view].tolist()) == row[f"prompt_hash_{view}"]
        cells = ("plain_good", "plain_bad", "good_good", "good_bad", "bad_plain", "bad_good")
        assert encoded.ref_CS.ravel().tolist() == [row[f"logp_{cell}"] for cell in cells]

    def test_the_outside_row_says_the_same(
        self, encoder: Encoder, journal: list[JsonRow], pairs: list[JsonRow]
    ) -> None:
        by_id = {row.id: row for row in encoder.encode(journal)}
        for row in encoder.encode(pairs):
            same = by_id[row.id]
            assert np.array_equal(row.ref_CS, same.ref_CS)
            for name in PREFERENCE_TERMS:
                for side in (0, 1):
                    for one, other in zip(
                        row.sequence(name, side), same.sequence(name, side), strict=True
                    ):
                        assert np.array_equal(one, other)

    def test_a_changed_template_is_refused(self, encoder: Encoder, journal: list[JsonRow]) -> None:
        tokenizer = load_tokenizer(policy_dir())
        tokenizer.chat_template = tokenizer.chat_template.replace("'<|end|>'", "'<|end|> '")
        encoder.template = template_for(tokenizer, journal[0], ViewsConfig())
        with pytest.raises(InputError, match=r"row .*: its \w+ prompt renders to different token"):
            encoder.encode(journal)

    def test_a_changed_principle_is_refused(self, encoder: Encoder, journal: list[JsonRow]) -> None:
        row = journal[0] | {"system_bad": "Be kind."}
        with pytest.raises(InputError, match="its bad prompt renders to different token ids"):
            encoder.encode([row])

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"original_token_ids": [5, 945]}, "token id 945 is not in the model's vocabulary"),
            ({"chosen_token_ids": []}, "a response has no tokens"),
            ({"logp_bad_plain": 1.5}, "logp_bad_plain is 1.5, not a log-probability"),
            ({"logp_bad_plain": float("nan")}, "logp_bad_plain is nan"),
        ],
    )
    def test_bad_numbers(
        self, encoder: Encoder, journal: list[JsonRow], change: JsonRow, says: str
    ) -> None:
        with pytest.raises(InputError, match=says):
            encoder.encode([journal[0] | change])

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("rejected_token_ids", None),
            ("chosen_token_ids", "abc"),
            ("chosen_token_ids", [5, "6"]),
            ("chosen_token_ids", [5, [6]]),
            ("chosen_token_ids", [5.0, 6.5]),
            ("logp_plain_good", "x"),
            ("prompt", "a plain string"),
            ("id", None),
            ("system_good", 3),
            ("prompt_hash_bad", None),
        ],
    )
    def test_wrong_types_name_row_and_column(
        self, encoder: Encoder, journal: list[JsonRow], column: str, value: Any
    ) -> None:
        with pytest.raises(InputError, match=rf"^row .*: column '{column}' must be") as caught:
            encoder.encode([journal[0] | {column: value}])
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "turns", [3, [3], [{"role": "user"}], [{"role": "user", "content": 3}]]
    )
    def test_a_prompt_that_is_no_messages(
        self, encoder: Encoder, journal: list[JsonRow], turns: Any
    ) -> None:
        with pytest.raises(InputError, match=r"^row .* must be text"):
            encoder.encode([journal[0] | {"prompt": turns}])

    def test_a_number_is_an_id(self, encoder: Encoder, journal: list[JsonRow]) -> None:
        (encoded,) = encoder.encode([journal[0] | {"id": 7}])
        assert encoded.id == "7"

    @pytest.mark.parametrize("value", ["{", "[1]", {"a": 1}])
    def test_template_arguments_must_be_json(self, tokenizer: Any, value: Any) -> None:
        with pytest.raises(InputError, match="row a: column 'template_kwargs' must be a JSON obj"):
            template_for(tokenizer, {"id": "a", "template_kwargs": value}, ViewsConfig())

    def test_missing_columns(self, encoder: Encoder, journal: list[JsonRow]) -> None:
        for column in ("original_token_ids", "system_good", "prompt_hash_bad"):
            row = {name: value for name, value in journal[0].items() if name != column}
            with pytest.raises(InputError, match=rf"row .*: no column '{column}'"):
                encoder.encode([row])

    def test_missing_scores_are_nan(self, encoder: Encoder, journal: list[JsonRow]) -> None:
        (encoded,) = encoder.encode([journal[0] | {"logp_bad_good": None}])
        assert np.isnan(encoded.ref_CS).tolist() == [[False] * 2, [False] * 2, [False, True]]

    def test_a_template_with_the_date_finds_its_day_again(self) -> None:
        tokenizer = field.build(field.LLAMA3, bos=True)
        then = ChatTemplate(tokenizer, ViewsConfig(), today="2026-01-05")
        row = {"template_fingerprint": then.fingerprint, "template_kwargs": "{}"}
        assert template_for(tokenizer, row, ViewsConfig()).facts.date == "2026-01-05"


class TestLength:
    def of(self, encoder: Encoder, row: JsonRow, **config: Any) -> EncodedRow | None:
        encoder.config = SequenceConfig(**config)
        found = encoder.encode([row])
        return found[0] if found else None

    def test_what_fits_is_left_alone(self, encoder: Encoder, encoded: list[EncodedRow]) -> None:
        report = encoder.report
        assert (report.rows, report.encoded, report.too_long, report.cut_rows) == (72, 72, 0, 0)

    def test_a_long_row_is_dropped_and_counted(
        self, encoder: Encoder, journal: list[JsonRow]
    ) -> None:
        assert self.of(encoder, journal[0], max_length=16) is None
        assert encoder.report.to_json() == {
            "rows": 1,
            "encoded": 0,
            "too_long": 1,
            "cut_rows": 0,
            "cut_responses": 0,
            "eos_lost": 0,
            "without_eos": 0,
            "malformed": 0,
        }

    def test_truncation_cuts_a_response_alike_in_every_view_and_counts_its_eos(
        self, encoder: Encoder, encoded: list[EncodedRow], journal: list[JsonRow]
    ) -> None:
        whole = encoded[0]
        longest = max(map(len, whole.prompts.values()))
        shortest = min(map(len, whole.completions.values()))
        budget = shortest + 1
        encoder.report = type(encoder.report)()
        cut = self.of(encoder, journal[0], max_length=longest + budget, too_long="truncate")
        assert cut is not None
        assert cut.cut
        assert np.isnan(cut.ref_CS).all()
        for view, ids in whole.completions.items():
            assert cut.completions[view].tolist() == ids[:budget].tolist()
        over = [ids for ids in whole.completions.values() if len(ids) > budget]
        assert over
        assert encoder.report.cut_rows == 1
        assert encoder.report.cut_responses == len(over)
        assert encoder.report.eos_lost == sum(int(ids[-1]) == 2 for ids in over)
        assert cut.length(PREFERENCE_TERMS) == longest + budget

    def test_a_prompt_that_leaves_no_room_is_dropped_all_the_same(
        self, encoder: Encoder, journal: list[JsonRow]
    ) -> None:
        assert self.of(encoder, journal[0], max_length=8, too_long="truncate") is None
        assert encoder.report.too_long == 1

    def test_a_response_that_never_ended_is_counted(
        self, encoder: Encoder, journal: list[JsonRow]
    ) -> None:
        ids = journal[0]["chosen_token_ids"]
        self.of(encoder, journal[0] | {"chosen_token_ids": ids[:-1]})
        assert encoder.report.without_eos == 1


class TestExternalRows:
    @pytest.mark.parametrize(
        ("source", "kind"),
        [
            (field.CHATML, {}),
            (field.CHATML_THINKING, {}),
            (field.LLAMA3, {"bos": True}),
            (field.GEMMA, {"bos": True}),
            (field.NO_BOS_IN_TEMPLATE, {"adds_bos": True}),
        ],
    )
    def test_prompt_and_response_are_the_conversation_up_to_its_eos(
        self, source: str, kind: dict[str, bool]
    ) -> None:
        template = template_of(source, **kind)
        row = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
        (encoded,) = encoder_of(template).encode([row])
        asked = (Message(role="user", content="Is 3 < 4?"),)
        fits = template.generation_prompts[-1]  # with thinking on, where it can be
        assert encoded.prompts["plain"].tolist() == fits.ids(asked)
        chosen = encoded.completions["good"].tolist()
        assert chosen[-1] == template.tokenizer.eos_token_id
        assert chosen.count(template.tokenizer.eos_token_id) == 1
        assert template.tokenizer.decode(chosen[:-1]) == "Yes, it is."
        assert np.isnan(encoded.ref_CS).all()

    def test_the_forms_of_a_preference_row_are_one_row(self) -> None:
        encoder = encoder_of(template_of(field.CHATML))
        forms = encoder.encode(
            [
                {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
                {"chosen": [USER, YES], "rejected": [USER, NO]},
                {"prompt": USER["content"], "chosen": YES["content"], "rejected": NO["content"]},
            ]
        )
        for row in forms[1:]:
            assert row.id == forms[0].id
            for side in (0, 1):
                for one, other in zip(
                    row.sequence("base", side), forms[0].sequence("base", side), strict=True
                ):
                    assert one.tolist() == other.tolist()

    def test_our_exported_text_gives_the_sampled_ids(
        self, encoder: Encoder, journal: list[JsonRow]
    ) -> None:
        """Without its token ids, a row of the tiny policy (exact text <-> ids) comes out alike."""
        names = ("prompt", "chosen", "rejected")
        pairs_only = replace(encoder, terms=("base",))
        for row in journal[:20]:
            (own,) = pairs_only.encode([row])
            (external,) = pairs_only.encode([{name: row[name] for name in names}])
            for side in (0, 1):
                for one, other in zip(
                    own.sequence("base", side), external.sequence("base", side), strict=True
                ):
                    assert one.tolist() == other.tolist()

    def test_sso_says_what_it_lacks(self) -> None:
        encoder = encoder_of(template_of(field.CHATML), PREFERENCE_TERMS)
        with pytest.raises(InputError, match=r"no token ids .* --objective pairs"):
            encoder.encode([{"prompt": [USER], "chosen": [YES], "rejected": [NO]}])

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ({"prompt": [USER], "chosen": [YES]}, "row 1: no column 'rejected'"),
            ({"chosen": [YES], "rejected": [NO]}, "has no prompt"),
            ({"prompt": [USER], "chosen": [YES], "rejected": []}, "is empty"),
            ({"prompt": [USER], "chosen": [YES], "rejected": 3}, "must be text or messages"),
            (
                {
                    "prompt": [{"role": "system", "content": "x"}, YES],
                    "chosen": [YES],
                    "rejected": [NO],
                },
                "its prompt cannot be answered: no user turn has text",
            ),
        ],
    )
    def test_bad_rows_are_named(self, row: JsonRow, says: str) -> None:
        with pytest.raises(InputError, match=says):
            encoder_of(template_of(field.GEMMA, bos=True)).encode([row])


def test_steering_replaces_the_system_message(encoder: Encoder, journal: list[JsonRow]) -> None:
    row = journal[0]
    messages = (Message(role="user", content=row["prompt"][0]["content"]),)
    (encoded,) = encoder.encode([row])
    expected = encoder.template.ids(with_system(messages, row["system_good"]))
    assert encoded.prompts["good"].tolist() == expected
