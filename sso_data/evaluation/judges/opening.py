"""The judge that a configuration means, and who it is."""

from collections.abc import Callable
from typing import Any

from sso_data.config.judging import FORMS, JudgeConfig
from sso_data.core.errors import ConfigError
from sso_data.core.jinja import Templates
from sso_data.core.naming import public_name
from sso_data.evaluation.judges.function import FunctionJudge, function_fingerprint
from sso_data.evaluation.judges.verdicts import Judge
from sso_data.models.directory import model_fingerprint, resolve_model

TEMPLATE = "judge.j2"
"""How a chat model is asked."""

_OF_KIND = {
    "reward": ("engine.dtype", "engine.max_model_len", "views.template_kwargs"),
    "llm": ("temperature", "max_tokens", "structured", "views.template_kwargs"),
}


def open_judge(config: JudgeConfig, *, tell: Callable[[str], None] = lambda line: None) -> Judge:
    """The judge, ready to compare; its owner closes it. Models are loaded here, which takes time.

    `tell` is given one line when something goes wrong and the work goes on. Raises SsoDataError.
    """
    match config.kind:
        case "oracle":
            from sso_data.evaluation.judges.oracle import Oracle

            return Oracle()
        case "reward":
            from sso_data.evaluation.judges.reward import RewardJudge

            return RewardJudge(config)
        case "llm":
            from sso_data.evaluation.judges.llm import open_llm

            return open_llm(config, tell=tell)
        case "python":
            assert config.callable is not None
            return FunctionJudge(config.callable)
        case "none":
            raise ConfigError(f"no judge given: add --judge {FORMS}")


def judge_identity(config: JudgeConfig) -> dict[str, Any]:
    """Who judges: everything that decides a verdict, flat, without loading a model.

    Also checks that the judge is there: raises SsoDataError where its model, function or template
    is not.
    """
    dumped = config.model_dump(mode="json")
    found: dict[str, Any] = {"kind": config.kind}
    for name in _OF_KIND.get(config.kind, ()):
        section, _, key = name.rpartition(".")
        found[name] = dumped[section][key] if section else dumped[key]
    if config.kind == "llm":
        templates = Templates(directory=config.templates)
        templates.check()
        found["template"] = templates.fingerprint(TEMPLATE)
    if config.kind == "python":
        assert config.callable is not None
        found["callable"] = config.callable
        found["source"] = function_fingerprint(config.callable)
    elif config.model and config.endpoint:
        found["model"] = f"{config.model}@{config.endpoint}"
    elif config.model:
        directory = resolve_model(config.model, config.loading.revision)
        found["model"] = f"{public_name(config.model)}@{model_fingerprint(directory)}"
    return found
