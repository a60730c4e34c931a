"""Inputs that atheris grows by watching which lines of the parsers they reach. Optional: pip install atheris (to Python 3.13).

    python tests/fuzz/guided.py packets -max_total_time=600
    python tests/fuzz/guided.py dialogue -atheris_runs=100000

Targets: `framing` (where records lie), `packets` (both engines must make the same table of one packet), `dialogue` (two
streams in arbitrary pieces), `grammar` (its functions one by one), `rules` (a rule file: RuleError or a rule, nothing else).
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "smtp")]

with atheris.instrument_imports(include=["analyzer", "dpkt"]):
    from analyzer.capture import columnar, exact, framing
    from analyzer.capture.packets import COLUMNS, CaptureInfo, PacketTable
    from analyzer.capture.reading import _Memory
    from analyzer.capture.wanted import DEFAULT_PORTS, Tally, Wanted
    from analyzer.capture.windows import Windows
    from analyzer.detect import rule
    from analyzer.detect.document import parse
    from analyzer.errors import RuleError
    from analyzer.smtp import grammar
    from analyzer.smtp.dialogue import read_dialogue
from talk import Stream  # noqa: E402 - found where sys.path leads by now

LINKS = sorted(exact.LINKS)
PLACES = {"buffer", "ip_at", "payload_at", "sack_at"}  # where bytes lie is an engine's own affair


def records_of(data: bytes) -> list[framing.Records]:
    """What framing finds; it must say so when it is not all."""
    info = CaptureInfo(1, "fuzz")
    found = list(framing.read_records(Windows(_Memory(data), window_bytes=1 << 16), info))
    assert info.complete == (not info.problems)
    return found


def framing_target(data: bytes) -> None:
    for records in records_of(data):
        assert (records.captured >= 0).all()
        assert (records.at + records.captured <= len(records.buffer)).all()


def packets_target(data: bytes) -> None:
    if len(data) < 2:
        return
    link, packet = LINKS[data[0] % len(LINKS)], data[1:]
    head = b"\xd4\xc3\xb2\xa1\x02\0\x04\0" + bytes(8) + (262144).to_bytes(4, "little") + link.to_bytes(4, "little")
    size = len(packet).to_bytes(4, "little")
    tables = []
    for fast in (True, False):
        decoder, parts = exact.Decoder(Wanted(DEFAULT_PORTS, all_tcp=True)), []
        for records in records_of(head + bytes(8) + size + size + packet):
            rows = range(len(records))
            if fast:
                table, rows = columnar.decode(records, decoder.wanted, 1, Tally())
                parts.append(table)
            parts.append(decoder.decode(records, rows, 1, Tally())[0])
        tables.append(PacketTable.concat(parts))
    for name in set(COLUMNS) - PLACES:
        assert tables[0].columns[name].tolist() == tables[1].columns[name].tolist(), name


def dialogue_target(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    streams = Stream(), Stream()
    from_start = given.ConsumeBool()
    while given.remaining_bytes():
        speaker = given.ConsumeIntInRange(0, 1)
        said = given.ConsumeBytes(given.ConsumeIntInRange(1, 60))
        heard = len(streams[1 - speaker].data)
        streams[speaker].say(said, heard, missed=given.ConsumeProbability() < 0.1)
    dialogue = read_dialogue(*streams, from_start=from_start)
    assert all(command.start < command.end <= len(streams[0].data) for command in dialogue.commands)


def grammar_target(data: bytes) -> None:
    said = grammar.command(data)
    for read in (grammar.path, grammar.declared_size, grammar.chunk):
        read(said.argument)
    grammar.is_unmistakable(data)
    grammar.cut_off(data)
    grammar.reply_line(data)
    grammar.keyword(grammar.text(data))


def rules_target(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        rule.build(parse(text, "fuzz.yaml"))
    except RuleError as error:
        if not str(error).startswith("fuzz.yaml:"):
            raise AssertionError(f"without its place: {error}") from error


if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(
        sys.argv,
        {key.removesuffix("_target"): value for key, value in list(globals().items()) if key.endswith("_target")}[name],
    )
    atheris.Fuzz()
