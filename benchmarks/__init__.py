"""Benchmarks, run as ``python -m benchmarks``. See README.md beside this for the method and its biases."""
