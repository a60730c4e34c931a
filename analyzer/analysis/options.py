"""What the user may choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..capture.reading import ReadOptions
from ..capture.wanted import DEFAULT_PORTS
from ..detect.inside import Chunk, Ends

# The most rows of a report: connections of SMTP (two each where something odd happened) and mails. Until the report is
# written a row takes up to 2 KB: these stay below half a gigabyte. What comes later is counted and not judged.
MAX_ROWS = 200_000


class Options(NamedTuple):
    """What the user may choose. ports: TCP ports that are SMTP; rules: files or folders added to the built-in pack."""

    ports: frozenset[int] = DEFAULT_PORTS
    all_tcp: bool = False
    rules: tuple[str, ...] = ()
    max_bytes: int | None = None
    max_rows: int = MAX_ROWS
    jobs: int = 1  # processes; 0: one per processor
    engine: str = "auto"
    keylog: str | None = None  # file with secrets of TLS sessions
    maillog: tuple[str, ...] = ()  # log files of the mailers on either side
    log_timezone: str | None = None  # of log lines that name none; None: that of this machine
    stripped: frozenset[tuple[str, int]] = frozenset()  # servers whose STARTTLS a second point of capture shows removed
    # what the keys of TLS open, by the two ends of a connection
    said_in_tls: Mapping[Ends, Sequence[Chunk]] = {}
    ends: bool = False  # the process does, with the case: what this was made of is not taken apart, object by object
    shortcuts: bool = True  # False: every connection goes the long way (tests compare)


def reading_options(options: Options) -> ReadOptions:
    return ReadOptions(ports=options.ports, all_tcp=options.all_tcp, max_bytes=options.max_bytes, engine=options.engine)
