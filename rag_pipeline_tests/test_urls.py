"""Passwords are never shown, and what is not a password is."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_pipeline.urls import mask_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://rag:geheim@127.0.0.1:5432/rag", "postgresql://rag:***@127.0.0.1:5432/rag"),
        ("redis://:geheim@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("postgresql://rag:ge@heim@db/rag", "postgresql://rag:***@db/rag"),
        ("postgresql://rag:ge/he?im#@db:5432/rag", "postgresql://rag:***@db:5432/rag"),
        ("postgresql://rag:12/34@db:5432/rag", "postgresql://rag:***@db:5432/rag"),
        ("postgresql://db/rag?user=rag&password=geheim&x=1", "postgresql://db/rag?user=rag&password=***&x=1"),
        ("host=db password='ge heim' dbname=rag", "host=db password=*** dbname=rag"),
        ("https://db.example:19530?token=root:geheim", "https://db.example:19530?token=***"),
        ("http://127.0.0.1:19530", "http://127.0.0.1:19530"),
        ("postgresql://rag@db:5432/rag", "postgresql://rag@db:5432/rag"),
        (
            "redis://:one@a:1/0 and redis://:two@b:2/0 refused",
            "redis://:***@a:1/0 and redis://:***@b:2/0 refused",
        ),
        ("postgresql://rag:ge heim@db/rag refused", "postgresql://rag:***@db/rag refused"),
        ("postgresql://rag:ge / @ heim@db/rag", "postgresql://rag:***@db/rag"),
        ("http://127.0.0.1:19530 refused: ask me@db.example", "http://127.0.0.1:19530 refused: ask me@db.example"),
        ("http://127.0.0.1:19530/x,redis://:pw@h", "http://127.0.0.1:19530/x,redis://:***@h"),
        ("http://a.example/x,redis://:pw@h", "http://a.example/x,redis://:***@h"),
        ("http://[::1]:19530/x: ask me@db.example", "http://[::1]:19530/x: ask me@db.example"),
        ("401 Bearer abc.DEF-123/x= for /docs", "401 Bearer *** for /docs"),
        ("403 {'Authorization': 'Basic YTpi', 'Accept': '*'}", "403 {'Authorization': ***"),
        ("Cookie: session=abc; csrf=def", "Cookie: ***"),
        ("https://x/a.md?X-Amz-Signature=abc&sig=d&page=2", "https://x/a.md?X-Amz-Signature=***&sig=***&page=2"),
        ("AccountName=me;AccountKey=ab+c==;x=1", "AccountName=me;AccountKey=***;x=1"),
        ('{"access_token": "a b", "design": "x"}', '{"access_token": ***, "design": "x"}'),
        ("token='never closed, and more", "token=***"),
        ("design=3 pattern=x author=me monkey=y", "design=3 pattern=x author=me monkey=y"),
    ],
)
def test_shows_all_but_the_password(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(
    st.text(string.ascii_letters + string.digits + "_-", min_size=0, max_size=8),
    st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=4, max_size=20),
)
@example("", "0://")
@example("rag", "a://b:c://d:@://")
@example("", "://" * 6)
def test_no_password_is_left(user: str, password: str) -> None:
    secret = f"Q{password}Q"
    masked = mask_url(f"postgresql://{user}:{secret}@db.example:5432/rag")
    assert secret not in masked
    assert masked == f"postgresql://{user}:***@db.example:5432/rag"
    assert mask_url(masked) == masked


@pytest.mark.parametrize(
    "part", ["://", "://a:", "://a:b ", "://a:1 ", "token='", "token ", "token=", "-", "cookie ", "bearer "]
)
def test_the_work_grows_with_the_length_of_the_text_and_not_with_its_square(part: str) -> None:
    # A quadratic pattern needs minutes for this, which the limit on each test catches; a linear one some milliseconds.
    mask_url(part * 200_000)
