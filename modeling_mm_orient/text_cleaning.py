# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Text cleaning (paper section 4.1: URLs, handles and special characters go), one small function per step.

Letters, marks and digits of every script survive, and so do emoji: they carry the mood.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

# endings that are no words: "stop.it" and "home.me" are sentences without a space
ENDINGS = "com|net|org|co|io|tv|info|biz|uk|ru|gg|app|xyz|site|online|club|ly|cc|fm|eu|au"
# each is tried at one place of a run of letters, and looks ahead so far: texts come from strangers, and may be long
URL = re.compile(r"(?:https?|ftp)://\S+|www\.\S+|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
HANDLE = re.compile(r"(?<![\w@])@\w+")
SITE = re.compile(
    rf"(?<![\w@.])(?:via )?(?:[a-z0-9][\w-]{{0,62}}\.){{1,9}}(?:{ENDINGS})(?![\w.-]{{0,99}}\w)(?:/\S*)?(?!\w)",
    re.IGNORECASE,
)
# what meme generators print on their pictures, as optical character recognition spells it
GENERATORS = (
    "img ?f?lip", "quick ?meme", "meme ?generator", "make ?a ?meme", "meme ?center", "mematic", "meme ?droid", "9 ?gag",
    "i ?funny", "meme ?creator", "kapwing", "cheezburger", "diylol", r"troll\.me",
)  # fmt: skip
WATERMARKS = re.compile(
    rf"(?<!\w)(?:made (?:with|on|by|in) |via )?(?:{'|'.join(GENERATORS)})(?:\s?[ .]\s?(?:com|net|org|co|ce))?(?![\w/])",
    re.IGNORECASE,
)
KEPT_PUNCTUATION = set(".,!?'’\"-:;%&/…。，！？、：；¿¡।؟،")  # noqa: RUF001 (other scripts' own)
MOST_MARKS = 30  # in a row that are put in order together, as Unicode's stream-safe texts have them at most
EMOJI_JOINERS = {"\u200d", "\ufe0f"}


def remove_urls(text: str) -> str:
    """Without web and mail addresses."""
    return URL.sub(" ", text)


def remove_handles(text: str) -> str:
    """Without @names."""
    return HANDLE.sub(" ", text)


def remove_watermarks(text: str) -> str:
    """Without names of sites (`quickmeme.com`, `9gag.com/gag/1`) and of meme generators."""
    return WATERMARKS.sub(" ", SITE.sub(" ", text))


def remove_special_characters(text: str) -> str:
    """Letters, marks and digits of any script, emoji and the punctuation of sentences; everything else is a space."""
    return "".join(character if _is_kept(character) else " " for character in text)


def lower_case(text: str) -> str:
    """In lower case, by Unicode's rules."""
    return text.lower()


STEPS: dict[str, Callable[[str], str]] = {
    "urls": remove_urls,
    "handles": remove_handles,
    "watermarks": remove_watermarks,
    "special_characters": remove_special_characters,
    "lower_case": lower_case,
}
PAPER_STEPS = tuple(STEPS)


def clean_text(text: str, steps) -> str:
    """Run `steps`, names of `STEPS`, in the order of that table; then white space is single.

    Raises:
        ValueError: a step is unknown.
    """
    if unknown := [step for step in steps if step not in STEPS]:
        raise ValueError(f"`text_cleaning` has {unknown[0]!r}; the steps are {', '.join(STEPS)}")
    if not steps:
        return text
    text = normalized(text, "NFC")
    for name, step in STEPS.items():
        if name in steps:
            text = step(text)
    return " ".join(text.split())


def normalized(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """A text in a normal form of Unicode (`"NFC"`, ...). Of marks that stand in a row each `MOST_MARKS` are put in order by
    themselves: all of them would take time with the square of their number."""
    parts, start, marks = [], 0, 0
    for place, character in enumerate(text):
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MOST_MARKS:
            parts.append(text[start:place])
            start, marks = place, 1
    return "".join(unicodedata.normalize(form, part) for part in (*parts, text[start:]))


def _is_kept(character: str) -> bool:
    category = unicodedata.category(character)
    if category[0] in "LMN" or character in KEPT_PUNCTUATION or character in EMOJI_JOINERS:
        return True
    # So: emoji and pictographs; Sk: the skin tones that follow them
    return category == "So" or 0x1F3FB <= ord(character) <= 0x1F3FF
