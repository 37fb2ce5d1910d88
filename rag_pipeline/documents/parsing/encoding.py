"""Decoding of text in any encoding that Japanese documents of the last thirty years use."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass

from rag_pipeline.errors import DocumentError

_BYTE_ORDER_MARKS = (
    # The UTF-32 little-endian mark begins with that of UTF-16, so it is tested first.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# What a label means in practice, as browsers read it (https://encoding.spec.whatwg.org/#names-and-labels). The
# names on the right are Python's codecs, tried in order.
_LABELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji", "cp932"),
        ("cp932", "shift_jisx0213"),
    ),
    **dict.fromkeys(("euc-jp", "x-euc-jp", "eucjp"), ("euc_jp", "euc_jis_2004")),
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
_DECLARED_WITHIN = 4096
_ESCAPE_2022 = re.compile(rb"\x1b[$(]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u30fc\u3001\u3002]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_GUESS_SAMPLE = 128 * 1024


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


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """Decode the bytes of a text.

    Tries in this order: a byte order mark; ISO-2022-JP by its escapes; UTF-8; the declared encoding; UTF-8 with a
    few broken bytes; CP932 and EUC-JP, if the result reads like Japanese; the guess of charset-normalizer. UTF-8
    goes before the declared encoding because bytes in another encoding are almost never valid UTF-8, while pages
    with an outdated declaration are common.

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
        for encoding in _LABELS["iso-2022-jp"]:
            text = _try(data, encoding)
            if text is not None:
                return _checked(Decoded(text, encoding))
    text = _try(data, "utf-8")
    if text is not None:
        return _checked(Decoded(text, "utf-8"))
    for encoding in _codecs_of(declared):
        text = _try(data, encoding)
        if text is not None:
            return _checked(Decoded(text, encoding))
    return _checked(_damaged(data, "utf-8") or _guess(data))


def _damaged(data: bytes, encoding: str) -> Decoded | None:
    """Decode Unicode with a few broken bytes, as a cut inside a character leaves them; None if there are many."""
    text = data.decode(encoding, "replace")
    sample = text[:_GUESS_SAMPLE]
    intact = sum(not character.isascii() for character in sample) - sample.count("\ufffd")
    broken = text.count("\ufffd")
    if intact < 20 * broken:
        return None
    return Decoded(text, encoding, f"invalid {encoding.upper()} sequences replaced by \ufffd: {broken}")


def _guess(data: bytes) -> Decoded:
    best, best_likeness = None, 0.0
    # The larger sets of JIS X 0213 fill the gaps that tell Chinese from Japanese, so they need kana as proof.
    for encoding, needed in (("cp932", 0.8), ("euc_jp", 0.8), ("shift_jisx0213", 1.0), ("euc_jis_2004", 1.0)):
        text = _try(data, encoding)
        if text is not None and (likeness := _likeness_to_japanese(text)) >= max(needed, best_likeness + 0.001):
            best, best_likeness = _guessed(text, encoding), likeness
    if best is not None:
        return best
    from charset_normalizer import from_bytes

    guess = from_bytes(data[:_GUESS_SAMPLE]).best()
    text = _try(data, guess.encoding) if guess is not None else None
    if guess is None or text is None:
        raise DocumentError("no encoding fits the bytes: save it as UTF-8")
    return _guessed(text, guess.encoding)


def _guessed(text: str, encoding: str) -> Decoded:
    return Decoded(text, encoding, f"no encoding is declared; the file was read as {encoding}")


def _likeness_to_japanese(text: str) -> float:
    """Return the share of kana, signs and common kanji in the non-ASCII characters, plus 1 if kana are frequent.

    Latin-1 can look like a few scattered kanji, but mostly like rare ones.
    """
    counts = Counter(character for character in text[:_GUESS_SAMPLE] if not character.isascii())
    total = max(1, counts.total())
    common = sum(count for character, count in counts.items() if _is_common(character))
    kana = sum(count for character, count in counts.items() if _KANA.match(character))
    return common / total + (kana / total > 0.15)


def _is_common(character: str) -> bool:
    # JIS X 0208 has signs and kana in rows 1 to 8 and the 2,965 common kanji in rows 16 to 47; EUC-JP encodes row
    # n as the byte 0xA0 + n.
    row = character.encode("euc_jp", "replace")[0]
    return 0xA1 <= row <= 0xA8 or 0xB0 <= row <= 0xCF


def _codecs_of(label: str | None) -> tuple[str, ...]:
    if not label or label in _NEVER_DECLARED:
        return ()
    return _LABELS.get(label, (label,))


def _try(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):  # LookupError: Python has no such text encoding
        return None


def _checked(decoded: Decoded) -> Decoded:
    controls = len(_CONTROL.findall(decoded.text))
    if controls > 8 and controls * 50 > len(decoded.text):
        raise DocumentError("not a text file (it is full of control characters): save it as UTF-8 text")
    return decoded
