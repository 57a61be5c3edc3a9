"""`eval`: a model against the one it started from, on prompts that neither was trained on."""
