"""The search page in a real browser: Debian's chromium, where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from rag_pipeline.accounts import api_keys, users
from rag_pipeline_tests.support.http_service import PASSWORD, Service, running
from rag_pipeline_tests.support.search_index import SearchIndex

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def curl(url: str, key: str, body: dict[str, str]) -> dict[str, Any]:
    """Ask as the README does."""
    headers = ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    command = ["curl", "--silent", "--fail", "--noproxy", "*", *headers, "-d", json.dumps(body), url]
    answer: dict[str, Any] = json.loads(subprocess.check_output(command))
    return answer


@pytest.mark.parametrize("width", [1200, 320])
def test_no_long_word_makes_a_page_wider_than_its_window(index: SearchIndex, browser: playwright.Browser, width):
    long = "unbreakable" * 14
    index.write("long.md", f"# {long}\n\n## {long}\n\n{long} 豆腐\n\n    {long}")
    index.ingest()
    email = "long@example.com"
    users.add(index.pipeline.stores.database, email, PASSWORD, role="editor")
    api_keys.create(index.pipeline.stores.database, long, email)
    with running(index.pipeline) as service:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, base_url=str(service.client.base_url)
        )
        page = context.new_page()
        page.goto("/login")
        page.fill("input[name=email]", email)
        page.fill("input[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#q")
        page.goto("/?q=豆腐")
        assert page.locator(".hit bdi", has_text=long).count() >= 1
        opened = page.locator(".hit a", has_text=long).first.get_attribute("href")
        for path in ("/?q=豆腐", f"/?q={long}", opened, "/keys", "/password"):
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        context.close()


@pytest.mark.parametrize(
    "device",
    [
        {"locale": "ja-JP", "viewport": {"width": 1200, "height": 900}},
        {"locale": "en-US", "viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
    ],
    ids=["wide, light, Japanese", "narrow, dark, English"],
)
def test_log_in_search_filter_judge_open_and_make_a_key(service: Service, browser: playwright.Browser, device):
    email = f"browser-{device['locale'].lower()}@example.com"
    users.add(service.pipeline.stores.database, email, PASSWORD, role="editor")
    context = browser.new_context(**device, base_url=str(service.client.base_url))
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto("/?q=休暇の取り方")
    page.fill("input[name=email]", email)
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")

    page.wait_for_selector(".hit")
    assert page.locator(".hit").count() == 10
    assert page.locator("mark").first.inner_text() == "休暇"
    assert page.evaluate("document.documentElement.lang") == device["locale"][:2]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= device["viewport"]["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 200
    assert dark == (device.get("color_scheme") == "dark")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # From "Skip to the results", the next stop is the first of them.
    assert page.evaluate("document.activeElement.closest('h2').id") == "hit1"

    page.get_by_role("link", name="notes", exact=True).click()
    page.wait_for_url("**source=notes**")
    assert page.locator(".hit").count() == 4
    pressed = page.locator(".hit >> nth=2").locator("[aria-pressed=true]")
    with page.expect_navigation(url="**#hit3"):
        page.locator(".hit >> nth=2").locator(".judge button >> nth=0").click()
    assert pressed.inner_text() == {"ja": "役に立った", "en": "Helpful"}[device["locale"][:2]]
    with page.expect_navigation(url="**#hit3"):
        pressed.click()
    assert pressed.count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.fill("#q", "休暇 8")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=%E4%BC%91%E6%9A%87+8**")
    page.locator("main").focus()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("#p0.chunk.here:focus")  # The script focuses it after the page is drawn.
    assert page.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"]
    page.locator("main a").first.click()
    page.wait_for_url("**/?q=%E4%BC%91%E6%9A%87+8&source=notes")

    page.locator(".note a").click()
    page.wait_for_url("**/password")
    page.fill("input[name=password]", PASSWORD)
    page.fill("input[name=new]", "another " + PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/password?changed=1")
    assert page.locator(".note").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"]

    page.goto("/keys")
    page.fill("input[name=name]", "browser")
    page.keyboard.press("Enter")
    key = page.locator(".made code").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"]
    page.reload()
    assert (page.locator(".made").count(), page.locator(".keys li").count()) == (0, 1)
    found = curl(f"{service.client.base_url}/v1/search", key, {"query": "休暇"})
    assert len(found["hits"]) == 10
    assert problems == []
    context.close()
