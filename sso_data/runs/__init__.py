"""What lies in a run directory: the journal, its side file, failures, pairs; every write."""
