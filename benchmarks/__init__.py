"""Paired measurements against peers and limits: one file per claim, `python -m benchmarks.<file>`."""
