"""Answer rules: where they agree, where published ones are known to differ, and what holds for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisift.errors import UsageError
from omnisift.evaluation.public.extractors import EXTRACTORS, extract, omnivideobench
from omnisift.evaluation.public.rows import Row

OPTIONS = ("A. Red.", "B. Green.", "C. Blue.", "D. None of them.")


def row(benchmark: str = "videomme", options: tuple[str, ...] = OPTIONS) -> Row:
    return Row("0", benchmark, "v", "v.mp4", "Which colour?", options, "B")


@pytest.mark.parametrize(
    ("text", "videomme", "released", "strict", "dailyomni", "omnivideobench"),
    [
        ("B", "B", "B", "B", "B", "B"),
        ("B.", "B", "B", "B", "B", "B"),
        (" b", "", "B", "", "B", "B"),
        ("(C)", "C", "(", "C", "", "C"),
        ("**C**", "C", "*", "C", "", "C"),
        ("The best answer is: D", "D", "D", "", "", ""),
        ("I think it is (B) not (A)", "B", "I", "", "", ""),
        ("A man is singing, so C", "A", "A", "", "A", ""),
        ("B. Green.", "B", "B", "B", "B", ""),
        ("C: blue", "C", "C", "", "C", ""),
        (r"so \boxed{D}", "D", "S", "", "", "D"),
        ("Answer: C", "C", "C", "", "A", ""),
        ("blue", "", "B", "C", "B", ""),
        ("", "", "", "", "", ""),
        ("E", "", "E", "", "", "E"),
    ],
)
def test_each_rule(text: str, videomme: str, released: str, strict: str, dailyomni: str, omnivideobench: str) -> None:
    assert extract(text, row(), "videomme") == videomme
    assert extract(text, row(), "released") == released
    assert extract(text, row(), "strict") == strict
    assert extract(text, row("dailyomni"), "official") == dailyomni
    assert extract(text, row("omnivideobench"), "official") == omnivideobench
    assert extract(text, row("worldsense"), "official") == videomme


def test_three_options_have_no_fourth_letter() -> None:
    assert extract("D", row(options=OPTIONS[:3]), "strict") == ""


@pytest.mark.parametrize("text", ["Green", "green.", " B. Green. ", "(B)", "b. green"])
def test_strict_takes_an_option_word_for_word(text: str) -> None:
    assert extract(text, row(), "strict") == "B"


def test_strict_takes_no_part_of_an_option_and_none_that_stands_twice() -> None:
    assert extract("None", row(), "strict") == ""
    assert extract("Red", row(options=("A. Red.", "B. red", "C. Blue.")), "strict") == ""


def test_a_whole_conversation_is_cut_at_its_last_speaker() -> None:
    assert extract("user\nA or B?\nassistant\nB", row("dailyomni"), "official") == "B"
    assert omnivideobench("user\nA?\nassistant\nC.", row()) == "C"


def test_unknown_rules_are_named() -> None:
    with pytest.raises(UsageError, match="known: videomme, official, released, strict"):
        extract("A", row(), "mine")


@given(st.text())
def test_any_text_gives_one_character_or_none(text: str) -> None:
    for benchmark in ("videomme", "worldsense", "dailyomni", "omnivideobench"):
        for rule in EXTRACTORS:
            result = extract(text, row(benchmark), rule)
            assert len(result) <= 1
            if rule != "released":
                assert result in ("", *"ABCDEFGHIJ")


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "{}.", "{} ", "\n{}"]))
def test_a_lone_letter_is_that_letter_by_every_rule(letter: str, form: str) -> None:
    for benchmark in ("videomme", "dailyomni", "omnivideobench"):
        for rule in EXTRACTORS:
            assert extract(form.format(letter), row(benchmark), rule) == letter


@given(st.text(alphabet="acfgh xyz.,!", max_size=60))
def test_strict_never_finds_a_letter_in_a_sentence(text: str) -> None:
    assert extract(text, row(), "strict") == ""
