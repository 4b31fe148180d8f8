"""Five hundred requests to one server: bad files among good ones, four clients at once, some of which disconnect.

Each bad request gets one sentence, each good one the answer that it got first, and the server does not grow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.serving.asking import Prompt, Reference, Video
from tests.serving.bad_files import BAD, ODD, write_cases
from tests.serving.flat import Usage, grown, usage_of
from tests.serving.over_http import QUESTION, Server, data_url, refused, serving, tokens

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(1200)]
CLIENTS, ROUND, WARM, ROUNDS = 4, 20, 10, 25
"""Requests come in rounds, each a sample; the first `WARM` of `WARM + ROUNDS` rounds fill caches and pools."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A cache of 8,192 tokens is full soon, so that filling it does not look like growth."""
    (folder / "tmp").mkdir()
    with serving([], ["--num-gpu-blocks-override", "256"], folder / "log.txt", TMPDIR=str(folder / "tmp")) as made:
        yield made


@dataclass
class Traffic:
    """The requests and the answers that they must get."""

    server: Server
    good: dict[str, str]
    """URLs of videos that can be read."""
    bad: dict[str, str]
    expected: dict[str, list[int]] = field(default_factory=dict)
    samples: list[Usage] = field(default_factory=list)

    def learn(self) -> None:
        """Store the answer to each good request, sent alone."""
        for name, address in self.good.items():
            status, body = self.server.ask(address)
            assert status == 200, (name, body)
            self.expected[name] = tokens(body)

    def send(self, kind: str, chance: random.Random) -> None:
        """Send one request of a kind and check the response."""
        if kind == "good":
            name = chance.choice(list(self.good))
            status, body = self.server.ask(self.good[name])
            assert status == 200, (name, body)
            assert tokens(body) == self.expected[name], name
        elif kind == "bad":
            name = chance.choice(list(self.bad))
            status, body = self.server.ask(self.bad[name])
            refused(status, body)
            assert_one_sentence(name, body["error"]["message"])
        else:
            self.server.abandon(*self.cut_short(chance))

    def cut_short(self, chance: random.Random) -> tuple[dict[str, Any], float, float]:
        """A long answer that the client does not wait for; every third request is sent only in part."""
        address = self.good[chance.choice(list(self.good))]
        content = [{"type": "video_url", "video_url": {"url": address}}, {"type": "text", "text": QUESTION}]
        body = {"model": "nano", "messages": [{"role": "user", "content": content}], "max_tokens": 2000}
        return {**body, "min_tokens": 2000}, chance.uniform(0.0, 0.8), chance.choice([1.0, 1.0, 0.5])

    def round(self, number: int) -> None:
        """Requests of all kinds at once; then a sample when the server is idle."""
        chance = random.Random(number)
        kinds = ["good"] * 9 + ["bad"] * 9 + ["gone"] * 2
        chance.shuffle(kinds)
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda pair: self.send(pair[1], random.Random(ROUND * number + pair[0])), enumerate(kinds)))
        self.server.rest()
        self.samples.append(usage_of(self.server.process.pid))


def assert_one_sentence(name: str, message: str) -> None:
    assert 10 < len(message) < 300, (name, message)
    assert not any(word in message for word in ("/tmp", "omnisift-", "Errno", "0x")), (name, message)


@pytest.fixture(scope="module")
def traffic(server: Server, folder: Path) -> Traffic:
    for seed in range(4):
        Video.of_world(folder, seed)
    good = {f"{seed}.mp4": folder / f"{seed}.mp4" for seed in range(4)} | write_cases(ODD, folder / "odd")
    bad = {name: data_url(path) for name, path in write_cases(BAD, folder / "bad").items()}
    cut = data_url(folder / "1.mp4")
    bad |= {"no base64": "data:video/mp4;base64,***", "cut base64": cut[: len(cut) // 3], "no address": "x"}
    return Traffic(server, {name: data_url(path) for name, path in good.items()}, bad)


def test_there_are_many_kinds() -> None:
    assert len(BAD) >= 20
    assert len(ODD) >= 15


def test_five_hundred_requests(traffic: Traffic, folder: Path, reference: Reference) -> None:
    before = sorted((folder / "tmp").iterdir())
    traffic.learn()
    video = Video.of_world(folder, 1)
    assert traffic.expected["1.mp4"] == reference.tokens(Prompt(QUESTION, videos=(video,))), "the first answer is right"
    for name, address in traffic.bad.items():
        refused(*traffic.server.ask(address))
        status, body = traffic.server.ask(traffic.good["1.mp4"])
        assert (status, tokens(body)) == (200, traffic.expected["1.mp4"]), f"after {name}"
    for number in range(WARM + ROUNDS):
        traffic.round(number)
    samples = traffic.samples[WARM:]
    print(*(f"{sample.memory >> 20} MiB {sample.files} {sample.threads};" for sample in traffic.samples))
    assert grown(samples) == {}, samples
    assert sorted((folder / "tmp").iterdir()) == before, "no file is left"
