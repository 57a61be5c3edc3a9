"""On-policy preference datasets without human labels: Self-Steering Optimization."""

__version__ = "0.1.0"
