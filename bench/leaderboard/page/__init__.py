"""The leaderboard as one self-contained page, and its plots as files."""

from __future__ import annotations

import importlib.util

from bench.leaderboard.boards import Boards, Sources

PAGE = "index.html"
PLOTS = "plots"
PACKAGES = ("altair", "vl_convert", "markdown_it")
NEEDED = "The page and the plots were not written: they need pip install 'parsimony[page]'."


def available() -> bool:
    """Whether the packages that the page needs are installed."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


def files(boards: Boards, sources: Sources, demonstration: bool) -> dict[str, bytes]:
    """The page and the plots of the boards by the name of their file."""
    from bench.leaderboard.page import assembly, plots
    from bench.leaderboard.page.entries import entries, groups

    shown = entries(boards, sources)
    titles = {group["name"]: group["title"] for group in groups(boards, shown)}
    drawn = {f"{PLOTS}/{name}": content for name, content in plots.files(shown, titles).items()}
    return {PAGE: assembly.page(boards, shown, demonstration).encode(), **drawn}
