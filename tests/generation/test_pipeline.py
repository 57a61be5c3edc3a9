"""The pipeline: nothing lost, order without influence, the log-prob check, failures by name."""

from dataclasses import replace
from typing import Any

import pytest

from sso_data.config.run import EngineConfig, RunConfig, load_config
from sso_data.core.records import (
    ALL_CELLS,
    NEEDED_CELLS,
    ON_VIEW,
    VIEWS,
    Message,
    Row,
    content_hash,
    derive_seed,
    hash_ids,
)
from sso_data.engines.interface import EngineInfo, Request, SampleRequest, ScoreRequest
from sso_data.generation.generate import _resume_promise
from sso_data.generation.logprob_check import CheckResult
from sso_data.prompts import BadRow
from sso_data.prompts.rows import unanswerable
from tests.generation.scripted import TEMPLATE, Memory, ScriptedEngine, candidate, run

PROMPTS = [candidate(f"Question {index}?") for index in range(20)]


def by_id(memory: Memory) -> dict[str, Row]:
    return {row.id: row for row in memory.rows}


def kind(request: Request) -> str:
    return "sample" if isinstance(request, SampleRequest) else "score"


class TestRows:
    def test_every_prompt_becomes_a_row(self) -> None:
        memory = run(PROMPTS)
        assert {row.messages for row in memory.rows} == {c.messages for c in PROMPTS}
        assert not memory.failures

    def test_a_row_holds_eight_cells_and_everything_it_came_from(self) -> None:
        row = run(PROMPTS[:1]).rows[0]
        assert set(row.logp) == set(NEEDED_CELLS)
        rendered = TEMPLATE.views(
            row.messages,
            row.system["good"].partition("\n\n")[2],
            row.system["bad"].partition("\n\n")[2],
        )
        for view in VIEWS:
            assert row.prompt_hash[view] == hash_ids(rendered.ids[view])
            assert row.seed[view] == derive_seed(0, row.id, view)
        assert row.logp["plain", "good"] == -len(rendered.ids["plain"])
        assert row.logp["good", "bad"] == -len(rendered.ids["good"])
        assert row.logp["good", "good"] == -3.0, "on-view log-probs are from sampling"
        assert row.mean("good", "good") == -1.0

    def test_the_ninth_cell_on_demand(self) -> None:
        row = run(PROMPTS[:1], config=load_config(settings=["scoring.full=true"])).rows[0]
        assert set(row.logp) == set(ALL_CELLS)

    def test_neither_order_nor_engine_size_changes_a_row(self) -> None:
        rows = by_id(run(PROMPTS))
        shuffled = run(PROMPTS[::-1], ScriptedEngine(order=7, max_in_flight=2))
        assert by_id(shuffled) == rows

    def test_duplicates_keep_their_own_identity_and_seeds(self) -> None:
        memory = run([PROMPTS[0]] * 3)
        content = content_hash(PROMPTS[0].messages)
        assert set(by_id(memory)) == {f"{content}-{number}" for number in range(3)}
        assert len({row.seed["plain"] for row in memory.rows}) == 3

    def test_input_columns_travel_along(self) -> None:
        row = run([candidate("Why?", source_id="mine", metadata='{"a": 1}')]).rows[0]
        assert (row.source_id, row.metadata) == ("mine", '{"a": 1}')

    def test_what_is_done_is_not_asked_again(self) -> None:
        done = run(PROMPTS[:5])
        engine = ScriptedEngine()
        memory = run(PROMPTS, engine, memory=Memory(closed=set(by_id(done))))
        assert len(memory.rows) == 15
        asked = {request.key.partition("/")[0] for request in engine.requests}
        assert asked == set(by_id(memory))


