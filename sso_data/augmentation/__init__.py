"""`augment`: new queries from seed queries, checked, without duplicates."""
