from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.parsing.encoding import Decoded, declared_encoding, decode
from rag_pipeline.errors import DocumentError

TEXT = "これは日本語の文章です。①番の高橋さんは、東京に行きました。\n"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp932", "euc_jis_2004", "iso2022_jp_2004"],
)
def test_japanese_in_every_encoding(encoding: str) -> None:
    assert decode(TEXT.encode(encoding)).text == TEXT


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "iso2022_jp"])
@pytest.mark.parametrize("text", ["東京都千代田区議会", "ひらがな", "カタカナ", "表示・設定ソフト―能力"])
def test_short_japanese_without_a_declaration(encoding: str, text: str) -> None:
    decoded = decode(text.encode(encoding))
    assert decoded.text == text
    assert (decoded.warning is None) == (encoding == "iso2022_jp")


@pytest.mark.parametrize("text", ["Müller wohnt in der Großen Straße.", "日本語 and English"])
def test_valid_utf8_is_read_without_a_warning(text: str) -> None:
    assert decode(text.encode()).warning is None


_NAMES = (
    "齋藤",
    "髙橋",
    "渡邊",
    "渡邉",
    "山田",
    "佐藤",
    "田中",
    "鈴木",
    "小林",
    "吉田",
    "伊藤",
    "山本",
    "斎藤",
    "東京",
)
_WORDS = (
    *_NAMES,
    "仕様書",
    "会議",
    "株式会社",
    "第１章",
    "です。",
    "について",
    "サーバー",
    "エラー",
    "「設定」",
    "1",
    " ",
    "\n",
)
_HALF_WIDTH = ("ﾔﾏﾀﾞ", "ﾀﾛｳ", "ｶﾌﾞｼｷｶﾞｲｼｬ", "ｻｰﾊﾞ", "ﾊﾞｯｸｱｯﾌﾟ", "ﾃｽﾄ", "ｽｽﾞｷ")


def _decoded(text: str, encoding: str, language: str | None = None) -> str:
    return decode(text.encode(encoding), language=language).text


@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        ("齋藤 髙橋 渡邊", ("cp932",)),
        ("齋藤 高橋 渡邊", ("cp932", "euc_jp")),
        ("ﾔﾏﾀﾞ ﾀﾛｳ", ("cp932", "euc_jp")),
        ("半角ｶﾅです", ("cp932", "euc_jp")),
        ("山田", ("cp932", "euc_jp")),
        ("㈱山田", ("cp932",)),
    ],
)
@pytest.mark.parametrize("language", [None, "ja"])
def test_names_and_half_width_kana(text: str, encodings: tuple[str, ...], language: str | None) -> None:
    for encoding in encodings:
        assert _decoded(text, encoding, language) == text


@given(
    st.lists(st.sampled_from(_WORDS), min_size=1, max_size=8).map("".join),
    st.sampled_from(["cp932", "euc_jp", "iso2022_jp"]),
)
def test_japanese_words_come_back_in_each_encoding(text: str, encoding: str) -> None:
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:  # EUC-JP has no 髙
        return
    assert decode(data).text == text
    assert decode(f"---\nlang: ja\n---\n{text}".encode(encoding)).text.endswith(text)


@given(st.lists(st.sampled_from([*_NAMES, *_HALF_WIDTH]), min_size=1, max_size=8).map(" ".join))
def test_names_in_half_width_kana_come_back(text: str) -> None:
    assert _decoded(text, "cp932") == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("déjà vu, café, naïve", "cp1252"),
        ("Große Straße", "cp1252"),
        ("François", "cp1252"),
        ("“quoted” – 5 £", "cp1252"),
        ("Zażółć gęślą jaźń", "cp1250"),
        ("Привет, мир!", "cp1251"),
        ("안녕하세요", "cp949"),
        ("数据库管理系统的设计与实现", "gb18030"),
        ("資料庫管理系統設計與實現方法", "big5"),
        ("Καλημέρα κόσμε, τι κάνετε σήμερα; Ελπίζω καλά.", "cp1253"),
    ],
)
def test_other_languages_are_not_mistaken_for_japanese(text: str, encoding: str) -> None:
    assert _decoded(text, encoding) == text


_AS_WINDOWS_WRITES = (
    "受付は9時～17時、担当は髙橋です。10～20件。",
    "０３－１２３４－５６７８、髙橋",
    "期間：4月～6月、担当：㈱宮﨑",
    "①～⑳の手順、㈲﨑山商店 №3",
    "Ⅰ．概要\nⅱ～ⅲ．㍻30年\n",
    "髙島屋",
    "～",
    "－",
)
_IN_JIS = str.maketrans("～－", "〜−")
_OF_IBM = {
    "髙": (b"\xfb\xfc", b"\x8f\xf4\xfb"),
    "﨑": (b"\xfa\xb1", b"\x8f\xf4\xbd"),
    "ⅱ": (b"\xfa\x41", b"\x8f\xf3\xf4"),
}
"""What iconv writes in CP932 and in EUC-JP-MS."""


