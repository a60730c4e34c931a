"""The tshark engine: another opinion on every field, and the reader of formats that `framing` does not know.

tshark is run by pyshark in its EK mode (one line of JSON per packet). pyshark can not run inside a running event loop
(Jupyter), raises when tshark complains about a cut-off file, and leaves processes behind when iteration stops early; so
it runs in a thread of its own, with an event loop of its own, and hands over packets through a bounded queue.

Differences to the native engines that remain, by nature: IPv6 extension headers are left out of `packet()`, frames that
tshark finds malformed give no row, and of the time stamps of fragments it knows those of the frames it prints.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import struct
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ToolError
from .framing import problem
from .packets import COLUMNS, Batch, CaptureInfo, IcmpError, PacketTable
from .wanted import Tally, Wanted, is_greeting

# Packets handed over at a time; as JSON each costs some 10 KB, and three batches are under way at most.
BATCH = 1000
# tshark that prints nothing for so long hangs. Its start takes about a second, on a busy machine ten.
SILENCE_S = 120
# A capture file without packets is smaller: 128 bytes of header in Network Monitor's format, the largest of those here.
HEADERS_BYTES = 1000
# Only these layers are printed with their fields.
LAYERS = "frame ip ipv6 tcp icmp icmpv6 sll"
PREFERENCES = {
    "tcp.relative_sequence_numbers": "FALSE",
    "tcp.desegment_tcp_streams": "FALSE",
    "tcp.analyze_sequence_numbers": "FALSE",  # retransmissions are our business
    "tcp.try_heuristic_first": "FALSE",
}

Fields = dict[str, Any]


def is_installed() -> bool:
    return shutil.which("tshark") is not None


def read_file(path: str, info: CaptureInfo, wanted: Wanted) -> Iterator[Batch]:
    """The wanted packets of a file in any format that tshark reads. What goes wrong ends up in `info`."""
    tshark = _Tshark(path)
    try:
        for packets in tshark.batches():
            try:
                table, icmp, tally = _decoded(packets, info.id, wanted)
                times = [_time_ns(p["frame"]) for p in packets]
            except (LookupError, ValueError, TypeError, AttributeError) as error:
                # fields are looked up by the names that versions 3 and 4 print
                told = f"{type(error).__name__}: {error}"
                raise ToolError(f"tshark printed frames in a form that is not known here ({told})") from error
            info.frames += len(packets)
            info.first_ns = min(times + ([] if info.first_ns is None else [info.first_ns]))
            info.last_ns = max(times + ([] if info.last_ns is None else [info.last_ns]))
            yield Batch(table, icmp, times[-1], {"frames": len(packets), **tally.counts}, tally.tcp_ports)
    except ToolError as error:
        problem(info, str(error))
    finally:
        tshark.close()
    info.format = info.format or "read by tshark"
    info.bytes = Path(path).stat().st_size
    if not info.frames and info.complete and info.bytes > HEADERS_BYTES:
        problem(info, f"tshark found no frame in {info.bytes} bytes")


def _decoded(packets: list[Fields], capture: int, wanted: Wanted) -> tuple[PacketTable, list[IcmpError], Tally]:
    """The wanted ones of these packets; again, when a HELO on another port made that port wanted."""
    tally = Tally()
    table, icmp = _decode(packets, capture, wanted, tally)
    if tally.greeted:
        wanted.add(tally.greeted)
        tally = Tally()
        table, icmp = _decode(packets, capture, wanted, tally)
    return table, icmp, tally


class _Tshark:
    """One run of tshark, in a thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._queue: queue.Queue[list[Fields] | Exception | None] = queue.Queue(maxsize=2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tshark", daemon=True)

    def batches(self) -> Iterator[list[Fields]]:
        """The layers of each packet, some packets at a time. Raises ToolError when tshark fails."""
        program = shutil.which("tshark")
        if program is None:
            raise ToolError("this format needs tshark, which is not installed (Debian, Ubuntu: apt install tshark)")
        self._program = program
        self._thread.start()
        while True:
            try:
                item = self._queue.get(timeout=SILENCE_S)
            except queue.Empty:
                raise ToolError(f"tshark said nothing for {SILENCE_S} seconds") from None
            if item is None:
                return
            if isinstance(item, Exception):
                raise ToolError(_one_line(item))
            yield item

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _put(self, item: list[Fields] | Exception | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - whatever pyshark raises is told by the thread that waits
            self._put(error)
        else:
            self._put(None)

    def _read(self) -> None:
        import asyncio

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        capture = _new_capture(self._path, self._program, loop)
        packets: list[Fields] = []
        failure: Exception | None = None
        try:
            try:
                for layers in capture._packets_from_tshark_sync():
                    packets.append(layers)
                    if len(packets) >= BATCH:
                        self._put(packets)
                        packets = []
                    if self._stop.is_set():
                        return
            except Exception as error:  # noqa: BLE001 - what tshark printed before it failed counts
                failure = error
            if packets:
                self._put(packets)
            failure = failure or _complaint(capture)
            if failure is not None:
                raise failure
        finally:
            try:
                capture.close()
            finally:
                capture._running_processes.clear()  # or its destructor would close it again, in a closed loop
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()


def _new_capture(path: str, program: str, loop: Any) -> Any:
    import asyncio

    from pyshark import FileCapture
    from pyshark.tshark.output_parser.tshark_ek import TsharkEkJsonParser

    class Lines(TsharkEkJsonParser):  # type: ignore[misc] # pyshark has no type information
        """Plain dictionaries instead of packet objects: the fields are known by name, and need no guessing of types."""

        def _parse_single_packet(self, packet: bytes) -> Fields:
            return json.loads(packet)["layers"]  # type: ignore[no-any-return]

    class Capture(FileCapture):  # type: ignore[misc]
        def _setup_tshark_output_parser(self) -> Lines:
            return Lines()

        async def _cleanup_subprocess(self, process: Any) -> None:
            """Lets tshark end by itself where it may, so that its exit status tells how reading went.

            It is killed past Popen, whose own look at the process would race with the event loop's.
            """
            if process.returncode is None:
                try:
                    await asyncio.wait_for(process.wait(), 10 if self._eof_reached else 0.01)
                except TimeoutError:
                    os.kill(process.pid, signal.SIGKILL)
                    await process.stdout.read()  # an unread pipe would keep it from counting as ended
                    await process.wait()
                    return
            await super()._cleanup_subprocess(process)

    return Capture(
        path,
        keep_packets=False,
        use_ek=True,
        include_raw=True,
        eventloop=loop,
        # Named, so that a config.ini in the working directory can not name another program.
        tshark_path=program,
        override_prefs=PREFERENCES,
        decode_as={"udp.port==8472": "vxlan"},  # Linux's default port for it
        custom_parameters=["-J", LAYERS],
    )


def _complaint(capture: Any) -> Exception | None:
    """What tshark said on stderr when it ended with an error: a file cut off in a packet, or no capture at all."""
    status = next((p.returncode for p in capture._running_processes if p.returncode), 0)
    return ToolError(capture._last_error_line or f"it ended with status {status}") if status else None


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line.partition(":")[2].strip() for line in lines if line.startswith("Last error line")), "")
    text = said or (lines[0] if lines else type(error).__name__)
    text = text.partition(" (command ran:")[0]
    return text if text.startswith("tshark") else f"tshark: {text}"


