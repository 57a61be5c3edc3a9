"""From prompts to rows: `generate`, `preview`, `retry`, `merge`."""
