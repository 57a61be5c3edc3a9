"""`iterate`: rounds of generating, filtering, measuring and training."""
