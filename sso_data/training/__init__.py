"""`train`: rows to token ids, references, the SSO loss, steps, checkpoints, the model."""
