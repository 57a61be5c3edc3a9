"""Judges: which of two answers to the same messages is better, and what many verdicts say."""

from sso_data.config.judging import FORMS, JudgeConfig, judge_tree
from sso_data.evaluation.judges.errors import JudgeError
from sso_data.evaluation.judges.opening import judge_identity, open_judge
from sso_data.evaluation.judges.pairs import answered, mean_score, signal_comparison
from sso_data.evaluation.judges.statistics import Rate, agreement, length_controlled, rate_of, tied
from sso_data.evaluation.judges.verdicts import Answered, Comparison, Judge, NoVerdict, Verdict

__all__ = [
    "FORMS",
    "Answered",
    "Comparison",
    "Judge",
    "JudgeConfig",
    "JudgeError",
    "NoVerdict",
    "Rate",
    "Verdict",
    "agreement",
    "answered",
    "judge_identity",
    "judge_tree",
    "length_controlled",
    "mean_score",
    "open_judge",
    "rate_of",
    "signal_comparison",
    "tied",
]
