"""`eval` and the judges: two models on held-out prompts, win rates and steering."""

from sso_data.config.evaluation import EvalConfig, load_eval_config
from sso_data.evaluation.result import Evaluation
from sso_data.evaluation.run import Listener, evaluate

__all__ = ["EvalConfig", "Evaluation", "Listener", "evaluate", "load_eval_config"]
