"""Work directories: manifest, lock, journal, scores, pairs; every write to disk."""
