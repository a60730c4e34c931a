"""What the user may choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..capture.reading import ReadOptions
from ..capture.wanted import DEFAULT_PORTS
from ..detect.inside import Chunk, Ends


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose. ports: TCP ports that are SMTP; rules: files or folders added to the built-in pack."""

    ports: frozenset[int] = DEFAULT_PORTS
    all_tcp: bool = False
    rules: tuple[str, ...] = ()
    max_bytes: int | None = None
    jobs: int = 1  # processes; 0: one per processor
    engine: str = "auto"
    keylog: str | None = None  # file with secrets of TLS sessions
    maillog: tuple[str, ...] = ()  # log files of the mailers on either side
    log_timezone: str | None = None  # of log lines that name none; None: that of this machine
    stripped: frozenset[tuple[str, int]] = frozenset()  # servers whose STARTTLS a second point of capture shows removed
    # what the keys of TLS open, by the two ends of a connection
    said_in_tls: Mapping[Ends, Sequence[Chunk]] = field(default_factory=dict, compare=False)
    shortcuts: bool = True  # False: every connection goes the long way (tests compare)


def reading_options(options: Options) -> ReadOptions:
    return ReadOptions(ports=options.ports, all_tcp=options.all_tcp, max_bytes=options.max_bytes, engine=options.engine)