# From the printed layers to the columns.


def _decode(packets: list[Fields], capture: int, wanted: Wanted, tally: Tally) -> tuple[PacketTable, list[IcmpError]]:
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    blocks: list[tuple[int, int]] = []
    icmp: list[IcmpError] = []
    arena = bytearray()
    frames = {int(p["frame"]["frame_frame_number"]): p for p in packets}
    for packet in packets:
        path = packet["frame"].get("frame_frame_protocols", "").split(":")
        error = next((kind for kind in ("icmp", "icmpv6") if kind in path), None)
        if error is not None:
            found = _icmp_error(packet, path, error, capture, wanted)
            tally.add("icmp-errors" if found else "not-tcp")
            icmp += [found] if found else []
        elif "tcp" not in path or "tcp" not in packet:
            tally.add("not-tcp" if "ip" in path or "ipv6" in path else "not-ip")
        else:
            _row(packet, path, frames, capture, wanted, tally, rows, blocks, arena)
    columns = {name: np.array(rows[name], dtype) for name, (dtype, _) in COLUMNS.items()}
    table = PacketTable(columns, np.array(blocks, np.uint32).reshape(-1, 2), (np.frombuffer(bytes(arena), np.uint8),))
    return table, icmp


def _row(
    packet: Fields,
    path: list[str],
    frames: dict[int, Fields],
    capture: int,
    wanted: Wanted,
    tally: Tally,
    rows: dict[str, list[Any]],
    blocks: list[tuple[int, int]],
    arena: bytearray,
) -> None:
    tcp = _last(packet["tcp"])
    try:
        ip = _ip(packet, path)
        src_port, dst_port = int(_one(tcp["tcp_tcp_srcport"])), int(_one(tcp["tcp_tcp_dstport"]))
        header_bytes, payload_bytes = int(tcp["tcp_tcp_hdr_len"]), int(tcp["tcp_tcp_len"])
    except (KeyError, ValueError, TypeError):  # malformed: tshark stopped in the middle of a header
        tally.add("undecodable")
        return
    payload = bytes.fromhex(_one(tcp.get("tcp_tcp_payload_raw", "")))
    if not wanted.connection(ip["src"], src_port, ip["dst"], dst_port):
        if wanted.discovers and is_greeting(payload):
            tally.greeted.add(dst_port)
        tally.other_tcp(src_port, dst_port)
        return
    pieces = ip["pieces"]
    first = frames.get(min(pieces), packet) if pieces else packet
    header = ip["raw"] + bytes.fromhex(_last(packet["tcp_raw"]))
    sacks = list(zip(_numbers(tcp, "tcp_tcp_options_sack_le"), _numbers(tcp, "tcp_tcp_options_sack_re"), strict=False))
    stamps = _numbers(tcp, "tcp_tcp_options_timestamp_tsval"), _numbers(tcp, "tcp_tcp_options_timestamp_tsecr")
    outer = ip["outer"]
    row = {
        **_frame(first, capture),
        "ip_version": ip["version"],
        "src_hi": ip["src"] >> 64,
        "src_lo": ip["src"] & (1 << 64) - 1,
        "dst_hi": ip["dst"] >> 64,
        "dst_lo": ip["dst"] & (1 << 64) - 1,
        "ip_id": ip["ident"],
        "ttl": ip["ttl"],
        "df": ip["df"],
        "ip_bytes": ip["header_bytes"] + header_bytes + payload_bytes if pieces or not ip["told"] else ip["told"],
        "fragments": min(len(pieces), 255),
        "fragment_bytes": max((_ip(frames[n], ["ip"])["told"] for n in pieces if n in frames), default=0),
        "tunnel_depth": ip["depth"],
        "outer_bytes": outer,
        "src_port": src_port,
        "dst_port": dst_port,
        "seq": int(tcp["tcp_tcp_seq"]),
        "ack": int(tcp["tcp_tcp_ack"]),
        "flags": int(_one(tcp["tcp_tcp_flags"]), 16) & 0xFF,
        "window": int(tcp["tcp_tcp_window_size_value"]),
        "payload_bytes": payload_bytes,
        "has_ts": bool(stamps[0]),
        "ts_val": (stamps[0] or [0])[-1],
        "ts_ecr": (stamps[1] or [0])[-1],
        "mss": (_numbers(tcp, "tcp_tcp_options_mss_val") or [0])[-1],
        "window_scale": min((_numbers(tcp, "tcp_tcp_options_wscale_shift") or [-1])[-1], 14),
        "sack_permitted": "tcp_options_sack_perm" in tcp,
        "sack_at": len(blocks) if sacks else 0,
        "sack_count": len(sacks),
        "buffer": 0,
        "ip_at": len(arena),
        "payload_at": len(arena) + len(header),
        "payload_captured": len(payload),
    }
    for name, value in row.items():
        rows[name].append(value)
    blocks += sacks
    arena += header + payload


