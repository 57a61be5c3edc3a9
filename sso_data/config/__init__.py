"""Configuration of every command, declared once and frozen; recipes; the migration table."""
