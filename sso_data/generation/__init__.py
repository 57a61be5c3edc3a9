"""`generate`, `preview`, `retry`, `merge`: prompts to rows."""
