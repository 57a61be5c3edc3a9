"""Completions: engines and endpoints that answer messages with text."""
