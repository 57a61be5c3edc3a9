"""Which rows become pairs."""