class TestFlow:
    def test_many_rows_are_in_flight_together(self) -> None:
        engine = ScriptedEngine(max_in_flight=12)
        run(PROMPTS, engine)
        assert engine.most_waiting >= 24

    def test_no_more_than_the_window_is_taken_from_the_source(self) -> None:
        engine = ScriptedEngine(max_in_flight=6)
        run(PROMPTS * 20, engine)
        assert engine.most_waiting <= 2 * 6 + 3 + 9 * 4

    def test_scores_are_asked_for_as_soon_as_a_response_is_there(self) -> None:
        engine = ScriptedEngine(max_in_flight=3)
        run(PROMPTS, engine)
        kinds = [kind(request) for request in engine.requests]
        assert kinds.index("score") < len(kinds) - 1 - kinds[::-1].index("sample")

    def test_five_scores_a_row_after_the_check(self) -> None:
        engine = ScriptedEngine()
        run(PROMPTS, engine, earlier=agreed(True))
        scores = [r for r in engine.requests if isinstance(r, ScoreRequest)]
        assert len(scores) == 5 * len(PROMPTS)

    def test_nothing_to_do_starts_no_engine(self) -> None:
        def never(*_: object) -> Any:
            raise AssertionError("called")

        memory = Memory(closed=set(by_id(run(PROMPTS))))
        from sso_data.generation.logprob_check import LogprobCheck
        from sso_data.generation.pipeline import Pipeline
        from tests.generation.scripted import POLICY

        config = RunConfig()
        check = LogprobCheck(config.scoring)
        pipeline = Pipeline(never, POLICY, never, config, memory, check=check)
        assert [progress.skipped for progress in pipeline.run(PROMPTS)] == [20]


def agreed(yes: bool) -> dict[str, Any]:
    return {"rows": 8, "worst_nats_per_token": 0.0, "tolerance": 0.01, "agreed": yes}


class TestLogprobCheck:
    """The on-view log-prob is -3 at sampling time; what scoring says of it decides."""

    @staticmethod
    def scored(on_view: float) -> ScriptedEngine:
        def score(request: Request) -> float:
            _, seen, drawn = request.key.split("/")
            return on_view if seen == drawn else -20.0

        return ScriptedEngine(scores=score)

    def test_agreement_is_recorded_and_the_sampled_values_are_used(self) -> None:
        checks: list[CheckResult] = []
        memory = run(PROMPTS, self.scored(-3.003), checks=checks)
        (result,) = checks
        assert result.agreed
        assert result.rows == 8
        assert result.worst_nats_per_token == pytest.approx(0.001)
        assert {row.logp[cell] for row in memory.rows for cell in ON_VIEW} == {-3.0}

    def test_disagreement_scores_every_row_the_first_ones_too(self) -> None:
        checks: list[CheckResult] = []
        memory = run(PROMPTS, self.scored(-4.5), checks=checks)
        assert not checks[0].agreed
        assert checks[0].worst_nats_per_token == pytest.approx(0.5)
        assert len(memory.rows) == len(PROMPTS)
        assert {row.logp[cell] for row in memory.rows for cell in ON_VIEW} == {-4.5}

    def test_an_earlier_decision_is_kept(self) -> None:
        checks: list[CheckResult] = []
        memory = run(PROMPTS, self.scored(-4.5), earlier=agreed(False), checks=checks)
        assert not checks
        assert {row.logp[cell] for row in memory.rows for cell in ON_VIEW} == {-4.5}

    def test_fewer_rows_than_it_wants_are_enough(self) -> None:
        checks: list[CheckResult] = []
        memory = run(PROMPTS[:3], checks=checks, engine=self.scored(-3.0))
        assert (checks[0].rows, len(memory.rows)) == (3, 3)

    def test_rows_held_for_it_are_bounded(self) -> None:
        """One verifying response takes very long: the others must not pile up unwritten."""
        slow = f"{content_hash(PROMPTS[0].messages)}-0/plain"
        engine = ScriptedEngine(max_in_flight=6, slow=slow)
        prompts = [*PROMPTS, *(candidate(f"More {index}?") for index in range(400))]
        memory = run(prompts, engine)
        assert len(memory.rows) == 420
        assert engine.rows_asked_before_slow <= 2 * 6 // 3 + 8 + 6

    def test_it_can_be_switched_off(self) -> None:
        engine = ScriptedEngine()
        memory = run(PROMPTS, engine, load_config(settings=["scoring.verify_rows=0"]))
        assert len(memory.rows) == len(PROMPTS)
        assert sum(kind(request) == "score" for request in engine.requests) == 5 * len(PROMPTS)

    def test_rows_that_fail_while_it_runs_are_replaced(self) -> None:
        content = [content_hash(prompt.messages) for prompt in PROMPTS[:8]]
        engine = ScriptedEngine(refuses=lambda key: any(c in key for c in content))
        checks: list[CheckResult] = []
        memory = run(PROMPTS, engine, checks=checks)
        assert (len(memory.rows), len(memory.failures)) == (12, 8)
        assert checks[0].rows >= 8 or checks[0].rows == 12

    def test_if_only_held_rows_are_left_they_are_verified(self) -> None:
        """Every verifying row fails after the last prompt was taken."""
        first = [content_hash(prompt.messages) for prompt in PROMPTS[:8]]

        def refuses(key: str) -> bool:
            return key.count("/") == 2 and any(content in key for content in first)

        checks: list[CheckResult] = []
        engine = ScriptedEngine(refuses=refuses, max_in_flight=100)
        memory = run(PROMPTS, engine, checks=checks)
        assert (len(memory.rows), len(memory.failures)) == (12, 8)
        assert checks[0].rows > 0


