"""Visits to the page: a window of Debian's Chromium, headless, over a service whose model says what a test wants."""

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import fake_service, running

from helpers import PATIENCE_S

CHROMIUM = shutil.which("chromium")
ANSWER = ".message.assistant:not(.writing)"
STORED = """async () => {
    const asked = indexedDB.open("herd", 1);
    await new Promise(resolve => (asked.onsuccess = resolve));
    const found = asked.result.transaction(["heads", "bodies"], "readwrite").objectStore("bodies").getAll();
    await new Promise(resolve => (found.onsuccess = resolve));
    asked.result.close();
    return found.result;
}"""
"""A transaction that writes comes after all that were begun before it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A visitor's window. `requests`: all that were made; `problems`: what the console complained of; `excused`: words
    of complaints that belong to the test."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.address = address
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(PATIENCE_S * 1000)
        self.page = self.context.new_page()
        self.requests: list[Any] = []
        self.problems: list[str] = []
        self.excused: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request))
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(address)
        self.expect = importlib.import_module("playwright.sync_api").expect
        self.expect.set_options(timeout=PATIENCE_S * 1000)

    def ready(self) -> "Visit":
        self.page.wait_for_selector("#model option", state="attached")
        return self

    def say(self, text: str, *, wait: bool = True) -> None:
        """Send a message, and wait for the answer's end."""
        number = self.page.locator(ANSWER).count()
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        if wait:
            self.expect(self.page.locator(ANSWER)).to_have_count(number + 1)

    def stored(self) -> Any:
        """The conversations that the browser keeps, once all that was begun is done."""
        return self.page.evaluate(STORED)

    def tab(self) -> Any:
        """Another tab of this window, ready."""
        page = self.context.new_page()
        page.goto(self.address)
        page.wait_for_selector("#model option", state="attached")
        return page

    def sent(self) -> list[dict[str, Any]]:
        """Bodies of the requests for answers."""
        return [json.loads(r.post_data) for r in self.requests if r.url.endswith("/v1/chat/completions")]

    def answer(self) -> Any:
        return self.page.locator(ANSWER).last.locator(".body")

    def check(self) -> None:
        """Nothing was complained of, nothing was asked for elsewhere."""
        assert [line for line in self.problems if not any(words in line for words in self.excused)] == []
        assert {r.url for r in self.requests if not r.url.startswith((self.address, "blob:", "data:"))} == set()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """visit(answer, **service): a window on a service of its own. What it must never do is checked at the end."""
    ends: list[Callable[[], None]] = []

    def open_one(answer: Any = "Hello there.", *, context: dict[str, Any] | None = None, **service: Any) -> Visit:
        runs = running(fake_service(tmp_path, answer, **service))
        found = Visit(browser, runs.__enter__(), **(context or {}))
        ends.extend([lambda: runs.__exit__(None, None, None), found.context.close])
        checks.append(found.check)
        return found

    checks: list[Callable[[], None]] = []
    yield open_one
    try:
        for check in checks:
            check()
    finally:
        for end in reversed(ends):
            end()
