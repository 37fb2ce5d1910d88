"""The language of texts that are too short to detect it: what is likely in an index of Japanese and Western texts.

Of a few words the statistical model names languages that nobody expects (Latin, Occitan). They are not believed.
"""

from __future__ import annotations

import re

from rag_pipeline.language.detection import (
    HAN,
    HANGUL,
    KANA,
    LETTERS,
    detect_language,
    likelihoods,
    without_code_and_addresses,
)

_LONG = 200
"""Letters of an alphabet from which on the detected language is believed, whichever it is."""
_SURE = 20.0
"""So much likelier than the usual language of its letters, as a logarithm, is a short text in another one. Names and
technical words alone reach 18."""
_ACCENTED_SURE = 12.0
"""The same for a text with letters that are not in ASCII."""
_WESTERN = ("de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "pl", "cs", "hu", "ro", "tr", "id", "vi")
_CYRILLIC = ("uk", "bg", "sr")

_CYRILLIC_LETTER = re.compile(r"[\u0400-\u04ff]")
_NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff\uff21-\uff5a]")


def likely_language(text: str) -> str | None:
    """Return the language as two lower-case letters (ISO 639-1); None for a text without letters.

    As `detect_language`, but of fewer words: kana and kanji are Japanese unless the characters say otherwise, Latin
    letters are English and Cyrillic ones Russian unless another usual language is much likelier.
    """
    detected = detect_language(text)
    if detected in ("ja", "zh", "ko"):
        return detected
    sample = without_code_and_addresses(text)
    letters = "".join(LETTERS.findall(sample))
    if not letters:
        return None
    if _NOT_LATIN.search(letters) is None:
        if detected is not None and len(letters) >= _LONG:
            return detected
        return _likeliest(sample, "en", _WESTERN, is_ascii=letters.isascii())
    if detected is not None and (len(letters) >= _LONG or not _CYRILLIC_LETTER.search(letters)):
        return detected
    if KANA.search(letters) or HAN.search(letters):
        return "ja"
    if HANGUL.search(letters):
        return "ko"
    if _CYRILLIC_LETTER.search(letters):
        return _likeliest(sample, "ru", _CYRILLIC, is_ascii=True)
    known = likelihoods(sample)
    return max((language for language in known if len(language) == 2), key=known.__getitem__)


def _likeliest(sample: str, usual: str, others: tuple[str, ...], *, is_ascii: bool) -> str:
    """Return the usual language of a script, or another one that is much likelier."""
    known = likelihoods(sample)
    best = max((language for language in others if language in known), key=known.__getitem__)
    return best if known[best] - known[usual] >= (_SURE if is_ascii else _ACCENTED_SURE) else usual