def _jis(character: str) -> bytes:
    """The two bytes of JIS X 0208 with the rows of NEC, for which Python has no codec."""
    lead, trail = character.encode("cp932")
    row = (lead - (0x81 if lead < 0xE0 else 0xC1)) * 2 + (trail >= 0x9F)
    cell = trail - (0x9F if trail >= 0x9F else 0x41 if trail > 0x7F else 0x40)
    return bytes((row + 0x21, cell + 0x21))


def _cp51932(text: str) -> bytes:
    return b"".join(c.encode() if c.isascii() else bytes(b | 0x80 for b in _jis(c)) for c in text)


def _cp50221(text: str) -> bytes:
    return b"".join(c.encode() if c.isascii() else b"\x1b$B" + _jis(c) + b"\x1b(B" for c in text).replace(
        b"\x1b(B\x1b$B", b""
    )


def _of_ibm(data: bytes, codec: Callable[[str], bytes], column: int) -> bytes:
    for character, coded in _OF_IBM.items():
        data = data.replace(codec(character), coded[column])
    return data


def _windows_31j(text: str) -> bytes:
    return _of_ibm(text.encode("cp932"), lambda character: character.encode("cp932"), 0)


def _eucjp_ms(text: str) -> bytes:
    return _of_ibm(_cp51932(text), _cp51932, 1)


@pytest.mark.parametrize("language", [None, "ja"])
@pytest.mark.parametrize("text", _AS_WINDOWS_WRITES)
def test_signs_and_names_that_windows_adds_come_back(text: str, language: str | None) -> None:
    for data in (text.encode("cp932"), _windows_31j(text)):
        assert decode(data, language=language).text == text
        assert decode(data, "shift_jis").text == text
    for data in (_cp51932(text), _eucjp_ms(text)):
        assert decode(data, "euc-jp").text == text.translate(_IN_JIS)
        assert len(text) < 2 or decode(data, language=language).text == text.translate(_IN_JIS)
    decoded = decode(_cp50221(text), language=language)
    assert (decoded.text, decoded.warning) == (text.translate(_IN_JIS), None)


def test_jis_x_0213_is_still_read_where_windows_has_no_such_character() -> None:
    text = "森鷗外の小説を読む。"
    for encoding in ("shift_jisx0213", "euc_jis_2004"):
        assert _decoded(text, encoding) == text


@pytest.mark.parametrize("cut", range(1, 12))
@pytest.mark.parametrize(
    "text", ["会議は①三月五日に、担当は髙橋です", "会議は三月五日です。\n担当は山田ｶﾅです。\n"]
)
def test_iso_2022_jp_that_is_cut_is_read_up_to_there(text: str, cut: int) -> None:
    data = _cp50221(text) if "①" in text else text.encode("iso2022_jp_ext")
    decoded = decode(data[:-cut])
    read = decoded.text.removesuffix("\ufffd")
    assert text.startswith(read)
    assert len(read) >= len(text) - cut
    replaced = "invalid ISO-2022-JP sequences replaced by \ufffd: 1"
    assert decoded.warning == (replaced if decoded.text != read else None)


@pytest.mark.parametrize("damage", [b"/!", b"\xa9", b"$"])
def test_damaged_iso_2022_jp_loses_a_character_or_a_line(damage: bytes) -> None:
    line = "この手順書では、設定ファイルの場所を説明します。\n".encode("iso2022_jp")
    decoded = decode(line + b"\x1b$B5-" + damage + b"\x1b(B\n" + line)
    first, damaged, last = decoded.text.splitlines()
    assert (first, damaged, last) == (first, "記\ufffd", first)
    assert first.endswith("説明します。")
    assert decoded.warning == "invalid ISO-2022-JP sequences replaced by \ufffd: 1"


def test_iso_2022_jp_of_which_little_is_left_is_rejected() -> None:
    with pytest.raises(DocumentError, match="ISO-2022-JP characters are damaged"):
        decode(b"\x1b$B/!/!/!$3\x1b(B")


@given(st.sampled_from([b"\x1b$B", b"\x1b$(D", b"\x1b(I", b""]), st.binary(max_size=30))
def test_whatever_follows_an_escape_is_read_or_rejected(escape: bytes, data: bytes) -> None:
    with contextlib.suppress(DocumentError):
        decoded = decode(escape + data)
        assert decoded.warning or "\ufffd" not in decoded.text


@pytest.mark.parametrize(
    "text", ["log \x1b[31m ok", "the bytes \x1b$B5-;v\x1b(B mean 記事", "日本語 \x1b(B\x1b[m"]
)
def test_escapes_in_utf8_change_nothing(text: str) -> None:
    assert decode(text.encode()) == Decoded(text, "utf-8")


_ENGLISH = "The quick brown fox jumps over the lazy dog. "


