"""`omnisift serve` up to the start of vLLM: URLs, the command line, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from omnisift.cli import main
from omnisift.errors import Blocked, CompressorError, NotMedia, UnsupportedModel, UsageError
from omnisift.serving import url_policy, vllm_startup
from omnisift.serving.body_limit import MIDDLEWARE
from omnisift.serving.command import Server
from omnisift.serving.families import SERVED
from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
from omnisift.serving.media_limits import MediaLimits, as_vllm_video
from omnisift.serving.offline import OfflineEngine
from omnisift.serving.vllm.settings import Settings
from omnisift.utils.assets import nano_path


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["93.184.215.14"], None),
        (["93.184.215.14", "10.0.0.1"], "not public"),
        (["127.0.0.1"], "not public"),
        (["169.254.169.254"], "not public"),
        (["::1"], "not public"),
        (["fd00::1"], "not public"),
    ],
)
def test_named_hosts_must_be_public(monkeypatch: pytest.MonkeyPatch, addresses: list[str], message: str | None) -> None:
    infos = [(0, 0, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(url_policy.socket, "getaddrinfo", lambda *_: infos)
    if message is None:
        url_policy.check_url("https://videos.example/a.mp4", ["videos.example"])
        return
    with pytest.raises(Blocked, match=message):
        url_policy.check_url("https://videos.example/a.mp4", ["videos.example"])


@pytest.mark.parametrize(
    ("url", "allowed", "message"),
    [
        ("https://videos.example/a.mp4", [], "fetches no media"),
        ("https://other.example/a.mp4", ["videos.example"], "from 'other.example'"),
        ("https://videos.example@other.example/a.mp4", ["videos.example"], "from 'other.example'"),
        ("https://videos.example.other.example/a.mp4", ["videos.example"], "fetches no media from"),
        ("ftp://videos.example/a.mp4", ["videos.example"], "must begin with"),
        ("videos.example/a.mp4", ["videos.example"], "must begin with"),
    ],
)
def test_other_urls_are_refused(url: str, allowed: list[str], message: str) -> None:
    with pytest.raises(Blocked, match=message):
        url_policy.check_url(url, allowed)


def test_a_clip_from_memory_is_read_as_from_a_file(clip: Path) -> None:
    limits = MediaLimits(fps=1.0, max_frames=4)
    images, metadata = as_vllm_video(limits.read_bytes(clip.read_bytes()))
    assert len(images) == 4
    assert metadata["fps"] == as_vllm_video(limits.read_file(clip))[1]["fps"]
    assert metadata["audio"] is not None
    with pytest.raises(NotMedia):
        limits.read_bytes(b"not a video")


def test_limits_are_passed_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = MediaLimits(fps=1.0, max_pixels=100 * 784)
    for name, value in limits.to_environment().items():
        monkeypatch.setenv(name, value)
    assert MediaLimits.from_environment() == limits


def test_nano_as_a_full_checkpoint(tmp_path: Path) -> None:
    wrap_as_full_checkpoint(nano_path(), tmp_path / "full")
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    with safe_open(tmp_path / "full" / "model.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())
    assert {"thinker.audio_tower.conv1.weight", "thinker.visual.patch_embed.proj.weight"} <= names
    assert any(name.startswith("thinker.model.layers.0.") for name in names)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nano as a full model, as if vLLM were installed."""
    monkeypatch.setattr(vllm_startup, "version", lambda package: "0.32.0")
    wrap_as_full_checkpoint(nano_path(), tmp_path / "full")
    return tmp_path / "full"


