"""What a dying node or a failing disk does to a results folder."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.records import checkpoint
from bench.records.store import HISTORY_FILE, RECORD_FILE, Store
from scripts.soak.comparison import CutRecord

UNFINISHED = {"checkpoint": f"/{checkpoint.FILE}", "history": f"/{HISTORY_FILE}", "claim": ".lock"}
"""Files of a run that was interrupted, by what they are; each name follows that of its working folder."""
ROOM_BYTES = 256 * 2**20
CHUNK_BYTES = 2**20
BLOCK_BYTES = 2**12


def cut_record(results: Path, draw: random.Random) -> CutRecord | None:
    """Cut off a finished record, if there is one."""
    found = sorted(path for path in results.rglob(RECORD_FILE) if Store(results).finished(path.parent))
    whole = [path for path in found if "~" not in path.parent.name and not path.parent.name.startswith(".")]
    if not whole:
        return None
    path = draw.choice(whole)
    _cut(path, draw.uniform(0, 0.95))
    return CutRecord(str(path.parent.relative_to(results)), path.read_bytes())


def cut_unfinished(results: Path, what: str, draw: random.Random) -> bool:
    """Cut off a file of an interrupted run, if there is one; a claim loses everything. Returns whether there was."""
    ended = {path.parent for path in results.rglob(RECORD_FILE) if Store(results).finished(path.parent)}
    working = {path.with_suffix("") for path in (results / "runs").rglob(".*.lock")}
    files = [Path(f"{folder}{UNFINISHED[what]}") for folder in sorted(working - ended)]
    found = [path for path in files if path.exists()]
    if found:
        _cut(draw.choice(found), 0 if what == "claim" else draw.random())
    return bool(found)


def _cut(path: Path, share: float) -> None:
    """Leave the first `share` of a file."""
    os.truncate(path, int(share * path.stat().st_size))


@contextlib.contextmanager
def on_small_disk(folder: Path) -> Iterator[Path]:
    """A small disk that holds `folder`'s results while the block runs; afterwards they are back. Raises OSError."""
    disk = folder.with_name("small disk")
    disk.mkdir(exist_ok=True)
    size = ROOM_BYTES + 2 * sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        disk.rmdir()
        raise OSError(done.stderr.strip())
    try:
        shutil.copytree(folder / "results", disk / "results")
        yield disk
        shutil.rmtree(folder / "results")
        shutil.copytree(disk / "results", folder / "results")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is free on the disk while the block runs."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (CHUNK_BYTES, BLOCK_BYTES):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def away(results: Path) -> Iterator[None]:
    """The folder is elsewhere while the block runs; what arose in its place meanwhile is kept beside it."""
    elsewhere = results.with_name(f"{results.name} elsewhere")
    results.rename(elsewhere)
    try:
        yield
    finally:
        if results.exists():
            results.rename(free_name(results.with_name("impostor")))
        elsewhere.rename(results)


@contextlib.contextmanager
def read_only(results: Path) -> Iterator[None]:
    """Nobody but root can write into the folder while the block runs."""
    modes = {path: path.stat().st_mode for path in [results, *results.rglob("*")] if path.is_dir()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def free_name(path: Path) -> Path:
    """The path with the lowest number behind it that no other file has."""
    number = 1
    while (numbered := path.with_name(f"{path.name} {number}")).exists():
        number += 1
    return numbered
