"""Serving: compressed prompts inside an engine that needs their length before it sees an embedding."""
