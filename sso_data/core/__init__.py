"""Records, errors, progress, YAML, templates, paths: what every other room uses."""
