"""Recognise a file by its first bytes: to explain a refusal, and to find media with another suffix."""

from __future__ import annotations

from omnisift.errors import Blocked, Damaged, MediaError, NotMedia

# Playlists can name other files and hosts, so no format that is a list of references is allowed. None of these demuxers
# opens another file or host (FFmpeg 5.1, `io_open` and `avformat_open_input` in its sources). Bare streams of video
# (.h264, .m2v) are left out: they have no time stamps.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,mxf,dv,rm,ivf,yuv4mpegpipe,gif,"
    "wav,w64,aiff,caf,au,mp3,aac,ac3,eac3,amr,flac,ogg,wv"
)
"""Demuxers that are allowed, by FFmpeg's names."""

_REFERENCES = (
    b"#extm3u", b"ffconcat", b"[playlist]", b"[reference]", b"v=0\r", b"v=0\n", b"rtsptext", b"smiltext",
    b"http://", b"https://", b"rtsp://", b"mms://", b"file://",
)  # fmt: skip
_REFERENCE_TAGS = (b"<mpd", b"<asx", b"<smil", b"<playlist", b"<?wpl", b"<?quicktime", b"<smoothstreamingmedia")
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_CONTAINERS = (
    b"\x1aE\xdf\xa3", b"OggS", b"fLaC", b"ID3", b"GIF8", b"FLV\1", b"#!AMR", b"caff\0\1", b".RMF\0", b".ra\xfd",
    b"DKIF", b"YUV4MPEG2 ", b"wvpk", b".snd\0", b"\0\0\1\xba",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",  # ASF
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02",  # MXF
    b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",  # Wave64
)  # fmt: skip
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_STILL_BRANDS = (b"avif", b"heic", b"heix", b"mif1")
_SYNC_WORDS = (b"G@", b"\x0b\x77", b"\xff\xf1", b"\xff\xf9", b"\xff\xfb", b"\x1f\x07\x00")
"""MPEG-TS, AC-3, ADTS, MP3 and DV: too short to tell media from chance."""


def looks_like_media(head: bytes) -> bool:
    """Whether a file that begins with ``head`` has the mark of a format that `omnisift.media.read` takes."""
    if head[:4] == b"RIFF":
        return head[8:12] in (b"AVI ", b"WAVE")
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    if head[4:8] in _BOXES:
        return head[8:12] not in _STILL_BRANDS
    # The packets of a transport stream have 188 bytes, and each begins with the same byte.
    return head.startswith(_CONTAINERS) or head[:377:188] == b"GGG"


def refusal(head: bytes) -> MediaError:
    """The error that fits the first bytes of a file that FFmpeg refused. Its own text may contain addresses."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return NotMedia("is empty (0 bytes); give a media file")
    if start.startswith(_REFERENCES) or any(tag in head.lower() for tag in _REFERENCE_TAGS):
        return Blocked("is a list that refers to other files; give the media file itself")
    if start[:1] == b"<":
        return NotMedia("is a web page or XML, not media; check whether its download needs a login")
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return NotMedia("is an image file; give a video or audio file")
    if looks_like_media(head) or head.startswith(_SYNC_WORDS) or head[:4] == b"RIFF":
        return Damaged("begins like media but is truncated or broken; get a complete copy of the file")
    return NotMedia(f"is not recognised by any decoder; allowed formats are {FORMATS}")
