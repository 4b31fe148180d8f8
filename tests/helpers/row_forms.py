"""Forms of training rows, and the table of `docs/training-data.md` that says what becomes of each.

``python -m tests.helpers.row_forms`` writes the table again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.pipeline.loading import special_tokens
from omnisift.training.data.files import DataRows, read_rows
from omnisift.training.data.samples import Sample, clip_place

PAGE = Path(__file__).parents[2] / "docs" / "training-data.md"
BEGIN, END = "<!-- table of row forms: begin -->\n", "<!-- table of row forms: end -->\n"
U, A = {"role": "user", "content": "<video>Q"}, {"role": "assistant", "content": "A"}
HUMAN, GPT = {"from": "human", "value": "<video>Q"}, {"from": "gpt", "value": "A"}
CLIP = {"videos": ["a.mp4"]}


def talk(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **CLIP, **more}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: Any = "B", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


VIDEO, TEXT = {"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Q"}
URL = {"type": "video_url", "video_url": {"url": "a.mp4"}}
GROUPS: dict[str, dict[str, Any]] = {
    "Forms": {
        "`messages` (ms-swift, OpenAI)": talk(U, A),
        "`conversations` of `from` and `value` (LLaMA-Factory)": {"conversations": [HUMAN, GPT], **CLIP},
        "`video` and `conversations`, `<image>` for the video (LLaVA)": {
            "video": "a.mp4",
            "conversations": [{"from": "human", "value": "<image>\nQ"}, GPT],
        },
        "`conversation` of `human` and `assistant` (ms-swift)": {
            "conversation": [{"human": "<video>Q", "assistant": "A"}, {"human": "Q2", "assistant": "B"}],
            **CLIP,
        },
        "`instruction`, `input`, `output`, `history` (Alpaca, LLaMA-Factory)": {
            "instruction": "<video>Q",
            "input": "more",
            "output": "A",
            "history": [["Hi", "Hello"]],
            **CLIP,
        },
        "`query`, `response`, `history` (ms-swift)": {"query": "Q", "response": "A", "history": [], **CLIP},
        "`file_name` with `caption` or `qa` (a folder's `metadata.jsonl`)": {
            "file_name": "a.mp4",
            "qa": [{"question": "Q", "answer": "A"}],
        },
        "`caption` that is no text": {"file_name": "a.mp4", "caption": ["A"]},
        "text only": {"messages": [user("Q"), A]},
        "`text` (pre-training)": {"text": "a document"},
        "an assistant turn alone (pre-training)": talk(A),
    },
    "System prompt": {
        "`system` beside the conversation": talk(U, A, system="Be brief."),
        "a system turn": talk({"role": "system", "content": "Be brief."}, U, A),
        "both: the turn counts": talk({"role": "system", "content": "Be brief."}, U, A, system="Be long."),
        "`system` empty": talk(U, A, system=""),
        "`system` that is no text": talk(U, A, system=["x"]),
        "a system turn after another turn": talk(U, {"role": "system", "content": "Be brief."}, A),
    },
    "What is learned": {
        '`"loss": false` of an answer (ms-swift)': talk(U, answer("A", loss=False), user("Q2"), answer(loss=True)),
        '`"weight": 0` (OpenAI)': talk(U, answer("A", weight=0), user("Q2"), answer(weight=1)),
        '`"train"` or `"training"`: false (Axolotl)': talk(
            U, answer("A", train=False), user("Q2"), answer("B", training=False), user("Q3"), answer("C")
        ),
        '`"loss": false` of a user turn': talk({**U, "loss": False}, A),
        '`"loss": true` of a user turn': talk({**U, "loss": True}, A),
        "a weight between 0 and 1": talk(U, answer("A", weight=0.5)),
        "a flag that is no truth value": talk(U, answer("A", loss="no")),
        "no answer that is learned": talk(U, answer("A", loss=False)),
        "an empty answer": talk(U, answer(" ")),
        "no answer": talk(U),
        "a last turn of the user": talk(U, A, user("Q2")),
    },
    "Order of turns": {
        "the assistant first": talk(answer("x"), U, A),
        "two user turns in a row": talk(U, user("more"), A),
        "two assistant turns in a row": talk(U, A, answer()),
        "roles of tools: `tool`, `tool_call`, `tool_response`, `function_call`, `observation`": talk(
            U, {"role": "tool_call", "content": "{}"}, A
        ),
        "`role` and `from`, or `content` and `value`, that differ": talk({**U, "from": "gpt"}, A),
        "another role": talk(U, {"role": "critic", "content": "x"}, A),
        "an empty user turn after the clip's": talk(U, A, user(""), answer()),
        "the clip alone as a question": talk(user("<video>"), A),
    },
    "Tags and clips": {
        "no tag: before the first user turn (ms-swift)": talk(user("Q"), A),
        "a tag inside the text": talk(user("Look at <video> and say."), A),
        "a tag after the text": talk(user("Q\n<video>"), A),
        "a tag in a later turn": talk(user("Hi"), answer("Hello"), U, A),
        "`<video><audio>` with `videos` (LLaMA-Factory)": talk(user("<video><audio>Q"), A),
        "`audios` beside `videos`, of the same name: the video's own track": talk(
            user("<video><audio>Q"), A, audios=["a.wav"]
        ),
        "`audios` beside `videos`, of another name": talk(user("<video><audio>Q"), A, audios=["music.wav"]),
        "`audios` alone": {"messages": [user("<audio>Q"), A], "audios": ["a.wav"]},
        "`audios` alone with the name of a video: its sound, without its images": {
            "messages": [user("<audio>Q"), A],
            "audios": ["a.mp4"],
        },
        "`<video>` for a clip of `audios`": {"messages": [user("<video>Q"), A], "audios": ["a.wav"]},
        "more tags than clips": talk(user("<video><video>Q"), A),
        "the tag again in words": talk(user("<video>In HTML, what is <video>?"), A),
        "a tag and no clip, in words or not": {"messages": [user("In HTML what is <video>?"), A]},
        "a tag in an answer, in words or not": talk(U, answer("a <video> tag")),
        "a tag after the last answer": talk(user("Hi"), A, U),
        "more clips than one": talk(U, A, videos=["a.mp4", "b.mp4"]),
        "a list of images for a video": talk(U, A, videos=[["1.jpg", "2.jpg"]]),
        "a URL": talk(U, A, videos=["https://example.com/a.mp4"]),
        "`images` or `image`": talk(user("<image>Q"), A, images=["a.png"]),
        "`images: []`": talk(U, A, images=[]),
    },
    "Parts of a turn (OpenAI)": {
        "text parts": talk(user([TEXT, {"type": "text", "text": "!"}]), A),
        "a video part with its file": {"messages": [user([VIDEO, TEXT]), A]},
        "a video part after the text": {"messages": [user([TEXT, VIDEO]), A]},
        "a `video_url` part": {"messages": [user([URL, TEXT]), A]},
        "a video part without a file, for `videos`": talk(user([{"type": "video"}, TEXT]), A),
        "an audio part with its file": {"messages": [user([{"type": "audio", "audio": "a.wav"}, TEXT]), A]},
        "a video part with settings": {"messages": [user([{**VIDEO, "video_start": 2}, TEXT]), A]},
        "an image part": {"messages": [user([{"type": "image", "image": "a.png"}, TEXT]), A]},
        "`tool_calls`, `function_call`, `reasoning_content` or media under a turn": talk(
            U, answer("A", tool_calls=[{"type": "function"}])
        ),
    },
    "Other tasks": {
        "`tools` or `functions`": talk(U, A, tools='[{"type": "function"}]'),
        "`objects` (boxes, ms-swift)": talk(U, A, objects={"bbox": [[1, 2, 3, 4]]}),
        "`rejected_response` or `rejected_messages` (ms-swift)": talk(U, A, rejected_response="B"),
        "`chosen` and `rejected` (LLaMA-Factory)": talk(U, A, chosen=GPT, rejected=GPT),
        "`kto_tag` (LLaMA-Factory)": talk(U, A, kto_tag=False),
        "`label` true or false (ms-swift)": talk(U, A, label=False),
    },
    "Texts": {
        "a special token of the model in a question": talk(user("<video>Q <|audio_bos|>"), A),
        "a special token in an answer": talk(U, answer("A<|im_end|>")),
        "half a character (a lone surrogate)": talk(user("\ud83d"), A),
        "a text that is no text": talk(user(3), A),
    },
    "Keys": {
        "keys that are not understood: counted and named once": talk(U, {**A, "name": "x"}, source="web"),
    },
}
"""Group -> form -> a row of it."""
CASES = {name: row for group in GROUPS.values() for name, row in group.items()}


def read(row: Any, folder: Path) -> DataRows | str:
    """What `read_rows` makes of a file with ``row`` alone; the reason without the place if it is refused."""
    path = folder / "data.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    try:
        return read_rows([path], special_tokens("nano"))
    except UsageError as error:
        return str(error).removeprefix("data.jsonl:1: ")


def described(sample: Sample) -> str:
    """The conversation in one line: the clip as ▶, answers that are not learned in parentheses."""
    place, parts = clip_place(sample), []
    for number, turn in enumerate(sample.turns):
        text = turn.text
        if sample.media is not None and number == place[0]:
            text = f"{text[: place[1]]}▶{text[place[1] :]}"
        text = text.replace("\n", "⏎")
        parts.append(f"{turn.role}: {text}" if turn.learned else f"({turn.role}: {text})")
    return " / ".join(parts)


def table(folder: Path) -> str:
    """The table of the page.

    Args:
        folder: an empty folder, for the files.
    """
    lines = ["| form | result | conversation, or reason |", "| --- | --- | --- |"]
    for group, cases in GROUPS.items():
        lines.append(f"| **{group}** | | |")
        for name, row in cases.items():
            found = read(row, folder)
            if isinstance(found, str):
                cells = ("refused", found)
            else:
                keys = ", ".join(f"`{key}`" for key in sorted(found.unknown_keys))
                cells = ("honoured", described(found.samples[0]) + (f" (not understood: {keys})" if keys else ""))
            text = cells[1].replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| {name} | {cells[0]} | {text} |")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n" + table(folder) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
