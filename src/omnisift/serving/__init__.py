"""Serving: compressed prompts inside an engine that needs their length before any encoder runs."""
