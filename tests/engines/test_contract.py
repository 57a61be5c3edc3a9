"""What every engine promises, asked of vLLM, transformers and transformers in a child process."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from sso_data.engines.interface import Engine, Refused, Sampled, Scored
from tests.engines.calls import ask, collect, many_samples, random_prompt, sample, score
from tests.engines.conftest import CONTEXT, EOS_IDS, VOCAB


def true_logprobs(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
    """Full softmax at every position of one unpadded sequence: the definition itself."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        nats = model(input_ids=ids).logits[0].log_softmax(-1)
    first = len(prompt)
    return [float(nats[first + i - 1, token]) for i, token in enumerate(completion)]


def test_info_says_what_the_engine_is(engine: Engine) -> None:
    info = engine.info
    assert info.name in ("vllm", "transformers")
    assert (info.device, info.dtype, info.max_in_flight) == ("cpu", "float32", 32)
    assert info.context_tokens == CONTEXT - (info.name == "vllm")
    assert info.version


def test_the_same_request_gives_the_same_tokens(engine: Engine) -> None:
    first = ask(engine, [sample("a"), sample("b")])
    assert first["a"].token_ids == first["b"].token_ids
    again = ask(engine, [sample("a"), sample("other seed", seed=8)])
    assert again["a"].token_ids == first["a"].token_ids
    assert again["a"].total_nats == pytest.approx(first["a"].total_nats, abs=1e-3)
    assert again["other seed"].token_ids != first["a"].token_ids


def test_order_and_company_do_not_change_a_request(engine: Engine) -> None:
    requests = many_samples(48)
    together = ask(engine, requests)
    shuffled = list(requests)
    random.Random(1).shuffle(shuffled)
    reordered = ask(engine, shuffled)
    alone: dict[str, Any] = {}
    for request in requests[::6]:
        alone |= ask(engine, [request])
    for key, result in together.items():
        assert reordered[key].token_ids == result.token_ids
        assert reordered[key].total_nats == pytest.approx(result.total_nats, abs=1e-3)
    for key, result in alone.items():
        assert result.token_ids == together[key].token_ids


def test_requests_may_come_while_others_are_under_way(engine: Engine) -> None:
    requests = many_samples(40)
    expected = ask(engine, requests)
    engine.submit(requests[:20])
    early = engine.step()
    engine.submit(requests[20:])
    late = collect(engine, 40 - len(early))
    for result in [*early, *late.values()]:
        assert result.token_ids == expected[result.key].token_ids


def test_the_end_of_sequence_id_is_kept_and_counted(engine: Engine, plain_model: Any) -> None:
    results = ask(engine, many_samples(32, max_tokens=60, temperature=1.0, top_p=1.0))
    stopped = [r for r in results.values() if r.finish_reason == "stop"]
    assert len(stopped) > 10
    assert len({r.token_ids[-1] for r in stopped}) > 2, "all end ids of the generation config count"
    for result in stopped:
        assert result.token_ids[-1] in EOS_IDS
        assert not set(result.token_ids[:-1]) & set(EOS_IDS)
    prompts = {r.key: r.prompt_ids for r in many_samples(32)}
    for result in stopped[:4]:
        expected = true_logprobs(plain_model, tuple(prompts[result.key]), result.token_ids)
        assert result.total_nats == pytest.approx(sum(expected), abs=1e-4 * len(expected))


def test_length_is_the_other_way_to_end(engine: Engine) -> None:
    results = ask(engine, many_samples(32, max_tokens=5))
    cut = [r for r in results.values() if r.finish_reason == "length"]
    assert cut
    for result in cut:
        assert len(result.token_ids) == 5
        assert result.token_ids[-1] not in EOS_IDS


def test_sampling_log_probs_equal_scored_ones(engine: Engine) -> None:
    requests = {request.key: request for request in many_samples(24)}
    sampled = ask(engine, list(requests.values()))
    scored = ask(
        engine, [score(k, requests[k].prompt_ids, r.token_ids) for k, r in sampled.items()]
    )
    for key, result in sampled.items():
        tolerance = 1e-4 * len(result.token_ids)
        assert scored[key].total_nats == pytest.approx(result.total_nats, abs=tolerance)


def test_scores_equal_a_full_softmax(engine: Engine, plain_model: Any) -> None:
    rng = random.Random(11)
    requests = [
        score(f"c{i}", random_prompt(rng), random_prompt(rng, longest=40)) for i in range(24)
    ]
    results = ask(engine, requests)
    for request in requests:
        expected = true_logprobs(
            plain_model, tuple(request.prompt_ids), tuple(request.completion_ids)
        )
        result = results[request.key]
        assert isinstance(result, Scored) and result.total_nats < 0
        assert result.total_nats == pytest.approx(sum(expected), abs=1e-4 * len(expected))


def test_each_tokens_log_prob_on_demand(engine: Engine, plain_model: Any) -> None:
    prompt = (1, 40, 41)
    asked = ask(engine, [sample("a", per_token=True), sample("b")])
    drawn = asked["a"].token_ids
    expected = true_logprobs(plain_model, prompt, drawn)
    again = replace(score("c", prompt, drawn), was_sampled=True, per_token=True)
    other = replace(score("d", (1, 50), drawn), per_token=True)
    scores = ask(engine, [again, other, score("e", prompt, drawn)])
    assert asked["a"].nats == pytest.approx(expected, abs=1e-3)
    assert scores["c"].nats == pytest.approx(expected, abs=1e-3)
    assert scores["d"].nats == pytest.approx(true_logprobs(plain_model, (1, 50), drawn), abs=1e-3)
    assert sum(scores["d"].nats) == pytest.approx(scores["d"].total_nats, abs=1e-6)
    assert asked["b"].nats == scores["e"].nats == (), "only where it was asked for"


