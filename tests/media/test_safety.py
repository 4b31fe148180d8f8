"""Only files that the caller names are opened, and nothing is contacted; any bytes give a result or one typed error."""

from __future__ import annotations

import http.server
import io
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import clip_writer
import numpy as np
import pytest
from corpus import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnisift.errors import Blocked, MediaError, NotFound, NotMedia, NotReadable
from omnisift.media import Media, container, read

SMALL = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}


class Canary:
    """A server on the loopback that records each request: there must be none."""

    def __init__(self) -> None:
        requests_seen: list[str] = []
        self.requests = requests_seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests_seen.append(self.path)
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def canary() -> Iterator[Canary]:
    server = Canary()
    yield server
    server.close()


PLAYLISTS = {
    "remote.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{address}/part.ts\n#EXT-X-ENDLIST\n",
    "local.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "local.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{folder}/secret.ts\n#EXT-X-ENDLIST\n",
    "bom.m3u8": "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile secret.ts\n",
    "concat.ffconcat": "ffconcat version 1.0\nfile '{folder}/secret.ts'\n",
    "concat-remote.ts": "ffconcat version 1.0\nfile '{address}/part.ts'\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9999 RTP/AVP 96\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1" bandwidth="1"><BaseURL>{address}/part.mp4</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "redirector.asf": "[Reference]\r\nRef1={address}/part.asf\r\nRef2={folder}/secret.ts\r\n",
    "metafile.asx": '<ASX version="3.0"><Entry><Ref href="{address}/part.wmv"/></Entry></ASX>',
    "metafile.wmv": '<asx version="3.0"><entry><ref href="{address}/part.wmv"/></entry></asx>',
    "list.wpl": '<?wpl version="1.0"?><smil><body><seq><media src="{folder}/secret.ts"/></seq></body></smil>',
    "list.xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track>'
    "<location>{address}/part.mp4</location></track></trackList></playlist>",
    "show.smil": '<smil><body><video src="{address}/part.rm"/></body></smil>',
    "list.pls": "[playlist]\nFile1={address}/part.mp3\nNumberOfEntries=1\n",
    "meta.ram": "{address}/part.rm\n",
    "meta.rm": "rtsp://127.0.0.1:9/part.rm\n",
    "stream.aac": "#EXTM3U\n#EXTINF:4,\n{address}/part.aac\n",
    "stream.mpg": "ffconcat version 1.0\nfile '{address}/part.mpg'\n",
    "media.qtl": '<?xml version="1.0"?><?quicktime type="application/x-quicktime-media-link"?>'
    '<embed src="{address}/part.mov"/>',
}
MAGIC = {
    "list.flv": b"FLV\1\5\0\0\0\t\0\0\0\0",
    "list.asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "list.aiff": b"FORM\0\0\1\0AIFF",
    "list.amr": b"#!AMR\n",
    "list.caf": b"caff\0\1\0\0",
    "list.mpg": b"\0\0\1\xba",
    "list.aac": b"\xff\xf1\x50\x80",
    "list.mxf": bytes.fromhex("060e2b34020501010d010201010200"),
    "list.rm": b".RMF\0\0\0\x12",
    "list.wv": b"wvpk",
    "list.ivf": b"DKIF\0\0\x20\0VP80",
    "list.w64": b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",
}
"""The first bytes of formats, in front of a playlist."""