def _frame(packet: Fields, capture: int) -> Fields:
    """The columns that the frame tells; cooked captures and epb_flags know the direction."""
    frame = packet["frame"]
    outgoing = {"1": 0, "2": 1}.get(_one(frame.get("frame_frame_packet_flags_direction", "")), -1)
    if "sll" in packet:
        outgoing = int(_one(_last(packet["sll"]).get("sll_sll_pkttype", "0")) == "4")
    return {
        "time_ns": _time_ns(frame),
        "capture": capture,
        "frame": int(frame["frame_frame_number"]),
        "interface": int(_one(frame.get("frame_frame_interface_id", "0"))),
        "outgoing": outgoing,
        "frame_bytes": int(frame["frame_frame_len"]),
        "captured_bytes": int(frame["frame_frame_cap_len"]),
    }


def _ip(packet: Fields, path: list[str]) -> Fields:
    """The innermost IP header in front of TCP or ICMP, and what is around it."""
    until = next((i for i, kind in enumerate(path) if kind in ("tcp", "icmp", "icmpv6")), len(path))
    kinds = [kind for kind in path[:until] if kind in ("ip", "ipv6")]
    kind = kinds[-1]
    header = _last(packet[kind])
    raw = bytes.fromhex(_last(packet[f"{kind}_raw"]))
    outer = 0
    if len(kinds) > 1:
        outer = _told(kinds[0], _first(packet[kinds[0]]))
    pieces = [int(n) for n in _list(header.get("ip_ip_fragment", header.get("ipv6_ipv6_fragment", [])))]
    common = {"told": _told(kind, header), "depth": len(kinds) - 1, "outer": outer, "pieces": pieces, "raw": raw}
    if kind == "ip":
        return {
            **common,
            "version": 4,
            "src": 0xFFFF << 32 | int(IPv4Address(_one(header["ip_ip_src"]))),
            "dst": 0xFFFF << 32 | int(IPv4Address(_one(header["ip_ip_dst"]))),
            "ident": int(_one(header["ip_ip_id"]), 16),
            "ttl": int(_one(header["ip_ip_ttl"])),
            "df": _truth(header["ip_ip_flags_df"]),
            "header_bytes": int(_one(header["ip_ip_hdr_len"])),
        }
    return {
        **common,
        "version": 6,
        "src": int(IPv6Address(_one(header["ipv6_ipv6_src"]))),
        "dst": int(IPv6Address(_one(header["ipv6_ipv6_dst"]))),
        "ident": 0,
        "ttl": int(_one(header["ipv6_ipv6_hlim"])),
        "df": True,
        "header_bytes": 40,
        "raw": raw[:40],
    }


