"""File name suffixes of media, lower case: the one list of what counts as a clip in a folder."""

VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m2ts", ".m4v",
    ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
AUDIO_SUFFIXES = frozenset({
    ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".amr", ".au", ".awb", ".caf", ".eac3", ".flac", ".m4a",
    ".m4b", ".mka", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".ra", ".snd", ".spx", ".w64", ".wav", ".weba", ".wma",
    ".wv",
})  # fmt: skip
MEDIA_SUFFIXES = VIDEO_SUFFIXES | AUDIO_SUFFIXES

OTHER_MEDIA_SUFFIXES = frozenset({
    ".264", ".265", ".aa", ".aax", ".ape", ".av1", ".dff", ".dsf", ".dts", ".gxf", ".h264", ".h265", ".hevc",
    ".m1v", ".m2v", ".mid", ".mjpeg", ".mjpg", ".mpc", ".nut", ".obu", ".ofr", ".shn", ".swf", ".tak", ".tta", ".voc",
    ".wtv",
})  # fmt: skip
"""Suffixes of media that `omnisift.media.read` refuses; a command that walks a folder names such files."""
