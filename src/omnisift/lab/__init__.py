"""The laboratory: how nano and the benchmark's backbone are trained, and the controlled benchmark of all methods."""
