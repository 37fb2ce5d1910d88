"""What a profile may say. The address of a picture becomes part of a page and of its policy: it is hostile."""

from __future__ import annotations

import pytest

from rag_pipeline.accounts import profiles
from rag_pipeline.errors import ConfigError

HOSTILE_AVATARS = [
    "javascript:alert(1)",
    "data:image/png;base64,AAAA",
    "http://example.com/a.png",
    "//example.com/a.png",
    "/a.png",
    "https://",
    "https:///a.png",
    "https:example.com/a.png",
    "https:\\\\example.com\\a.png",
    "https://user@example.com/a.png",
    "https://user:secret@example.com/a.png",
    "https://example.com\\@evil.example/a.png",
    "https://a.example;script-src https://evil.example/a.png",
    "https://a.example;script-src%20*/a.png",
    "https://a.example,b.example/a.png",
    "https://a.example b.example/a.png",
    "https://*/a.png",
    "https://*.example.com/a.png",
    "https://'self'/a.png",
    "https://'unsafe-inline'",
    "https://example.com/a'.png",
    'https://example.com/a".png',
    'https://example.com/"onerror="alert(1)',
    "https://example.com/<script>",
    "https://example.com/a b.png",
    "https://example.com/a.png\n",
    "https://example.com/\ra.png",
    "https://example.com/a\tb.png",
    "https://example.com/a\0.png",
    "https://example.com/a.png#x",
    "https://example.com/写真.png",
    "https://例え.jp/a.png",
    "https://example.com\u3002evil.example/a.png",
    "https://example.\u017fite/a.png",
    "https://example.com:0/a.png",
    "https://example.com:65536/a.png",
    "https://example.com:/a.png",
    "https://example.com:443x/a.png",
    "https://-example.com/a.png",
    "https://example-.com/a.png",
    "https://example..com/a.png",
    "https://example.com./a.png",
    "https://exa_mple.com/a.png",
    "https://127.0.0.1/a.png",
    "https://2130706433/a.png",
    "https://[::1]/a.png",
    "HTTPS://example.com/a.png",
    " https://example.com/a.png",
    f"https://{'a' * 64}.example/a.png",
    f"https://{'a.' * 150}example/a.png",
    f"https://example.com/{'a' * 2000}",
    "x",
]


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
