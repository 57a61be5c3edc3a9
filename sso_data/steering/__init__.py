"""Principles: files, rules and models that choose and write them, and how well they work."""
