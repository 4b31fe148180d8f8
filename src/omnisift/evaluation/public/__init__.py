"""The published audio-video benchmarks: their rows, prompts, answer extractors and scores. Run by lmms-eval."""
