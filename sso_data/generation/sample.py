"""Sampling: what is asked of the engine for one prompt, and what its answers become."""

from collections.abc import Mapping
from dataclasses import dataclass

from sso_data.config.run import SamplingConfig
from sso_data.core.records import (
    VIEWS,
    Failure,
    FinishReason,
    Prompt,
    Response,
    Steering,
    View,
    derive_seed,
)
from sso_data.engines.interface import Sampled, SampleRequest
from sso_data.templating.chat_template import ChatTemplate, RenderedViews


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """Everything that decides a prompt's three responses; `max_tokens` is the same for all."""

    prompt: Prompt
    steering: Steering
    rendered: RenderedViews
    seed: Mapping[View, int]
    max_tokens: int


def plan(
    prompt: Prompt,
    steering: Steering,
    rendered: RenderedViews,
    config: SamplingConfig,
    *,
    run_seed: int,
    context_tokens: int,
) -> SamplingPlan | Failure:
    """The plan of a prompt, or the failure `prompt_too_long`.

    The budget is min(max_tokens, context - longest of the three prompts), the same for all views,
    so that no view's response is cut off earlier than another's.
    """
    budget = min(config.max_tokens, context_tokens - rendered.longest)
    if budget < min(config.min_completion, config.max_tokens):
        return failure(
            prompt,
            stage="sample",
            reason="prompt_too_long",
            detail=f"the longest view has {rendered.longest} tokens of a context of "
            f"{context_tokens}; sampling.min_completion asks for {config.min_completion} more",
        )
    seed = {view: derive_seed(run_seed, prompt.id, view) for view in VIEWS}
    return SamplingPlan(
        prompt=prompt, steering=steering, rendered=rendered, seed=seed, max_tokens=budget
    )


def request(plan: SamplingPlan, view: View, config: SamplingConfig, *, key: str) -> SampleRequest:
    """The request for the response drawn under `view`."""
    return SampleRequest(
        key=key,
        prompt_ids=plan.rendered.ids[view],
        max_tokens=plan.max_tokens,
        seed=plan.seed[view],
        temperature=config.temperature,
        top_p=config.top_p,
    )


def response(sampled: Sampled, template: ChatTemplate) -> Response:
    """The engine's answer as a response; an unclosed thinking block is a cut-off of its own."""
    text = template.text(sampled.token_ids)
    finish: FinishReason = sampled.finish_reason
    if template.is_unclosed_thinking(text):
        finish = "unclosed_thinking"
    return Response(token_ids=sampled.token_ids, text=text, finish_reason=finish)


def failure(prompt: Prompt, *, stage: str, reason: str, detail: str) -> Failure:
    """The failure of one prompt, with everything that a retry needs."""
    return Failure(
        id=prompt.id,
        stage=stage,
        reason=reason,
        detail=detail,
        source_id=prompt.source_id,
        messages=prompt.messages,
        metadata=prompt.metadata,
    )
