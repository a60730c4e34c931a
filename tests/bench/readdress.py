#!/usr/bin/env python3
"""Thousands of small captures out of the recorded samples: other hosts, other days. Same arguments, same bytes.

    readdress.py --count 5000 --out build/bench/captures

Each capture is a copy of a sample in which every host has another address, moved to one of 30 days. An address is changed
so that the ones' complement sum over it stays what it was: k is added to one 16-bit word and taken from its neighbour. So
the checksums of IP, TCP and ICMP (RFC 1071), which are such sums, stay right as well, and those of quoted packets with them.

One capture in five and a half is a copy of the same black hole between the same two hosts: what a broken tunnel looks
like that was captured 900 times.
"""

from __future__ import annotations

import argparse
import random
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import analyzer

SAMPLES = Path(__file__).resolve().parents[2] / "sample_pcaps"
TUNNEL = "blackhole-1400.sender.pcap"
TUNNEL_SHARE = 0.18  # 900 of 5000
TUNNEL_HOSTS = 7  # which copy of the two hosts has the broken tunnel between them
DAYS = 30
DAY_S = 86_400
COPIES = 240  # of each host: 10.1.x.y becomes 10.2 to 10.241
HEADERS_BYTES = 160  # the deepest headers of the samples, and the quotes in ICMP, end before


def moved(address: bytes, k: int) -> bytes:
    """The address of copy k of a host: the last two words of it, or both of IPv4's, with the same sum modulo 65535."""
    *front, a, b = struct.unpack(f">{len(address) // 2}H", address)
    return struct.pack(f">{len(address) // 2}H", *front, a + k, (b - k) % 0xFFFF)


def hosts_of(capture: Path) -> list[bytes]:
    """Every address that the analysis of a capture knows, longest first."""
    case = analyzer.analyze(capture).data
    names = {end.ip for c in case.connections for end in (c.client, c.server)}
    names |= {host for p in case.paths for host in (p.sender, p.receiver)}
    return sorted((ip_address(name).packed for name in names), key=lambda a: (-len(a), a))


def copy_of(capture: bytes, hosts: list[bytes], k: int, shift_s: int) -> bytes:
    """The capture with every host moved to copy k, so many seconds later."""
    out = bytearray(capture)
    order = "<" if capture[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at + 16 <= len(out):
        seconds, _, length = struct.unpack_from(f"{order}III", out, at)
        struct.pack_into(f"{order}I", out, at, seconds + shift_s)
        at += 16
        end = min(at + length, at + HEADERS_BYTES)
        for host in hosts:
            place = out.find(host, at, end)
            while place >= 0:
                if (place - at) % 2 == 0:
                    out[place : place + len(host)] = moved(host, k)
                place = out.find(host, place + 1, end)
        at += length
    return bytes(out)


def captures(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the captures."""
    chance = random.Random(seed)
    samples = sorted(SAMPLES.glob("*.pcap"))
    known: dict[Path, tuple[bytes, list[bytes]]] = {}
    for number in range(count):
        tunnel = chance.random() < TUNNEL_SHARE
        sample = SAMPLES / TUNNEL if tunnel else chance.choice(samples)
        k, day = (TUNNEL_HOSTS if tunnel else chance.randrange(1, COPIES)), chance.randrange(DAYS)
        if sample not in known:
            known[sample] = (sample.read_bytes(), hosts_of(sample))
        yield f"host-{number % 20:02}/{number:05}.{sample.name}", copy_of(*known[sample], k, day * DAY_S)


def make(folder: Path, count: int, seed: int = 1) -> int:
    """Writes the captures; their bytes in all."""
    total = 0
    for name, data in captures(count, seed):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        total += len(data)
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Thousands of small captures out of the samples.")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/bench/captures"))
    args = parser.parse_args()
    print(f"{args.count} captures, {make(args.out, args.count, args.seed):,} bytes in {args.out}")
