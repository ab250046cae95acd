"""The browser, for the tests of the page."""

from __future__ import annotations

from browser import browser  # noqa: F401
