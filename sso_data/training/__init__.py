"""Training on preference pairs: rows to token ids, the SSO loss, references from the data."""
