"""`export`: a run's pairs, or its answers, as files that other programs read, with a recipe."""
