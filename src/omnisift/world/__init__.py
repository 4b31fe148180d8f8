"""Generated clips with known contents: moving coloured shapes, short sounds, questions and answers.

`make_scene` describes a clip; `render_images`, `render_audio` and `write_clip` render it; `questions`, `caption` and
`truth` state its contents. All depend on ``(split, seed, config)`` alone. `SETTINGS` are configurations that are each
hard in one respect; `WIDE_SETTINGS` are a second family that looks and sounds more like video, and in `CONFLICT` its
video and audio contradict each other.
"""

from omnisift.world.captions import (
    CAPTION_REQUESTS,
    CaptionEvent,
    CaptionScore,
    caption,
    caption_events,
    parse_caption,
    score_caption,
)
from omnisift.world.config import SceneConfig, WideConfig
from omnisift.world.degradations import DEGRADATIONS
from omnisift.world.events import Shape, Sound, Title
from omnisift.world.files import write_clip
from omnisift.world.questions import (
    ANSWERS,
    FOLLOWED,
    PHRASINGS,
    QUESTION_TYPES,
    WIDE_TYPES,
    Question,
    make_question,
    possible_types,
    questions,
)
from omnisift.world.render import render_audio, render_frames, render_images
from omnisift.world.scene import Scene, make_scene
from omnisift.world.settings import CONFLICT, SETTINGS, WIDE_SETTINGS, Setting, world_setting
from omnisift.world.splits import SPLITS, scene_number
from omnisift.world.subtitles import SUBTITLE_DEGRADATIONS, subtitles
from omnisift.world.truth import FIRST_TITLE_CLASS, EvidenceEvent, KeptEvidence, Truth, count_kept, truth
from omnisift.world.vocabulary import split_words, vocabulary
from omnisift.world.words import COLOR_NAMES, COLORS, NUMBERS, PLACES, SHAPES, SOUNDS, WORDS

__all__ = [
    "ANSWERS",
    "CAPTION_REQUESTS",
    "COLORS",
    "COLOR_NAMES",
    "CONFLICT",
    "DEGRADATIONS",
    "FIRST_TITLE_CLASS",
    "FOLLOWED",
    "NUMBERS",
    "PHRASINGS",
    "PLACES",
    "QUESTION_TYPES",
    "SETTINGS",
    "SHAPES",
    "SOUNDS",
    "SPLITS",
    "SUBTITLE_DEGRADATIONS",
    "WIDE_SETTINGS",
    "WIDE_TYPES",
    "WORDS",
    "CaptionEvent",
    "CaptionScore",
    "EvidenceEvent",
    "KeptEvidence",
    "Question",
    "Scene",
    "SceneConfig",
    "Setting",
    "Shape",
    "Sound",
    "Title",
    "Truth",
    "WideConfig",
    "caption",
    "caption_events",
    "count_kept",
    "make_question",
    "make_scene",
    "parse_caption",
    "possible_types",
    "questions",
    "render_audio",
    "render_frames",
    "render_images",
    "scene_number",
    "score_caption",
    "split_words",
    "subtitles",
    "truth",
    "vocabulary",
    "world_setting",
    "write_clip",
]
