"""OmniSIFT: run audio-video language models at a quarter of their tokens."""