@pytest.mark.parametrize("before", ["", _ENGLISH * 50])
@pytest.mark.parametrize("language", [None, "en"])
@pytest.mark.parametrize(
    "text",
    [
        "Don’t panic. They’re here. We’ve won. I’m ok. He’d say: you’ll see.",
        "You’ll see the user’s guide. Don’t run it.",
        "It’s",
        "“Don’t”, she said—and the company’s ‘new’ idea was dropped.",
        "a word—another word—and more",
        "•First item\n•Second item\n",
        "Temperatures of 20 °C to 25 °C, or 68 °F.",
        "50 µm",
        "The size is 3×4 metres ±5 %.",
        "£5 each, £10 for two, £20 for five, £50 for a box, £100 for all",
        "Windows® and Office™ and Word™ and Excel™ and Azure™",
        "à la carte, à la mode, à la king, vis-à-vis, à propos",
        "L’été dernier, j’ai passé l’heure d’y aller, n’est-ce pas ?",
        "« Bonjour », dit-il. L’œuvre d’art coûte 5 €.",
        "„Hallo“, sagte Müller’s Frau – bei 20 °C.",
    ],
)
def test_signs_of_windows_1252_are_not_mistaken_for_kanji(text: str, language: str | None, before: str) -> None:
    assert _decoded(before + text, "cp1252", language) == before + text


@pytest.mark.parametrize(
    "text",
    [
        "Windows版 10\nMac版 12\n",
        "Mac用\nWindows用\n",
        "pH値 7.2",
        "SNS知 ",
        "記稚 記知",
        "2024 年",
        "品名\t数量\nIC値\t30\n",
        "英語の Don't と it's を含む",
        "────────────\n概要\n────────────\n",
        "┌──┐\n│表│\n└──┘",
    ],
)
def test_kanji_beside_latin_letters_and_rules_stay_japanese(text: str) -> None:
    assert _decoded(text, "cp932") == text


@pytest.mark.parametrize(
    ("encoding", "texts"),
    [
        ("gb18030", ("中文", "2024 年 5 月 3 日", "A股上涨", "T恤 和 K线", "温度为20℃", "第一章 概述")),
        ("big5", ("香港", "2024 年 5 月 3 日", "備註: 無", "附件： 無 ", "安裝步驟如下", "溫度20℃")),
        ("cp949", ("대한민국", "2024년 5월 3일", "사용자 설명서", "온도는 20℃입니다", "제1장 개요")),
        ("cp1250", ("Łódź", "Příliš žluťoučký kůň")),
        ("cp1251", ("Москва", "Привет, мир! Я и ты")),
        ("koi8_r", ("Москва", "Съешь ещё этих мягких французских булок")),
        ("latin_1", ("señor", "não é possível", "Ångström", "½ cup")),
    ],
)
def test_other_encodings_stay_what_they_are(encoding: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        assert _decoded(text, encoding) == text
        assert _decoded((text + "\n") * 4, encoding) == (text + "\n") * 4


def test_the_declared_language_decides_between_likely_readings() -> None:
    data = "서울".encode("cp949")
    assert decode(data).text != "서울"
    assert decode(data, language="ko").text == "서울"
    assert decode(b"---\nlang: ko\n---\n" + data, language="ja").text.endswith("서울")
    assert decode(b'<html lang="ko"><p>' + data).text.endswith("서울")


def test_western_text_is_not_mistaken_for_kanji() -> None:
    text = "Grüße aus München, schöne Straßen überall und viel Spaß beim Lesen dieser Zeilen."
    assert decode(text.encode("latin-1")).text == text


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        (b'<meta charset="Shift_JIS">', "shift_jis"),
        (b"<META http-equiv=Content-Type content='text/html; charset=EUC-JP'>", "euc-jp"),
        (b'<?xml version="1.0" encoding="iso-8859-1"?>', "iso-8859-1"),
        (b"<p>charset=utf-8</p>", None),
    ],
)
def test_declarations(declaration: bytes, encoding: str | None) -> None:
    assert declared_encoding(declaration) == encoding


@pytest.mark.parametrize(("declared", "codec"), [("x-sjis", "cp932"), ("gb2312", "gb18030"), ("koi8-r", "koi8-r")])
def test_a_declared_encoding_is_honoured(declared: str, codec: str) -> None:
    text = "№ Д" if codec == "koi8-r" else "漢字"
    text = text.replace("№ ", "") if codec == "koi8-r" else text
    decoded = decode(text.encode(codec), declared)
    assert (decoded.text, decoded.warning) == (text, None)


@pytest.mark.parametrize("declared", ["shift_jis", "iso-8859-1", "no-such-encoding", "base64", "utf-16", "idna"])
def test_a_wrong_declaration_does_not_break_utf8(declared: str) -> None:
    assert decode(TEXT.encode(), declared).text == TEXT


def test_a_truncated_character_is_replaced_with_a_warning() -> None:
    decoded = decode(TEXT.encode()[:-2])
    assert decoded.text == TEXT[:-2] + "\ufffd"
    assert decoded.warning == "invalid UTF-8 sequences replaced by \ufffd: 1"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a\x00b", "NUL"),
        (b"\xff\xfe\x00", "UTF-16"),
        (bytes(range(1, 256)), "encoding|control"),
        (bytes(range(1, 9)) * 10, "control characters"),
    ],
)
def test_bytes_that_are_not_text_are_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        decode(data)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_utf8_is_always_read_unchanged(text: str) -> None:
    assert decode(text.encode("utf-8-sig")).text == text
