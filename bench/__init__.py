"""Benchmarks, and what they share with tests of whole processes. `python -m bench` runs the short forms."""
