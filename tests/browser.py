"""A headless Chromium for tests, driven by selenium, from Debian's packages; it reaches for nothing outside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.slurm_cluster import apt_get

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,900",
)


def available() -> bool:
    """Whether Chromium is installed, or could be."""
    return not missing() or (os.geteuid() == 0 and shutil.which("apt-get") is not None)


def missing() -> list[str]:
    """Debian packages that are not installed."""
    return [package for command, package in PACKAGES.items() if shutil.which(command) is None]


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """The browser with an empty profile, while the block runs; installs it where it is missing."""
    if missing():
        apt_get("update")
        apt_get("install", "--yes", "--no-install-recommends", *missing())
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()
