"""`filter`: which rows become pairs, and why the others do not."""
