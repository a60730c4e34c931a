"""What is asked of every unit of a batch, in a form that travels to any machine; and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..capture.wanted import DEFAULT_PORTS
from ..detect import rule

# The largest set (units.SET_BYTES) runs for half a minute at most, packed five times as long; a slow disk and a loaded
# machine are forgiven, a hang is not.
TIME_LIMIT_S = 600.0

# An analysis needs some 150 MB, and a row for each connection: this leaves room for a million of them.
MEMORY_LIMIT_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of the analysis (see analysis.Options), and the limits of each process."""

    ports: frozenset[int] = DEFAULT_PORTS
    all_tcp: bool = False
    rules: tuple[tuple[str, str], ...] = ()  # name and text of each rule file beside the built-in ones
    max_bytes: int | None = None
    redact_key: bytes = b""
    time_limit_s: float = TIME_LIMIT_S
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    folder: str = ""  # where relative names are looked for

    def fingerprint(self) -> str:
        """Changes with everything that can change a case; the limits cannot, they only decide whether there is one."""
        asked = [sorted(self.ports), self.all_tcp, [list(r) for r in self.rules], self.max_bytes, self.redact_key.hex()]
        return hashlib.sha256(json.dumps([program(), *asked]).encode()).hexdigest()


def texts_of(packs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The rule files of these packs, as they will travel. Raises RuleError for what cannot be used."""
    if not packs:
        return ()
    files = sorted({r.file for r in rule.load(packs)} - {r.file for r in rule.load()})
    return tuple((Path(file).name, Path(file).read_text(encoding="utf-8")) for file in files)


@cache
def program() -> str:
    """A fingerprint of this program: its code and the built-in rules. What another one found is found again."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder, suffixes in ((package, (".py",)), (rule.built_in(), (".yaml", ".yml"))):
        for file in sorted(folder.rglob("*")):
            if file.suffix in suffixes:
                digest.update(f"{file.relative_to(folder)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
