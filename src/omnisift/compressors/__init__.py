"""Compression methods: one file per method, none of which knows a model."""

from __future__ import annotations

from omnisift.compressors.a_pack import APackCompressor
from omnisift.compressors.attended import AttendedCompressor
from omnisift.compressors.base import Compressor, ScoredCompressor
from omnisift.compressors.divprune import DivPruneCompressor
from omnisift.compressors.dycoke import DyCokeCompressor
from omnisift.compressors.evs import EvsCompressor
from omnisift.compressors.gleanvid import GleanVidCompressor
from omnisift.compressors.joint import JointCompressor
from omnisift.compressors.omnifocus import OmniFocusCompressor
from omnisift.compressors.omnipack import OmniPackCompressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.omnizip import OmniZipCompressor
from omnisift.compressors.paired import Paired, ScoredVideoCompressor, VideoCompressor
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.registry import (
    COMPRESSORS,
    DEFAULT,
    FULL,
    check_named,
    check_selector,
    make_compressor,
    needs_selector,
    reads_all_tokens,
    register,
    resolve_method,
)
from omnisift.compressors.resift import ReSiftCompressor
from omnisift.compressors.routed import RoutedCompressor
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.seats import SeatsCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.compressors.tome import TomeCompressor
from omnisift.compressors.tracks import SubtitleTrack, Track
from omnisift.compressors.uniform import UniformCompressor
from omnisift.compressors.v_cast import VCastCompressor
from omnisift.compressors.vidcom2 import VidCom2Compressor
from omnisift.compressors.visionzip import VisionZipCompressor
from omnisift.ops.groups import Groups, Scope, group

__all__ = [
    "COMPRESSORS",
    "DEFAULT",
    "FULL",
    "APackCompressor",
    "AttendedCompressor",
    "Compressor",
    "DivPruneCompressor",
    "DyCokeCompressor",
    "EvsCompressor",
    "GleanVidCompressor",
    "Groups",
    "JointCompressor",
    "OmniFocusCompressor",
    "OmniPackCompressor",
    "OmniSiftCompressor",
    "OmniZipCompressor",
    "Paired",
    "RandomCompressor",
    "ReSiftCompressor",
    "RoutedCompressor",
    "SalientCompressor",
    "Scope",
    "ScoredCompressor",
    "ScoredVideoCompressor",
    "SeatsCompressor",
    "StvpCompressor",
    "SubtitleTrack",
    "TomeCompressor",
    "Track",
    "UniformCompressor",
    "VCastCompressor",
    "VidCom2Compressor",
    "VideoCompressor",
    "VisionZipCompressor",
    "check_named",
    "check_selector",
    "group",
    "make_compressor",
    "needs_selector",
    "reads_all_tokens",
    "register",
    "resolve_method",
]
