"""Benchmarks, with the parts that tests of whole processes share. `python -m bench` runs the short forms."""
