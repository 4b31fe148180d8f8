"""Controlled benchmark on generated clips, published benchmarks, and their statistics."""