class TestFailures:
    def test_a_refused_request_fails_its_row_only(self) -> None:
        bad = content_hash(PROMPTS[3].messages)
        engine = ScriptedEngine(refuses=lambda key: key == f"{bad}-0/good")
        memory = run(PROMPTS, engine)
        (failure,) = memory.failures
        assert (failure.id, failure.stage, failure.reason) == (
            f"{bad}-0",
            "sample",
            "engine_refused",
        )
        assert (failure.detail, failure.messages) == ("not today", PROMPTS[3].messages)
        assert len(memory.rows) == 19

    def test_a_refused_score_too(self) -> None:
        bad = content_hash(PROMPTS[3].messages)
        engine = ScriptedEngine(refuses=lambda key: key == f"{bad}-0/plain/good")
        (failure,) = run(PROMPTS, engine).failures
        assert (failure.stage, failure.reason) == ("score", "engine_refused")

    def test_a_prompt_longer_than_the_context(self) -> None:
        memory = run([*PROMPTS, candidate("word " * 600)], ScriptedEngine(context_tokens=900))
        (failure,) = memory.failures
        assert (failure.stage, failure.reason) == ("sample", "prompt_too_long")
        assert "the context 900" in failure.detail

    def test_the_completion_budget_is_the_same_for_all_views(self) -> None:
        engine = ScriptedEngine(context_tokens=900)
        run(PROMPTS[:1], engine)
        samples = [r for r in engine.requests if isinstance(r, SampleRequest)]
        longest = max(len(request.prompt_ids) for request in samples)
        assert {request.max_tokens for request in samples} == {900 - longest}

    def test_bad_rows_of_the_source_are_accounted_for(self) -> None:
        bad = BadRow(where="prompts.jsonl:17", raw="{", detail="not JSON")
        memory = run([*PROMPTS, bad, bad])
        assert [failure.reason for failure in memory.failures] == ["malformed"] * 2
        assert memory.failures[0].detail == "prompts.jsonl:17: not JSON"
        assert memory.failures[0].id != memory.failures[1].id

    @pytest.mark.parametrize(
        ("turns", "reason"),
        [
            ([("user", "  \n")], "blank_prompt"),
            ([("system", "Be kind.")], "blank_prompt"),
            ([("user", "Hi"), ("assistant", "Hello")], "ends_with_assistant"),
            ([("user", "Hi"), ("assistant", "Hello"), ("user", " ")], "blank_prompt"),
            ([], "blank_prompt"),
        ],
    )
    def test_prompts_that_ask_nothing(self, turns: list[tuple[str, str]], reason: str) -> None:
        messages = tuple(Message(role=role, content=content) for role, content in turns)
        problem = unanswerable(messages)
        assert problem is not None
        assert problem[0] == reason
        memory = run([replace(PROMPTS[0], messages=messages)])
        assert [failure.reason for failure in memory.failures] == [reason]

    def test_a_conversation_that_ends_with_the_user_is_fine(self) -> None:
        turns = (
            Message(role="system", content="Be kind."),
            Message(role="user", content="Hi"),
            Message(role="assistant", content="Hello"),
            Message(role="user", content="Why?"),
        )
        assert unanswerable(turns) is None


@pytest.mark.parametrize(
    ("name", "device", "dtype", "threads", "promise"),
    [
        ("vllm", "cpu", "float32", 1, "same tokens"),
        ("vllm", "cpu", "float32", None, "same ids"),
        ("vllm", "cpu", "bfloat16", 1, "same ids"),
        ("vllm", "cuda", "float32", 1, "same ids"),
        ("vllm", "server", "server", 1, "same ids"),
        ("transformers", "cpu", "float32", 1, "same ids"),
    ],
)
def test_run_json_says_what_several_engines_and_interruptions_may_change(
    name: str, device: str, dtype: str, threads: int | None, promise: str
) -> None:
    info = EngineInfo(
        name=name,
        version="1",
        device=device,
        dtype=dtype,
        context_tokens=1,
        max_in_flight=1,
        engines=2,
    )
    assert _resume_promise(info, EngineConfig(threads=threads)).startswith(promise)
