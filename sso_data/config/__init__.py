"""Every configuration: declared once, frozen, unknown keys refused."""
