"""What a run needs to go on after an interruption, in one file that is replaced as a whole.

The file holds tensors and plain values only and is read without unpickling anything else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import one_line
from bench.files import replacing

FILE = "checkpoint.pt"


@dataclass
class Checkpoints:
    """The checkpoint of one run, and when it is due: every so many steps, or after so many seconds, or both."""

    folder: Path
    every_steps: int | None
    every_seconds: float | None
    origin: dict[str, str]
    """Device and versions of the code: a run goes on only on those on which it began, or it would be a mixture."""
    failure: str | None = None
    """Why the last attempt to write failed."""
    _written_at: float = field(default_factory=time.monotonic)

    @property
    def wanted(self) -> bool:
        """Whether the run writes checkpoints at all, besides the one before it stops on request."""
        return self.every_steps is not None or self.every_seconds is not None

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after optimizer step `step`."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._written_at >= self.every_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Write the state. Where that fails, as on a full disk, the earlier checkpoint stands and the run goes on."""
        import torch

        try:
            with replacing(self.folder / FILE) as temporary:
                torch.save({"origin": self.origin, "state": state}, temporary)
            self.failure = None
        except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
            self.failure = f"the checkpoint could not be written: {one_line(error)}"
        self._written_at = time.monotonic()

    def load(self) -> tuple[dict[str, Any] | None, str | None]:
        """The state of an interrupted run, or None with the reason why there is none that can be used."""
        import torch

        path = self.folder / FILE
        if not path.exists():
            return None, None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            changed = [name for name, value in self.origin.items() if found["origin"].get(name) != value]
            if changed:
                return None, f"its checkpoint was written with another {', '.join(changed)}"
            return found["state"], None
        except Exception as error:  # a file that is no checkpoint fails in many ways
            return None, f"its checkpoint cannot be read: {one_line(error)}"
