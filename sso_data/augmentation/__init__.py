"""New queries from seed queries."""
