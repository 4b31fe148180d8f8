"""Published audio-video benchmarks, run by lmms-eval: rows, prompts, answer rules, scores and reports."""
