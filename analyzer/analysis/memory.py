"""Memory between the stages: what one of them has freed is there for the next one."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """What was freed of columns goes back to the system, before objects take as much again.

    glibc keeps it for the next columns, more of it the larger they were, and Python's objects do not live in what it keeps.
    """
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # systems without a C library of this name
        return
    if trim is not None:
        trim(0)