def test_the_command_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("videos.example", "[FD00::7]")
    flags = ("--dtype", "float32", "--quantization", "compressed-tensors", "--kv-cache-dtype", "fp8")
    server = Server(str(model), Settings(retain=0.5), media_hosts=hosts, vllm_args=flags)
    server.check()
    line = server.command()
    overrides = json.loads(line[line.index("--hf-overrides") + 1])
    assert overrides["omnisift"] == {"retain": 0.5}
    place = line.index("--allowed-media-domains")
    assert line[place + 1 : place + 4] == ["videos.example", "fd00::7", "--dtype"], "vLLM takes words, not JSON"
    assert line[line.index("--middleware") + 1] == MIDDLEWARE
    assert line[-6:] == list(flags)
    environment = server.environment()
    assert environment["VLLM_MEDIA_CONNECTOR"] == "omnisift"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["MALLOC_ARENA_MAX"] == "1"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert server.environment()["MALLOC_ARENA_MAX"] == "4", "a variable of the user is kept"
    assert json.loads(environment["OMNISIFT_MEDIA"])["max_pixels"] == 50176
    assert json.loads(environment["OMNISIFT_FETCH"])["max_media"] == 200


def test_refused_before_anything_runs(model: Path, tmp_path: Path) -> None:
    def check(folder: Path = model, settings: Settings | None = None, **options: Any) -> None:
        Server(str(folder), settings or Settings(), **options).check()

    with pytest.raises(UnsupportedModel, match="got 'qwen2_5_omni_thinker'"):
        check(nano_path())
    with pytest.raises(UsageError, match=r"no folder .*nowhere"):
        check(media_folder=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="fps must be"):
        check(fps=0)
    with pytest.raises(UsageError, match="is not a host"):
        check(media_hosts=("http://videos.example",))
    with pytest.raises(UsageError, match="max_fetches must be"):
        check(fetch_limits=FetchLimits(max_fetches=0))
    for folder in model.glob("selector*"):
        folder.rename(tmp_path / folder.name)
    with pytest.raises(CompressorError, match="has no selector weights"):
        check(settings=Settings(compressor="omnisift"))
    check()
    check(settings=Settings(compressor="stvp"))
    check(settings=Settings(selector=str(tmp_path / "selector")))


@pytest.mark.parametrize(
    ("model_type", "advice"),
    [
        (
            "qwen3_vl",
            "vLLM itself prunes its videos: python -m vllm.entrypoints.openai.api_server --video-pruning-rate",
        ),
        ("qwen2_5_vl", "vLLM itself prunes its videos"),
        ("qwen3_omni_moe_thinker", "it is a thinker alone; give the full model"),
        ("qwen2_vl", "use omnisift ask, or --engine transformers"),
    ],
)
def test_other_families_are_refused_before_vllm_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, advice: str
) -> None:
    """Advice to install vLLM first would be wrong: it would not serve the model."""

    def version(package: str) -> str:
        raise vllm_startup.PackageNotFoundError

    monkeypatch.setattr(vllm_startup, "version", version)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    starts = [
        lambda: Server(str(tmp_path), Settings(compressor="stvp")).check(),
        lambda: OfflineEngine(str(tmp_path), Settings(compressor="stvp")),
    ]
    for start in starts:
        with pytest.raises(
            UnsupportedModel, match=f"full Qwen2.5-Omni and Qwen3-Omni .* got '{model_type}'; {advice}"
        ) as refusal:
            start()
        assert "\n" not in str(refusal.value)


def test_each_family_has_its_own_model_class(tmp_path: Path) -> None:
    for model_type, family in SERVED.items():
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        overrides = json.loads(vllm_startup.hf_overrides(str(tmp_path), Settings(retain=0.5)))
        assert overrides == {"architectures": [family.architecture], "omnisift": {"retain": 0.5}}


@pytest.mark.parametrize(
    ("installed", "message"), [("0.33.1", "vllm 0.33.1 is installed"), (None, "vLLM is not installed")]
)
def test_another_vllm_or_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: str | None, message: str
) -> None:
    def version(package: str) -> str:
        if installed is None:
            raise vllm_startup.PackageNotFoundError
        return installed

    monkeypatch.setattr(vllm_startup, "version", version)
    monkeypatch.setattr("sys.argv", ["omnisift", "serve", "nano"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error (UsageError): {message}")
