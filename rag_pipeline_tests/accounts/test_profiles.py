"""What a profile may say. The address of a picture becomes part of a page and of its policy: it is hostile."""

from __future__ import annotations

import pytest

from rag_pipeline.accounts import profiles
from rag_pipeline.errors import ConfigError
from rag_pipeline_tests.support.avatars import HOSTILE_AVATARS


@pytest.mark.parametrize("url", HOSTILE_AVATARS)
def test_a_hostile_picture_is_refused(url: str):
    assert profiles.avatar_origin(url) is None
    with pytest.raises(ConfigError, match=r"is not the address of a picture.*https://example\.com/hanako\.png"):
        profiles.checked(avatar=url)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com/a.png", "https://example.com"),
        ("https://cdn-1.example.co.jp:8443/p/a%20b;c,d@2x.png?s=64&d=x/y", "https://cdn-1.example.co.jp:8443"),
        ("https://xn--r8jz45g.jp/a.png", "https://xn--r8jz45g.jp"),
        ("https://intranet/a.png", "https://intranet"),
        ("https://example.com?u=1", "https://example.com"),
    ],
)
def test_a_picture_has_one_origin(url: str, origin: str):
    assert profiles.avatar_origin(url) == origin
    assert profiles.checked(avatar=url) == {"avatar_url": url}


def test_only_what_is_given_changes():
    assert profiles.checked() == {}
    assert profiles.checked(name=" 山田花子 ") == {"full_name": "山田花子"}
    assert profiles.checked(name="", timezone="", avatar="") == {"full_name": "", "timezone": "", "avatar_url": ""}


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[1m", "gnp\u202e.exe", "\udc80", "x" * 256])
def test_a_name_is_one_line_that_hides_nothing(name: str):
    with pytest.raises(ConfigError, match="is not a name"):
        profiles.checked(name=name)


@pytest.mark.parametrize(
    "zone", ["Asia", "asia/tokyo", "../../etc/passwd", "JST+9", "Mars/Olympus", " ", "x" * 300]
)
def test_a_time_zone_is_one_of_the_database(zone: str):
    with pytest.raises(ConfigError, match=r"is not a time zone.*Asia/Tokyo"):
        profiles.checked(timezone=zone)
