"""Checks and measurements of the library on one machine, with random weights of real dimensions."""
