"""`eval`: a model against the one it started from, on prompts that neither was trained on."""

from sso_data.evaluate.result import Evaluation
from sso_data.evaluate.run import Listener, evaluate
from sso_data.evaluate.settings import EvalConfig, load_eval_config

__all__ = ["EvalConfig", "Evaluation", "Listener", "evaluate", "load_eval_config"]
