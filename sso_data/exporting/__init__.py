"""`export`: a run's pairs or answers as files of other programs, each with a recipe."""
