"""Decoding of text in any encoding that Japanese documents of the last thirty years use."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from rag_pipeline.documents.parsing.vendor_rows import decode_euc_jp, decode_iso_2022_jp, has_japanese_escapes
from rag_pipeline.errors import DocumentError
from rag_pipeline.language.plausibility import ASCII_COST, implausibility

_BYTE_ORDER_MARKS = (
    # The UTF-32 little-endian mark begins with that of UTF-16, so it is tested first.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_EUC_JP_MS = "eucjp-ms"
_ISO_2022_JP_MS = "iso-2022-jp-ms"

# What a label means in practice, as browsers read it (https://encoding.spec.whatwg.org/#names-and-labels). The
# names on the right are Python's codecs and `_EUC_JP_MS`, tried in order. Those of JIS X 0213 come last: where Windows
# has its own rows, they have other characters, so they read 髙 as 郄, and what Windows has written is far more common.
_LABELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji", "cp932"),
        ("cp932", "shift_jisx0213"),
    ),
    **dict.fromkeys(
        ("euc-jp", "x-euc-jp", "eucjp", "eucjp-ms", "eucjp-win", "cp51932"),
        ("euc_jp", _EUC_JP_MS, "euc_jis_2004"),
    ),
    **dict.fromkeys(("iso-2022-jp", "csiso2022jp"), ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2004")),
    **dict.fromkeys(("iso-8859-1", "latin1", "us-ascii", "ascii"), ("cp1252", "latin_1")),
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "x-gbk"), ("gb18030",)),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "ksc5601"), ("cp949",)),
    "big5": ("big5hkscs", "cp950"),
}

# A declaration in ASCII cannot be in one of these (WHATWG), or only Python has the codec.
_NEVER_DECLARED = frozenset(
    {
        "utf-16",
        "utf-16le",
        "utf-16be",
        "utf-32",
        "utf-7",
        "unicode_escape",
        "raw_unicode_escape",
        "unicode-escape",
    }
)

_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})|<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_DECLARED_LANGUAGE = re.compile(
    rb"""<html[^>]{0,200}?\blang\s*=\s*["']?([A-Za-z]{2})(?![A-Za-z])
    |^(?:language|lang|locale)[ \t]*:[ \t]*["']?([A-Za-z]{2})(?![A-Za-z])""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_DECLARED_WITHIN = 4096
_ESCAPE_2022 = re.compile(rb"\x1b[$(]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_GUESS_SAMPLE = 128 * 1024
_INTACT = 20
"""Characters for each broken one that make a text one in the encoding, with damage."""

# What bytes are read as if nothing says what they are, by label, and how such texts are judged. Of equals the first
# wins.
_CANDIDATES = (
    ("shift_jis", "ja"),
    ("euc-jp", "ja"),
    ("cp1252", "western"),
    ("cp949", "ko"),
    ("gb18030", "zh"),
    ("big5hkscs", "zh"),
    ("cp1250", "central"),
    ("cp1251", "ru"),
    ("koi8_r", "ru"),
)
_HANDICAPS = {"ja": 0.0, "western": 3.0, "ko": 5.5, "zh": 3.0, "central": 5.0, "ru": 7.0}
"""Against Japanese, which is expected here."""
_USUAL_COSTS = {"ja": 10.5, "western": 7.5, "ko": 9.5, "zh": 10.0, "central": 6.5, "ru": 4.7}
"""For each character that is not ASCII. Dearer readings are doubted."""
_LANGUAGES_OF = {
    "ja": ("ja",),
    "zh": ("zh",),
    "ko": ("ko",),
    "ru": ("ru", "uk", "bg", "be", "sr", "mk"),
    "western": ("en", "fr", "de", "es", "it", "pt", "nl", "sv", "da", "nb", "no", "fi", "is", "ca"),
    "central": ("cs", "pl", "hu", "sk", "hr", "sl", "ro"),
}
_DECLARED_BONUS = 8.0
_TWO_BYTES = frozenset({"ja", "ko", "zh"})
# Signs of Windows-1252 as in don’t, l’ami, word—word, a line that starts with •Word, 20 °C and 5 µm. An encoding of two
# bytes for a character takes the sign and the letter after it for one kanji: don稚. The letter before must not be the
# second byte of a kanji itself. The pattern begins with the sign, which is quicker to find than what is before it.
_WINDOWS_SIGN = re.compile(
    rb"""[\x92\x95-\x97\xb0\xb5](?:
        (?<=[A-Za-z]\x92)(?<![\x80-\xff][A-Za-z]\x92)
            (?:(?:[dsty]|ll|re|ve|(?<=I\x92)m)(?![A-Za-z\x80-\xff])|[aeiouh\xc0-\xff][a-z])
        |(?:(?<=[a-z][\x96\x97])(?<![\x80-\xff][a-z][\x96\x97])|(?<=^\x95))[A-Za-z][a-z]{3}
        |(?:(?<=[0-9][\xb0\xb5])|(?<=[0-9]\ [\xb0\xb5]))
            (?:(?<=\xb0)[CF]|(?<=\xb5)[AFVgmls])(?![A-Za-z\x80-\xff])
    )""",
    re.MULTILINE | re.VERBOSE,
)
_KANJI_IN_WORD = 10.0
"""What each of these signs costs in addition where it is read as a kanji, hanzi or hangul."""
_RARE_ENCODINGS = (
    *("cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1251", "koi8_r", "cp866", "tis_620"),
    *("gb18030", "big5hkscs", "cp949", "cp932", "euc_jp"),
)
"""The encodings that are left to charset-normalizer, and those that it may prefer to them."""
_FEW = 8
"""Characters. For fewer, the guess of charset-normalizer is worth less than the plausibility of each."""


@dataclass(frozen=True)
class Decoded:
    """A text and the encoding it was read in."""

    text: str
    encoding: str
    warning: str | None = None
    """What was guessed or lost, if the encoding was neither marked, declared nor UTF-8."""


def declared_encoding(data: bytes) -> str | None:
    """Return the encoding that an HTML `meta` or an XML declaration names, in lower case, or None."""
    match = _DECLARED.search(data, 0, _DECLARED_WITHIN)
    return (match[1] or match[2]).decode("ascii").lower() if match else None


def declared_language(data: bytes) -> str | None:
    """Return the language that front matter or an `html` element names, in two lower-case letters, or None."""
    match = _DECLARED_LANGUAGE.search(data, 0, _DECLARED_WITHIN)
    return (match[1] or match[2]).decode("ascii").lower() if match else None


def decode(data: bytes, declared: str | None = None, language: str | None = None) -> Decoded:
    """Decode the bytes of a text, whose source may say its `language`.

    Tries in this order: a byte order mark; ISO-2022-JP by its escapes, also if it is damaged; UTF-8; the declared
    encoding; UTF-8 and ISO-2022-JP with a few broken bytes; the likeliest of the Japanese and other usual encodings, by
    the characters that result, and more likely those of the language that the source or the document declares; the
    guess of charset-normalizer among others. UTF-8 goes before the declared encoding because bytes in another encoding are almost never valid UTF-8,
    while pages with an outdated declaration are common.

    Raises `DocumentError` if the bytes are not text or no encoding fits.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            text = _try(data[len(mark) :], encoding)
            marked = _damaged(data[len(mark) :], encoding) if text is None else Decoded(text, encoding)
            if marked is None:
                raise DocumentError(
                    f"the byte order mark says {encoding.upper()}, but the bytes are not: save it as UTF-8"
                )
            return _checked(marked)
    if b"\x00" in data:
        raise DocumentError(
            "not a text file (it contains NUL bytes): save it as UTF-8 text, or with the extension of its format"
        )
    if _ESCAPE_2022.search(data):
        escaped = _first_that_fits(data, _LABELS["iso-2022-jp"])
        if escaped is not None:
            return _checked(escaped)
    japanese = has_japanese_escapes(data)
    if japanese and data.isascii():  # as UTF-8 it would be garbage without a warning
        escaped = _with_vendor_rows(data)
        if escaped is None:
            raise DocumentError("most of its ISO-2022-JP characters are damaged: save it as UTF-8")
        return _checked(escaped)
    decoded = (
        _first_that_fits(data, ("utf-8",))
        or _first_that_fits(data, _codecs_of(declared))
        or _damaged(data, "utf-8")
        or (_with_vendor_rows(data) if japanese else None)
        or _guess(data, declared_language(data) or language)
    )
    return _checked(decoded)


def _with_vendor_rows(data: bytes) -> Decoded | None:
    """Decode ISO-2022-JP that Python's codecs refuse; None if too little of it can be read."""
    text = decode_iso_2022_jp(data)
    broken = text.count("\ufffd")
    intact = sum(not character.isascii() for character in text) - broken
    if intact < broken * (1 if data.isascii() else _INTACT):
        return None
    return Decoded(text, _ISO_2022_JP_MS, _replaced("ISO-2022-JP", broken) if broken else None)


def _damaged(data: bytes, encoding: str) -> Decoded | None:
    """Decode Unicode with a few broken bytes, as a cut inside a character leaves them; None if there are many."""
    text = data.decode(encoding, "replace")
    sample = text[:_GUESS_SAMPLE]
    intact = sum(not character.isascii() for character in sample) - sample.count("\ufffd")
    broken = text.count("\ufffd")
    if intact < _INTACT * broken:
        return None
    return Decoded(text, encoding, _replaced(encoding.upper(), broken))


def _replaced(encoding: str, broken: int) -> str:
    return f"invalid {encoding} sequences replaced by \ufffd: {broken}"


def _guess(data: bytes, language: str | None) -> Decoded:
    best: tuple[float, str, str, str] | None = None
    signs_in_words = len(_WINDOWS_SIGN.findall(data, 0, _GUESS_SAMPLE))
    for label, script in _CANDIDATES:
        decoded = _first_that_fits(data, _codecs_of(label))
        if decoded is None:
            continue
        cost = implausibility(decoded.text[:_GUESS_SAMPLE], script) + _HANDICAPS[script]
        if script in _TWO_BYTES:
            cost += _KANJI_IN_WORD * signs_in_words
        if language in _LANGUAGES_OF[script]:
            cost -= _DECLARED_BONUS
        if best is None or cost < best[0]:
            best = cost, script, decoded.encoding, decoded.text
    if best is not None and _is_usual(best[0], best[1], best[3][:_GUESS_SAMPLE]):
        return _guessed(best[3], best[2])
    from charset_normalizer import from_bytes

    guess = from_bytes(data[:_GUESS_SAMPLE], cp_isolation=list(_RARE_ENCODINGS)).best()
    text = _try(data, guess.encoding) if guess is not None else None
    if guess is not None and text is not None:
        return _guessed(text, guess.encoding)
    if best is None:
        raise DocumentError("no encoding fits the bytes: save it as UTF-8")
    return _guessed(best[3], best[2])


def _is_usual(cost: float, script: str, text: str) -> bool:
    """Whether a reading need not be doubted: its characters are usual, or too few for a statistical guess."""
    others = sum(not character.isascii() for character in text)
    return others < _FEW or cost - ASCII_COST * (len(text) - others) <= _USUAL_COSTS[script] * others


def _guessed(text: str, encoding: str) -> Decoded:
    return Decoded(text, encoding, f"no encoding is declared; the file was read as {encoding}")


def _codecs_of(label: str | None) -> tuple[str, ...]:
    if not label or label in _NEVER_DECLARED:
        return ()
    return _LABELS.get(label, (label,))


def _first_that_fits(data: bytes, encodings: tuple[str, ...]) -> Decoded | None:
    for encoding in encodings:
        text = _try(data, encoding)
        if text is not None:
            return Decoded(text, encoding)
    return None


def _try(data: bytes, encoding: str) -> str | None:
    try:
        return decode_euc_jp(data) if encoding == _EUC_JP_MS else data.decode(encoding)
    except (UnicodeError, LookupError):  # LookupError: Python has no such text encoding
        return None


def _checked(decoded: Decoded) -> Decoded:
    controls = len(_CONTROL.findall(decoded.text))
    if controls > 8 and controls * 50 > len(decoded.text):
        raise DocumentError("not a text file (it is full of control characters): save it as UTF-8 text")
    return decoded
