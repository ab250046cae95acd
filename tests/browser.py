"""A headless Chromium for tests; skips with a reason where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for the whole session, driven by selenium, with its console recorded."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(
    browser: Any,
    page: Path | str,
    *,
    width: int = 1280,
    height: int = 900,
    theme: str = "light",
    media: str = "screen",
    scripts: bool = True,
) -> None:
    """Load a page with an empty console, in the given size, theme and medium."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": media, "features": [{"name": "prefers-color-scheme", "value": theme}]},
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(page.resolve().as_uri() if isinstance(page, Path) else page)


def console(browser: Any) -> list[dict[str, Any]]:
    """Everything the console said since the page was opened."""
    return list(browser.get_log("browser"))


def is_wider_than_window(browser: Any) -> bool:
    """Whether the page as a whole scrolls sideways."""
    return bool(
        browser.execute_script(
            "const e = document.documentElement; return e.scrollWidth > e.clientWidth"
        )
    )
