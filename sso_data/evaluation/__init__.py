"""`eval`: a model against the one it started from, on prompts that neither was trained on."""

from sso_data.config.evaluation import EvalConfig, load_eval_config
from sso_data.evaluation.result import Evaluation
from sso_data.evaluation.run import Listener, evaluate

__all__ = ["EvalConfig", "Evaluation", "Listener", "evaluate", "load_eval_config"]
