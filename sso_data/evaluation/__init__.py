"""`eval` and the judges: two models on held-out prompts, win rates and steering."""
