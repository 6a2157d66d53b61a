"""Where this machine keeps what is worth keeping between runs: its own pace, decoded images."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ.get("PARSIMONY_CACHE") or Path.home() / ".cache" / "parsimony")
