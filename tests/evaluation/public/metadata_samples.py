"""Items in the five metadata formats, about invented videos."""

from __future__ import annotations

from typing import Any

OPTIONS = ["A. Red.", "B. Green.", "C. Blue.", "D. None of them."]


def prompt(question: str, options: list[str]) -> str:
    head = (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option."
    )
    return "\n".join([head, question, *options, "The best answer is:"])


def dailyomni(video: str, question: str, answer: str, options: list[str] = OPTIONS, kind: str = "Inference") -> Any:
    return {
        "Question": question,
        "Choice": options,
        "Answer": answer,
        "video_id": video,
        "Type": kind,
        "video_category": "Music",
        "video_duration": "30s",
        "prompt": prompt(question, options),
    }


def worldsense(video: str, question: str, answer: str, options: list[str] = OPTIONS, kind: str = "Music") -> Any:
    asked = "\n".join([question, *options])
    path = f"videos_and_audios/{video}/{video}.mp4"
    told = prompt(question, options)
    return {"video_path": path, "duration": "6s", "domain": kind, "question": asked, "answer": answer, "prompt": told}


def videomme(video: str, question: str, answer: str, options: list[str] = OPTIONS, kind: str = "short") -> Any:
    return {
        "video_id": video,
        "video_path": f"videos/data/{video}.mp4",
        "duration": kind,
        "domain": "Knowledge",
        "task_type": "Counting Problem",
        "sub_category": "Shapes",
        "answer": answer,
        "prompt": prompt(question, options),
    }


def omnivideobench(video: str, question: str, answer: str, options: list[str] = OPTIONS, kind: str = "counting") -> Any:
    asked = "\n".join([question, *options, ""])
    return {
        "dataset": "OmniVideoBench",
        "videos": f"videos/{video}.mp4",
        "video_type": "Cartoon",
        "duration": "00:06",
        "question_type": kind,
        "audio_type": "Sound",
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
    }


def video_salmonn2(video: str, question: str, answer: str, events: list[str]) -> Any:
    output = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"video": f"video/{video}.mp4", "conversations": output, "events": events}


CHOICE: dict[str, Any] = {
    "dailyomni": dailyomni,
    "worldsense": worldsense,
    "videomme": videomme,
    "omnivideobench": omnivideobench,
}
"""Benchmarks answered by a letter -> one item."""
