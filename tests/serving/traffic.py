"""Requests of all kinds for one server: valid videos, bad files, and clients that disconnect.

Tests and `benchmarks/speed/serving_memory.py` send them.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.serving.asking import Video
from tests.serving.bad_files import BAD, ODD, write_cases
from tests.serving.flat import Usage, usage_of
from tests.serving.over_http import QUESTION, Server, data_url, refused, tokens

CLIENTS, ROUND = 4, 20
"""Clients at once, and requests of a round."""


@dataclass
class Traffic:
    """The requests and the answers that they must get."""

    server: Server
    good: dict[str, str]
    """URLs of videos that can be read."""
    bad: dict[str, str]
    expected: dict[str, list[int]] = field(default_factory=dict)
    samples: list[Usage] = field(default_factory=list)

    @classmethod
    def of(cls, server: Server, folder: Path) -> Traffic:
        """Write the files of all kinds into ``folder``."""
        for seed in range(4):
            Video.of_world(folder, seed)
        good = {f"{seed}.mp4": folder / f"{seed}.mp4" for seed in range(4)} | write_cases(ODD, folder / "odd")
        bad = {name: data_url(path) for name, path in write_cases(BAD, folder / "bad").items()}
        cut = data_url(folder / "1.mp4")
        bad |= {"no base64": "data:video/mp4;base64,***", "cut base64": cut[: len(cut) // 3], "no address": "x"}
        return cls(server, {name: data_url(path) for name, path in good.items()}, bad)

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
