"""Model directories: found, fingerprinted, loaded, scored."""
