"""Ranges of activations by modality, and fake-quantised evaluation with scales from them (docs/small-machines.md)."""

from omnisift.calibration.fake_quantization import fake_quantized
from omnisift.calibration.ranges import calibrate
from omnisift.calibration.scales import Scales

__all__ = ["Scales", "calibrate", "fake_quantized"]
