"""EUC-JP and ISO-2022-JP as Windows and IBM write them, with rows of signs and names that Python's codecs refuse.

①, ㈱, 髙 and 﨑 are in no Japanese standard of that time: NEC added row 13 and rows 89 to 92 to JIS X 0208 (Windows calls
the results CP51932 and CP50221), and Unix put IBM's characters behind JIS X 0212 (eucJP-ms). Python has them in cp932.
"""

from __future__ import annotations

import codecs
import re
from functools import cache

_NEC_ROWS = frozenset((0xAD, 0xF9, 0xFA, 0xFB, 0xFC))
_SEQUENCE = re.compile(rb"\x8f[\xa1-\xfe]{0,2}|.[\xa1-\xfe]?", re.DOTALL)
_IBM_ROWS_IN_CP932 = range(115, 120)
_FIRST_PLACE = 0xF3F3

_TO_JAPANESE = re.compile(rb"\x1b(?:\$[@B]|\$\(D|\(I)")
_RUN = re.compile(rb"\x1b(\$[@B]|\$\(D|\([BIJ])([^\x1b\r\n]*)")
_CUT_ESCAPE = re.compile(rb"\x1b(?:\$\(?|\()?\Z")
_HIGH = bytes(byte | 0x80 if 0x21 <= byte <= 0x7E else byte for byte in range(256))
_NOT_EUC = b"\xff"


def decode_euc_jp(data: bytes) -> str:
    """Decode EUC-JP with the rows of the vendors. Raises `UnicodeDecodeError` at what is in none of them."""
    return data.decode("euc_jp", _STRICT)


def has_japanese_escapes(data: bytes) -> bool:
    """Whether an escape of ISO-2022-JP says that kanji or kana follow."""
    return _TO_JAPANESE.search(data) is not None


def decode_iso_2022_jp(data: bytes) -> str:
    """Decode ISO-2022-JP with the rows of the vendors, U+FFFD for what is in none of them or cut.

    A line starts in ASCII, so what an escape that was lost makes unreadable ends with its line.
    """
    data = _CUT_ESCAPE.sub(_NOT_EUC, data)
    return _RUN.sub(lambda run: _as_euc(run[1], run[2]), data).decode("euc_jp", _REPLACING)


def _as_euc(escape: bytes, run: bytes) -> bytes:
    """Return the bytes after an escape as EUC-JP has them."""
    if escape in (b"(B", b"(J"):
        return run
    high = run.translate(_HIGH)
    if escape == b"(I":
        return re.sub(rb"[\xa1-\xdf]", b"\x8e\\g<0>", high)
    if escape == b"$(D":
        return re.sub(rb"[\xa1-\xfe]{2}", b"\x8f\\g<0>", high)
    return high


def _vendor_character(error: UnicodeError) -> tuple[str, int]:
    """Return the character that `euc_jp` refuses, and where the next one starts."""
    if isinstance(error, UnicodeDecodeError):
        sequence = _sequence(error)
        character = None
        if len(sequence) == 3:
            character = _ibm_rows().get(sequence[1:])
        elif sequence[0] in _NEC_ROWS and len(sequence) == 2:
            character = _in_cp932(sequence[0] - 0xA0, sequence[1] - 0xA0)
        if character is not None:
            return character, error.start + len(sequence)
    raise error


def _vendor_character_or_replaced(error: UnicodeError) -> tuple[str, int]:
    try:
        return _vendor_character(error)
    except UnicodeDecodeError as unknown:
        return "\ufffd", unknown.start + len(_sequence(unknown))


def _sequence(error: UnicodeDecodeError) -> bytes:
    """Return all bytes of the refused character: if one were left, it would shift all that follow."""
    match = _SEQUENCE.match(error.object, error.start)
    assert match is not None
    return match[0]


def _in_cp932(row: int, cell: int) -> str | None:
    """Return what cp932 has in a row and a cell (1 to 94), both counted as JIS X 0208 does."""
    first = (row - 1) // 2 + (0x81 if row <= 62 else 0xC1)
    second = cell + (0x9E if row % 2 == 0 else 0x3F if cell <= 63 else 0x40)
    try:
        return bytes((first, second)).decode("cp932")
    except UnicodeDecodeError:
        return None


@cache
def _ibm_rows() -> dict[bytes, str]:
    """Return IBM's characters by the last two of their three bytes in eucJP-ms: those that JIS X 0212 has not."""
    characters = (_in_cp932(row, cell) for row in _IBM_ROWS_IN_CP932 for cell in range(1, 95))
    new = (
        character
        for character in characters
        if character == "№" or (character is not None and character not in "￢￤" and not _in_jis(character))
    )
    places = range(_FIRST_PLACE, _FIRST_PLACE + 2 * 0x100)
    return dict(
        zip((place.to_bytes(2, "big") for place in places if 0xA1 <= place & 0xFF <= 0xFE), new, strict=False)
    )


def _in_jis(character: str) -> bool:
    try:
        character.encode("euc_jp")
    except UnicodeEncodeError:
        return False
    return True


_STRICT = "rag_pipeline.vendor_rows"
_REPLACING = "rag_pipeline.vendor_rows.replacing"
codecs.register_error(_STRICT, _vendor_character)
codecs.register_error(_REPLACING, _vendor_character_or_replaced)
