from __future__ import annotations

from uuid import UUID

import pytest

from rag_pipeline.accounts import passwords, permissions
from rag_pipeline.errors import ConfigError

OPEN, HR, BOTH = UUID(int=1), UUID(int=2), UUID(int=3)
ACCESS = {HR: ["hr"], OPEN: [], BOTH: ["hr", "board"]}


@pytest.mark.parametrize(
    ("held", "visible"),
    [
        ({"search"}, [OPEN]),
        ({"search", "hr"}, [OPEN, HR]),
        ({"board"}, [OPEN]),
        ({"hr", "board"}, None),
        ({"*"}, None),
        (set(), [OPEN]),
    ],
)
def test_a_source_is_seen_with_all_permissions_that_it_asks_for(held, visible):
    assert permissions.visible_sources(held, ACCESS) == visible


def test_a_key_has_no_more_than_its_user():
    user = permissions.of_user("viewer", ["hr"])
    assert permissions.of_key(["search", "hr", "board"], user) == {"search", "hr"}
    assert permissions.of_key(["*"], user) == user
    assert permissions.of_key(["search", "board"], permissions.of_user("super_admin", [])) == {"search", "board"}
    assert permissions.of_user("nothing", []) == frozenset()


def test_every_role_may_search():
    assert set(permissions.OF_ROLE) == set(permissions.ROLES)
    assert all(permissions.allows(held, permissions.SEARCH) for held in permissions.OF_ROLE.values())


@pytest.mark.parametrize("name", ["", "HR", "*", "人事", "a b", "-a", "x" * 64])
def test_a_permission_has_a_name_that_can_be_typed(name):
    with pytest.raises(ConfigError, match="is not a permission"):
        permissions.checked(name)


def test_passwords_are_stored_as_argon2id():
    stored = passwords.hashed("correct horse battery")
    assert stored.startswith("$argon2id$")
    assert passwords.matches(stored, "correct horse battery")
    assert not passwords.matches(stored, "correct horse batterz")
    assert not passwords.matches("nonsense", "correct horse battery")
    assert not passwords.is_outdated(stored)
    assert passwords.is_outdated("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$8sSzg+zUbSZ4CfTxlA0NuA")
    for wrong in ("short", "x" * 1025):
        with pytest.raises(ConfigError, match="12 to 1024 characters"):
            passwords.hashed(wrong)


FIRST_TRIED = """
Password@123 admin@123456 Admin@12345678 Welcome@2024 root@1234567 P@$$word@123 w3lc0me-t0-t0ky0
1234qwer!@#$ qwer1234!@#$ 1q2w3e4r!@#$ 1234QWER!"#$ !@#$%^&*()_+ !!!!????####%%%%&&&&
1qaz@WSX3edc 1qaz2wsx3edc4rfv zaq1@WSXcde3 147258369147 ｐａｓｓｗｏｒｄ１２３４
"""


@pytest.fixture(scope="module")
def present() -> str:
    return passwords.hashed("correct horse battery")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "length"),
        ("x" * 1025, "length"),
        ("aaaaaaaaaaaa", "alike"),
        ("abcabcABCabc", "alike"),
        ("Hanako@Example.com", "address"),
        ("our hanako, a fine user", "address"),
        ("password1234", "known"),
        ("P@ssw0rd!2024", "known"),
        ("Password-Password", "known"),
        ("letmein letmein", "known"),
        ("abcdefghijkl", "known"),
        ("123456789012", "known"),
        ("qwertyuiop12", "known"),
        ("abcd-4321-qwerty", "known"),
        ("1q2w3e4r5t6y", "known"),
        ("ragpipeline2024", "known"),
        ("qwertyuiopas", "known"),
        ("pasuwado-pasuwado", "known"),
        ("Example2024example", "known"),
        ("password" * 128, "known"),
        *((password, "known") for password in FIRST_TRIED.split()),
        ("ＨＡＮＡＫＯ of the shop", "address"),
        ("correct horse battery", "present"),
        ("correct horse battery staples", None),
        ("password of the tofu shop", None),
        ("豆腐とわかめの味噌汁を作る", None),
        ("839204718365", None),
        ("k7#Vq!m2Zr9x", None),
        ("839201234365", None),
        ("tofu@shop$2024", None),
    ],
)
def test_a_password_that_is_easy_to_guess_is_refused(password, reason, present):
    if reason is None:
        assert passwords.matches(passwords.chosen(password, "hanako@example.com", present), password)
        return
    with pytest.raises(passwords.PasswordError) as refused:
        passwords.chosen(password, "hanako@example.com", present)
    assert (refused.value.reason, "choose" in str(refused.value)) == (reason, True)
    assert "\n" not in str(refused.value)


def test_a_short_name_before_the_at_may_be_in_a_password():
    assert passwords.chosen("a custom-made teapot", "tom@example.com")
