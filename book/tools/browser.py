"""Chromium, for the tests, the printed book and the table of visits: where it is, how it starts."""

from __future__ import annotations

import shutil
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def launch(playwright: Any) -> Any:
    """Start Chromium; Playwright says what to do where there is none."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=0)
