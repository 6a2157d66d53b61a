"""The Hugging Face hub: whether it can be reached, found out once per process and in a few seconds at most."""

from __future__ import annotations

import functools

TIMEOUT_SECONDS = 3.0


@functools.cache
def is_reachable() -> bool:
    """Whether the hub answers within the time limit; False at once in offline mode."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError:
        return False
    return True
