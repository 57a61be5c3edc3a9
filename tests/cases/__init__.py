"""Inputs as people have them, after public reports, and the models that go with them."""
