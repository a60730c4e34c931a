"""Many captures: each capture set a case of its own, done here or on a cluster, resumed after a crash, summed up.

units.py     what a unit of work is: a capture, or the files that a capturing program rotated through
settings.py  what is asked of each, and the fingerprint of that
worker.py    the process in which one unit becomes a case, with its limits
nursery.py   whoever asks for such a process, on any machine
folder.py    the results: written whole or not at all, found again by their content
summary.py   one finding for one fault, trends by destination and day
dataset.py   the results as Parquet
stored.py    a case out of its document
told.py      the summary as text, Markdown, JUnit
run.py       the batch: what is left to do, and who does it
"""

from .driver import Progress, Result, fingerprints, run
from .settings import MEMORY_LIMIT_BYTES, TIME_LIMIT_S, Settings, texts_of

__all__ = ["MEMORY_LIMIT_BYTES", "TIME_LIMIT_S", "Progress", "Result", "Settings", "fingerprints", "run", "texts_of"]
