"""Passwords are never shown, and what is not a password is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
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
    ],
)
def test_shows_all_but_the_password(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(
    st.text(string.ascii_letters + string.digits + "_-", min_size=0, max_size=8),
    st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=4, max_size=20),
)
def test_no_password_is_left(user: str, password: str) -> None:
    secret = f"Q{password}Q"
    masked = mask_url(f"postgresql://{user}:{secret}@db.example:5432/rag")
    assert secret not in masked
    assert masked == f"postgresql://{user}:***@db.example:5432/rag"
    assert mask_url(masked) == masked
