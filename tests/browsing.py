"""Pages in a real browser: Debian's Chromium without any network, one for each worker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

OWN = ("file:", "data:", "about:", "chrome:")  # the last: the browser's own first page
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-background-networking "
    # tests write the address faster than anyone types
    "--disable-ipc-flooding-protection "
    "--disable-component-update --disable-sync --no-first-run --disable-default-apps "
    "--disable-dev-shm-usage --proxy-server=127.0.0.1:9 --window-size=1280,1000"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


class Page:
    """A page as a person sees it."""

    def __init__(self, browser: Any, path: Path):
        self.browser, self.path = browser, path

    def open(self, hash: str = "") -> Page:
        self.browser.get("about:blank")
        self.browser.get(self.path.as_uri() + hash)
        return self

    def js(self, script: str, *args: Any) -> Any:
        return self.browser.execute_script(script, *args)

    def one(self, css: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        found: str = self.one(css).text
        return found

    def size(self, width: int, height: int = 1000) -> None:
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def media(self, **media: Any) -> None:
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def slide(self, element: Any, value: float) -> None:
        """As a finger that has dragged it there."""
        self.js(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}));",
            element,
            value,
        )

    def type(self, text: str) -> None:
        """Into the page's own text, which is read when the focus leaves."""
        self.one("#typed").send_keys(text, Keys.TAB)

    def opened(self, section: str) -> None:
        self.js("document.getElementById(arguments[0]).open = true", section)


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function: trace → its page, opened. Afterwards nothing was asked of a network, and the
    console is empty."""
    browser.get_log("browser")
    browser.get_log("performance")

    def show(trace: Any, hash: str = "", **options: Any) -> Page:
        path = tmp_path / "page.html"
        trace.view(path, **options)
        return Page(browser, path).open(hash)

    yield show
    said = browser.get_log("browser")
    asked = [
        event["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (event := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert said == []
    assert asked, "the log holds the page itself"
    assert [url for url in asked if not url.startswith(OWN)] == []
