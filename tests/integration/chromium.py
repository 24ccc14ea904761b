"""Chromium without a window, for the tests of the sink's page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from integration.servers.common import require

SECONDS = 20  # for what a page should show: a loaded machine with two cores

# What a browser asks of its makers by itself would be noise, or end in the canary of a test.
QUIET = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--password-store=basic", "--hide-scrollbars",
)  # fmt: skip


@contextmanager
def chromium(downloads: str | None = None) -> Iterator[Any]:
    """A selenium driver. Without Chromium the test is skipped or fails, as with servers."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = require("chromium")
    service = Service(require("chromedriver"))  # given, so that none is looked for in the network
    with tempfile.TemporaryDirectory(prefix="bulkmail-chromium-", ignore_cleanup_errors=True) as home:
        for switch in (*QUIET, f"--user-data-dir={home}/profile"):
            options.add_argument(switch)
        if os.name == "posix" and os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # its processes have none as root; the page's sandbox is another thing
        if downloads is not None:
            options.add_experimental_option("prefs", {"download.default_directory": downloads})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()
