"""What everything stands on: records, errors, files of text, paths."""