@pytest.mark.parametrize("name", PLAYLISTS)
def test_lists_of_references_are_refused(name: str, tmp_path: Path, canary: Canary) -> None:
    clip_writer.write(tmp_path / "secret.ts")
    text = PLAYLISTS[name].format(address=canary.address, folder=tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(Blocked, match="refers to other files"):
        read(tmp_path / name, **SMALL)
    assert canary.requests == []


@pytest.mark.parametrize("name", PLAYLISTS)
def test_lists_of_references_are_refused_in_file_objects(name: str, tmp_path: Path, canary: Canary) -> None:
    clip_writer.write(tmp_path / "secret.ts")
    text = PLAYLISTS[name].format(address=canary.address, folder=tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(Blocked, match="refers to other files"):
        read(io.BytesIO(text.encode()), **SMALL)
    with (tmp_path / name).open("rb") as file, pytest.raises(Blocked, match="refers to other files"):
        read(file, **SMALL)
    assert canary.requests == []


@pytest.mark.parametrize("name", MAGIC)
def test_lists_behind_the_first_bytes_of_a_format(name: str, tmp_path: Path, canary: Canary) -> None:
    clip_writer.write(tmp_path / "secret.ts")
    for text in PLAYLISTS.values():
        content = MAGIC[name] + text.format(address=canary.address, folder=tmp_path).encode()
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, io.BytesIO(content)):
            with suppress(MediaError):  # AMR makes a second of noise of any bytes
                read(source, **SMALL)
    assert canary.requests == []


def test_no_demuxer_opens_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all allowed formats: the hook that FFmpeg asks for other files of a file object is never called."""
    opened: list[object] = []
    monkeypatch.setattr(container, "_refuse_opening", lambda *arguments: opened.append(arguments))
    for case in CASES:
        if case.category in ("good", "formats"):
            case.make(tmp_path / case.name)
            content = (tmp_path / case.name).read_bytes()
            with suppress(MediaError):
                read(io.BytesIO(content), **SMALL)
    assert opened == []


@pytest.mark.parametrize(
    "reference",
    [
        "{address}/a.mp4",
        "{address}/a.m3u8",
        "https://127.0.0.1/a.mp4",
        "http://ok\\@127.0.0.1/a.mp4",
        "rtsp://h/a",
        "file:///{real}",
    ],
)
def test_urls_are_not_fetched(reference: str, tmp_path: Path, canary: Canary) -> None:
    clip_writer.write(tmp_path / "real.mp4")
    with pytest.raises(Blocked, match="download"):
        read(reference.format(address=canary.address, real=tmp_path / "real.mp4"))
    assert canary.requests == []


@pytest.mark.parametrize(
    "reference",
    [
        "concat:{real}|{real}",
        "subfile,,start,0,end,9,,:{real}",
        "file:{real}",
        "crypto:{real}",
        "data:video/mp4;base64,AAAA",
    ],
)
def test_protocols_of_the_decoder_are_just_names(reference: str, tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "real.mp4")
    with pytest.raises(NotFound):
        read(reference.format(real=tmp_path / "real.mp4"))


def test_a_track_in_another_file_gives_a_result_or_one_error(tmp_path: Path) -> None:
    """An mp4 whose track names another file for its data (dref without the self-contained flag)."""
    clip_writer.write(tmp_path / "real.mp4", audio=None)
    data = (tmp_path / "real.mp4").read_bytes()
    offset = clip_writer.find_boxes(data, b"url ")[0]
    clip_writer.patch(tmp_path / "real.mp4", offset, b"\0\0\0\0")
    clip_writer.patch(tmp_path / "real.mp4", offset - 4, b"alis")
    media = with_result(tmp_path / "real.mp4")
    assert media is None or media.path == tmp_path / "real.mp4"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root to change user")
def test_unreadable_as_another_user(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "locked.mp4")
    (tmp_path / "locked.mp4").chmod(0)
    child = os.fork()
    if child == 0:  # no pytest in the child: it only reports by its exit code
        os.setuid(65534)
        code = 1
        try:
            read(tmp_path / "locked.mp4")
        except NotReadable:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "locked.mp4")
    (tmp_path / "locked.mp4").chmod(0)
    with pytest.raises(NotReadable, match="permission"):
        read(tmp_path / "locked.mp4")


# --- mutated bytes ---------------------------------------------------------------------------------------------------
SEEDS = {
    "a.mp4": {"options": {"movflags": "faststart"}},
    "a.mkv": {},
    "a.ts": {},
    "a.webm": {"video": "libvpx", "audio": "libopus", "codec_options": {"deadline": "realtime", "cpu-used": "8"}},
    "a.avi": {"video": "mjpeg", "audio": "pcm_s16le", "pixels": "yuvj420p"},
    "a.wav": {"video": None, "audio": "pcm_s16le"},
    "a.flac": {"video": None, "audio": "flac"},
    "a.mp3": {"video": None, "audio": "libmp3lame"},
    "a.gif": {"video": "gif", "audio": None, "pixels": "rgb8"},
    "a.mpg": {"video": "mpeg2video", "audio": "mp2"},
    "a.flv": {},
    "a.wmv": {"video": "wmv2", "audio": "wmav2"},
    "a.mxf": {"video": "mpeg2video", "audio": "pcm_s16le"},
    "a.rm": {"video": "rv20", "audio": "ac3"},
    "a.ivf": {"video": "libvpx", "audio": None, "codec_options": {"deadline": "realtime", "cpu-used": "8"}},
    "a.aiff": {"video": None, "audio": "pcm_s16be"},
    "a.caf": {"video": None, "audio": "alac"},
    "a.aac": {"video": None},
    "a.wv": {"video": None, "audio": "wavpack"},
}


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    for name, options in SEEDS.items():
        clip_writer.write(folder / name, seconds=1.0, flash=0.5, waveform=clip_writer.beep(1.0, event=0.5), **options)
    return {name: (folder / name).read_bytes() for name in SEEDS}


def with_result(path: Path) -> Media | None:
    """A result or one typed error of one line; any other exception is a failure."""
    try:
        media = read(path, **SMALL)
    except MediaError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message
        return None
    assert media.has_video or media.has_audio
    assert media.images is None or len(media.images) <= 256
    assert media.waveform is None or np.isfinite(media.waveform).all()
    return media


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=40),
    head=st.booleans(),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_mutated_bytes(
    seeds: dict[str, bytes], tmp_path: Path, name: str, edits: list[tuple[float, int]], head: bool, keep: float
) -> None:
    data = bytearray(seeds[name])
    reach = min(len(data), 600) if head else len(data)
    for share, value in edits:
        data[int(share * reach)] = value
    path = tmp_path / name
    path.write_bytes(bytes(data[: int(len(data) * keep)]))
    with_result(path)


def test_a_track_that_appears_late(seeds: dict[str, bytes], tmp_path: Path) -> None:
    """PyAV below 17.1 crashes on it if it gets options for streams."""
    data = bytearray(seeds["a.ts"])
    packet = next(start for start in range(0, len(data), 188) if data[start + 1] & 31 == 1)  # of the video
    data[packet + 1] |= 31
    (tmp_path / "a.ts").write_bytes(bytes(data))
    assert with_result(tmp_path / "a.ts") is not None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=3000))
def test_random_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    with_result(tmp_path / "a.mp4")


def test_messages_do_not_contain_ffmpegs_own_text(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"words " * 99)
    with pytest.raises(NotMedia) as caught:
        read(tmp_path / "a.mp4")
    assert str(caught.value).startswith(f"{tmp_path / 'a.mp4'}: ")
    assert "avformat" not in str(caught.value)
