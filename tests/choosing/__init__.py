"""Steering by a model: choices, written principles, the stage before sampling."""
