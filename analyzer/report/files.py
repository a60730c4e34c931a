"""How reports become files. Captures hold mail, so what is written about them is for the owner's eyes, unless redacted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]


@contextmanager
def written(target: PathLike, *, shared: bool = False) -> Iterator[BinaryIO]:
    """A file that is made with mode 0600; when `shared`, with what the umask allows.

    One that is there already keeps its mode: somebody chose it. A file that can not be written to its end (a full disk)
    is removed, so that no half of a document is taken for one; the OSError names it.
    """
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666 if shared else 0o600)
        try:
            with open(descriptor, "wb") as out:
                yield out
        except BaseException:
            with suppress(OSError):
                if stat.S_ISREG(os.lstat(target).st_mode):
                    os.unlink(target)
            raise
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(target)
        raise


def write_text(text: str, target: PathLike, *, shared: bool = False) -> None:
    """UTF-8; what is no text (file names can hold such bytes) in its written form."""
    with written(target, shared=shared) as out:
        out.write(text.encode("utf-8", "backslashreplace"))


def folder(target: PathLike, *, shared: bool = False) -> Path:
    """The folder, made when it is not there: with mode 0700, or with what the umask allows when `shared`."""
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(exist_ok=True, mode=0o777 if shared else 0o700)
    return path
