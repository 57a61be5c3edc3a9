"""`generate`, `preview`, `retry`, `complete`, `merge`: prompts to rows."""
