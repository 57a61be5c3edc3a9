"""Model directories: resolve, fingerprint, load, score, save."""