def _told(kind: str, header: Fields) -> int:
    """The length that an IP header tells, itself included; 0 where it tells none."""
    if kind == "ip":
        return int(_one(header["ip_ip_len"]))
    payload = int(_one(header["ipv6_ipv6_plen"]))
    return payload + 40 if payload else 0


def _icmp_error(packet: Fields, path: list[str], kind: str, capture: int, wanted: Wanted) -> IcmpError | None:
    """The ICMP error of this frame if it quotes a TCP packet of the wanted ports: tshark prints the quote inside it."""
    error = _last(packet[kind])
    quoted_kind = next((k for k in ("ip", "ipv6") if k in error), None)
    if quoted_kind is None or "tcp" not in error:
        return None
    try:
        outer = _ip(packet, path)
        quoted = _ip({**error}, [quoted_kind])
        number, code = int(_one(error[f"{kind}_{kind}_type"])), int(_one(error[f"{kind}_{kind}_code"]))
        raw = bytes.fromhex(_last(error["tcp_raw"]))
    except (KeyError, ValueError, TypeError):
        return None
    src_port, dst_port = struct.unpack_from(">HH", raw) if len(raw) >= 4 else (None, None)
    seq = struct.unpack_from(">I", raw, 4)[0] if len(raw) >= 8 else None
    if src_port is not None and not wanted.connection(quoted["src"], src_port, quoted["dst"], dst_port or 0):
        return None
    mtu = None
    if (kind, number, code) == ("icmp", 3, 4) or (kind, number) == ("icmpv6", 2):
        mtu = int(_one(error.get(f"{kind}_{kind}_mtu", "0")))
    frame = _frame(packet, capture)
    return IcmpError(
        time_ns=frame["time_ns"],
        capture=capture,
        frame=frame["frame"],
        outgoing=frame["outgoing"],
        ip_version=outer["version"],
        type=number,
        code=code,
        mtu=mtu,
        src=outer["src"],
        dst=outer["dst"],
        ttl=outer["ttl"],
        quoted_src=quoted["src"],
        quoted_dst=quoted["dst"],
        quoted_src_port=src_port,
        quoted_dst_port=dst_port,
        quoted_seq=seq,
        quoted_ip_bytes=quoted["told"],
        quoted_df=quoted["df"],
    )


def _time_ns(frame: Fields) -> int:
    """Seconds with nine decimals since 1970; newer versions print a date instead."""
    text = str(_one(frame.get("frame_frame_time_epoch", "0")))
    if "T" in text:
        whole, _, fraction = text.rstrip("Z").partition(".")
        return int(np.datetime64(whole, "s").astype(np.int64)) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
    negative = text.startswith("-")
    whole, _, fraction = text.lstrip("-").partition(".")
    ns = int(whole) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
    return -ns if negative else ns


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _last(value: Any) -> Any:
    return value[-1] if isinstance(value, list) else value


_one = _first  # a field that should be there once; tshark repeats some


def _numbers(layer: Fields, name: str) -> list[int]:
    return [int(v) for v in _list(layer[name])] if name in layer else []


def _truth(value: Any) -> bool:
    return str(_one(value)).lower() in ("1", "true")
