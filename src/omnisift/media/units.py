"""The units of decoded clips: samples per second, and images per frame of the token grid."""

SAMPLE_RATE = 16_000
"""Samples per second of every waveform: the rate of the audio encoder's feature extractor."""

TEMPORAL_PATCH = 2
"""Images per frame of the token grid; the number of images is always a multiple of it."""

MAX_CODED_PIXELS = 8192 * 4320
"""Largest coded image, in pixels: with one such image swscale and the decoder stay within about 450 MB."""
