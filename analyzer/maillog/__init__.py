"""The mailer's own log beside the packets: which line belongs to which connection and mail, and where the two disagree.

    files -> lines with their times (stamps.py) -> what a line says (words.py) -> joined to connections and mails (join.py)

A line is joined by addresses and ports, by queue ids, and by time; where two mails fit equally well it is joined to none.
"""

from .join import join
from .stamps import zone

__all__ = ["join", "zone"]
