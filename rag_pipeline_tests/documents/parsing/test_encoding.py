from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.parsing.encoding import declared_encoding, decode
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