def test_scores_do_not_depend_on_what_was_scored_before(engine: Engine) -> None:
    """Prefixes stay in a cache; a prompt that ends inside a cached completion must not matter."""
    rng = random.Random(12)
    ids = tuple(rng.randrange(30, VOCAB) for _ in range(150))
    whole = ask(engine, [score("whole", ids[:1], ids[1:])])["whole"].total_nats
    again = ask(engine, [score("again", ids[:1], ids[1:])])["again"].total_nats
    assert again == pytest.approx(whole, abs=1e-3)
    for cut in (31, 32, 33, 64, 100, 149):
        parts = ask(
            engine, [score("head", ids[:1], ids[1:cut]), score("tail", ids[:cut], ids[cut:])]
        )
        total = parts["head"].total_nats + parts["tail"].total_nats
        assert total == pytest.approx(whole, abs=1e-3)


def test_a_tiny_nucleus_is_greedy(engine: Engine, plain_model: Any) -> None:
    results = ask(engine, [sample("p", top_p=1e-6, temperature=1.0), sample("t", temperature=0.0)])
    ids = [1, 40, 41]
    for _ in range(24):
        with torch.no_grad():
            ids.append(int(plain_model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in EOS_IDS:
            break
    assert results["p"].token_ids == results["t"].token_ids == tuple(ids[3:])


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "min_p"),
    [
        *((0.7, 0.8, 0, 0.0), (1.3, 1.0, 0, 0.0), (1.3, 1.0, 5, 0.0), (1.3, 1.0, 0, 0.3)),
        *((1.3, 0.8, 12, 0.0), (1.3, 0.9, 300, 0.1), (2.0, 0.7, 8, 0.2)),
    ],
)
def test_draws_follow_their_settings(
    engine: Engine, plain_model: Any, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    draws = 800
    settings: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
    settings |= {"top_k": top_k, "min_p": min_p, "max_tokens": 1}
    results = ask(engine, [sample(f"d{i}", seed=i, **settings) for i in range(draws)])
    with torch.no_grad():
        logits = plain_model(input_ids=torch.tensor([[1, 40, 41]])).logits[0, -1]
    probs = (logits / temperature).softmax(-1).double()
    mass, order = probs.sort(descending=True)
    mass[mass < min_p * mass[0]] = 0
    mass[top_k or VOCAB :] = 0
    mass /= mass.sum()
    kept = int(((mass.cumsum(-1) - mass < top_p) & (mass > 0)).sum())
    expected = dict(
        zip(order[:kept].tolist(), (mass[:kept] / mass[:kept].sum()).tolist(), strict=True)
    )
    counts = Counter(result.token_ids[0] for result in results.values())
    assert set(counts) <= set(expected)
    assert_follows(counts, expected, draws)
    raw = logits.log_softmax(-1)
    for result in results.values():
        assert result.total_nats == pytest.approx(float(raw[result.token_ids[0]]), abs=1e-4)


def assert_follows(counts: Counter[int], expected: dict[int, float], draws: int) -> None:
    """Pearson's chi-square; tokens expected fewer than five times are counted as one."""
    rare = [token for token, share in expected.items() if share * draws < 5]
    cells = [(counts[t], share * draws) for t, share in expected.items() if t not in rare]
    if rare:
        cells.append((sum(counts[t] for t in rare), sum(expected[t] for t in rare) * draws))
    freedom = len(cells) - 1
    assert freedom >= 2, "the model must leave a choice"
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells)
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 4


def test_bad_requests_are_refused_and_the_others_go_on(engine: Engine) -> None:
    room = engine.info.context_tokens
    results = ask(
        engine,
        [
            sample("good"),
            sample("too long", (5,) * room, max_tokens=1),
            sample("fits", (5,) * (room - 2), max_tokens=2),
            sample("no prompt", ()),
            sample("no room", max_tokens=0),
            sample("strange id", (1, VOCAB)),
            sample("top_k below 0", top_k=-1),
            sample("min_p above 1", min_p=1.5),
            score("no completion", (1, 5), ()),
            score("score too long", (5,) * room, (6,)),
            score("score fits", (5,) * (room - 1), (6,)),
            score("negative id", (1, 5), (-1,)),
        ],
    )
    assert isinstance(results["good"], Sampled)
    assert isinstance(results["fits"], Sampled)
    assert isinstance(results["score fits"], Scored)
    refused = {key for key, result in results.items() if isinstance(result, Refused)}
    assert refused == set(results) - {"good", "fits", "score fits"}
    assert str(room) in results["too long"].detail


def test_results_stream(engine: Engine) -> None:
    """A short request's result is there long before a long one's that was submitted first."""
    requests = [sample("long", max_tokens=200, temperature=0.1), *many_samples(8, max_tokens=2)]
    engine.submit(requests)
    order: list[str] = []
    while len(order) < len(requests):
        order += [result.key for result in engine.step()]
    assert set(order[:8]) == {f"s{i}" for i in range(8)}


def test_keys_are_unique_until_answered(engine: Engine) -> None:
    engine.submit([sample("a")])
    with pytest.raises(ValueError, match="same key"):
        engine.submit([sample("a")])
    collect(engine, 1)
    assert set(ask(engine, [sample("a")])) == {"a"}
    with pytest.raises(ValueError, match="same key"):
        engine.submit([sample("b"), sample("b")])


def test_an_idle_engine_answers_at_once(engine: Engine) -> None:
    engine.submit([])
    assert engine.step() == []
