#!/usr/bin/env python3
"""Record the sample captures with real TCP stacks and real mailers.

    python3 sample_pcaps/lab/run.py [SCENARIO...|--all|--list|--install] [--out DIR] [--jobs N] [--publish]

Needs root and Linux. Every scenario runs in network namespaces of its own; a scenario whose result is complete is
skipped, so a run can be broken off and started again. `--publish` copies the accepted captures into sample_pcaps/.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import mta
from scenario import Scenario, View
from scenarios import SCENARIOS
from sweep import sweep
from topology import Network

SAMPLES = Path(__file__).resolve().parents[1]
RULES = """pmtud-black-hole icmp-frag-needed-ignored black-hole-recovered pmtud-working suspicious-icmp path-outage packet-loss receiver-stalled
split-terminator pix-workaround masked-banner esmtp-inspection starttls-stripped end-of-data-timeout lost-after-data duplicate-delivery
size-dependent-delivery small-mss df-off""".split()
MAIL_PORTS = {"25", "465", "587", "2525"}
SAMPLE_LIMIT, LOG_LIMIT = 1_000_000, 20_000


# ---- an independent reader: tshark ------------------------------------------------------------------
@dataclass
class Seen:
    """What tshark counts in one capture; the names are those of the scenarios' checks."""

    packets: int = 0
    resends: int = 0
    """Most often sent again: how many times beyond the first, one sequence number with data of one sender."""
    resends_server: int = 0
    largest: int = 0
    """Largest IP packet with TCP in it."""
    icmp: int = 0
    """Fragmentation needed / packet too big."""
    resent: int = 0
    """How many different sequence numbers the client sent more than once."""
    zero_windows: int = 0
    hole: bool = False
    """A sequence number of the client jumps over bytes never seen."""
    hole_server: bool = False
    hole_s: float = 0
    """How long the capture goes on after the last jump over bytes never seen."""
    connections: int = 0
    data_bytes: int = 0
    seconds: float = 0


FIELDS = ["frame.time_relative", "tcp.stream", "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport", "tcp.seq_raw",
          "tcp.len", "ip.len", "ipv6.plen", "icmp.type", "icmp.code", "icmpv6.type", "tcp.window_size_value", "tcp.flags.syn", "tcp.flags.fin",
          "tcp.flags.reset"]


def rows_of(capture: Path) -> list[dict[str, str]]:
    argv = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=,", "-o", "tcp.desegment_tcp_streams:FALSE"]
    for name in FIELDS:
        argv += ["-e", name]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in out.splitlines()]


def last(value: str) -> str:
    """Of a tunnelled packet's addresses, the innermost."""
    return value.rsplit(",", 1)[-1]


def endpoints(row: dict[str, str]) -> tuple[str, str, str, str]:
    """Client address, client port, server address, server port."""
    a = (last(row["ipv6.src"] or row["ip.src"]), last(row["tcp.srcport"]))
    b = (last(row["ipv6.dst"] or row["ip.dst"]), last(row["tcp.dstport"]))
    return (*b, *a) if a[1] in MAIL_PORTS or int(a[1]) < int(b[1]) and b[1] not in MAIL_PORTS else (*a, *b)


def is_too_big(row: dict[str, str]) -> bool:
    return (row["icmp.type"] == "3" and row["icmp.code"] == "4") or row["icmpv6.type"] == "2"


def look(capture: Path) -> tuple[Seen, list[tuple[str, str, str, str]]]:
    """Count; and the connections in order of their first packet."""
    seen, sent, streams, jumped = Seen(), Counter(), {}, 0.0
    reach: dict[tuple[str, str], int] = {}
    for row in rows_of(capture):
        seen.packets += 1
        seen.seconds = float(row["frame.time_relative"])
        if row["icmp.type"] or row["icmpv6.type"]:
            seen.icmp += is_too_big(row)
            continue
        if not row["tcp.stream"]:
            continue
        streams.setdefault(row["tcp.stream"], endpoints(row))
        sizes = [int(n) for n in row["ip.len"].split(",") if n] + [int(n) + 40 for n in row["ipv6.plen"].split(",") if n]
        seen.largest = max([seen.largest, *sizes[-1:]])
        length, start = int(row["tcp.len"] or 0), int(row["tcp.seq_raw"])
        port = last(row["tcp.srcport"])
        seen.zero_windows += row["tcp.window_size_value"] == "0" and row["tcp.flags.reset"] in ("0", "False")
        if length > 0:
            sent[row["tcp.stream"], port, start] += 1
            seen.data_bytes += length
        key = (row["tcp.stream"], port)
        if key in reach and 0 < start - reach[key] < 1 << 30:
            seen.hole_server |= port in MAIL_PORTS
            seen.hole |= port not in MAIL_PORTS
            jumped = seen.seconds
        reach[key] = max(reach.get(key, 0), start + length + sum(row[flag] in ("1", "True") for flag in ("tcp.flags.syn", "tcp.flags.fin")))
    for (_stream, port, _start), times in sent.items():
        if port in MAIL_PORTS:
            seen.resends_server = max(seen.resends_server, times - 1)
        else:
            seen.resends = max(seen.resends, times - 1)
            seen.resent += times > 1
    seen.connections = len(streams)
    seen.hole_s = seen.seconds - jumped
    return seen, list(streams.values())


# ---- making one happen ------------------------------------------------------------------------------
class NotAsPlanned(Exception):
    """The recording is not what the scenario promises; nothing is accepted."""


def record(scenario: Scenario, out: Path) -> None:
    folder = out / scenario.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tls = mta.make_certificate(folder, scenario.tls) if scenario.tls else {}
    with Network(scenario.name, scenario.path, folder) as net:
        sending = dict(scenario.sender_settings)
        if sending.get("keylog"):  # where the client writes the secrets of its sessions
            sending["keylog"] = str(folder / "keys")
        settings = dict(scenario.receiver_settings)
        if scenario.tls:
            settings |= {"smtpd_tls_security_level": "may", **tls} if scenario.receiver == "postfix" else tls
        server = mta.receiver(net, scenario.receiver, settings)
        sender = mta.SENDERS[scenario.sender](net, sending, scenario.server)
        files = {name: folder / f"{scenario.name}.{name}.pcap{'ng' if view.pcapng else ''}" for name, view in scenario.views.items()}
        running = [net.capture(view.node, view.interface, files[name], snaplen=view.snaplen, link_type=view.link_type,
                               filter_=view.filter_, pcapng=view.pcapng, buffer_kib=view.buffer_kib) for name, view in scenario.views.items()]
        timers = [threading.Timer(after, event, (net,)) for after, event in scenario.events]
        for timer in timers:
            timer.start()
        if scenario.drive:
            connections = scenario.drive(net, sender, scenario)
        elif scenario.sender == "postfix":
            connections = sender.send(list(scenario.mails), scenario.limit_s, scenario.attempts)
        else:
            connections = sender.send(list(scenario.mails), scenario.limit_s)
        time.sleep(scenario.after_s)
        for timer in timers:
            timer.cancel()
        for capture in running:
            net.stop(capture)
        sender.stop()
        server.stop()
    (folder / "maillog").write_text(maillog(sender.log, server.log))
    outcomes = [mail["outcome"] for connection in connections for mail in connection["mails"]]
    if scenario.expect and not eval(scenario.expect, {"c": connections, "o": outcomes}):  # noqa: S307 - our own expression
        raise NotAsPlanned(f"the sender says {json.dumps(connections)[:600]}")
    result = {"scenario": scenario.name, "recorded": datetime.date.today().isoformat(), "connections": connections,
              "versions": mta.versions(), "kernel": f"{platform.system()} {platform.release().split('-')[0]}", "views": {}}
    problems = []
    for name, view in scenario.views.items():
        dropped = sum(int(n) for n in re.findall(r"(\d+) packets dropped by kernel", files[name].with_suffix(".tcpdump.log").read_text()))
        if bool(dropped) is not view.drops:
            problems.append(f"{name}: the capture itself missed {dropped} packets")
        trim(files[name], view)
        seen, streams = look(files[name])
        result["views"][name] = {"file": files[name].name, "seen": asdict(seen), "streams": streams}
        if view.check and not eval(view.check, {}, vars(seen)):  # noqa: S307 - our own expression
            problems.append(f"{name}: not ({view.check}): {seen}")
    if problems:
        raise NotAsPlanned("; ".join(problems))
    (folder / "result.json").write_text(json.dumps(result, indent=1))


def trim(capture: Path, view: View) -> None:
    """Keep only the part of the recording that the scenario asks for: captures are started late and stopped early."""
    if not view.from_data and view.until_s is None:
        return
    rows = rows_of(capture)
    times = [float(row["frame.time_relative"]) for row in rows]
    data = next(n for n, row in enumerate(rows) if int(last(row["tcp.len"]) or 0) > 1000)
    end = max(n for n, t in enumerate(times) if view.until_s is None or t <= times[data] + view.until_s)
    part = capture.with_suffix(".part")
    kind = "pcapng" if view.pcapng else "pcap"
    subprocess.run(["editcap", "-F", kind, "-r", str(capture), str(part), f"{data + 1 + view.skip if view.from_data else 1}-{end + 1}"],
                   check=True, capture_output=True)
    part.replace(capture)


def maillog(sender: Path, receiver: Path) -> str:
    """Both sides' own words, without start-up noise and machine paths."""
    text = ""
    for side, log in (("sender", sender), ("receiver", receiver)):
        if log.exists():
            text += f"# {side}\n" + "".join(
                line + "\n" for line in log.read_text(errors="replace").splitlines()
                if not re.search(r"postfix-script|postfix/master|/lab-out/|lost privilege|warning: symlink|postlogd", line))
    return text


# ---- publishing -------------------------------------------------------------------------------------
HOLE_STAYS_S = 3.0  # a receiver's capture that ends sooner after the hole can not show that it stayed


def truth(scenario: Scenario, view: View, recorded: dict, connections: list[dict]) -> dict:
    """Outcomes in order of first packet: the k-th connection to a server is the k-th that the sender reports for it."""
    streams, seen = recorded["streams"], recorded["seen"]
    left = list(connections)
    outcomes = []
    for client_ip, client_port, server_ip, _port in streams:
        match = next((c for c in left if c["client_port"] == int(client_port)), None)
        if match is None and not view.from_data:  # a capture started late does not hold the first ones
            match = next((c for c in left if c["server_ip"] == server_ip and c["client_port"] is None), None)
        if match:
            left.remove(match)
        outcomes.append({"client_ip": client_ip, "client_port": int(client_port), "server_ip": server_ip,
                         "mails": match["mails"] if match else []})
    finds = [{"rule": f.rule, "role": f.role, "sender": f.sender, "receiver": f.receiver, "path_mtu": f.path_mtu,
              **({"connections": f.connections} if f.connections else {}), **f.extra} for f in view.finds]
    allowed = set(view.allowed)
    if seen["hole_s"] < HOLE_STAYS_S:
        short = [f for f in finds if f.get("confidence_at_most")]
        finds = [f for f in finds if f not in short]
        allowed |= {f["rule"] for f in short}
    wanted = {f["rule"] for f in finds}
    return {"outcomes": outcomes, "diagnosis": finds, "forbidden": [r for r in RULES if r not in wanted | allowed],
            "allowed": sorted(allowed - wanted)}


def parameters(scenario: Scenario) -> dict:
    p = scenario.path
    sysctl = {k.rsplit(".", 1)[-1]: v for k, v in p.sysctl.items()}
    links = min(p.host_mtu, p.receiver_mtu, 1450 if p.vxlan else 9999)
    boxes = [int(n) for n in re.findall(r"(?:max-size|icmp)=(\d+)(?!\S*forged)", p.relay)]
    there = min([links, *boxes, *filter(None, (p.mtu, p.mtu_near))])
    values = {
        "path_mtu": None if p.mtu_unclear or p.mtu_to else there, "path_mtu_reverse": min(filter(None, (p.mtu_back, links))),
        "host_mtu": p.host_mtu, "icmp": p.icmp, "loss": p.loss or None, "loss_reverse": p.loss_back or None, "rtt_ms": p.rtt_ms,
        "offload": p.offload, "ip_version": 6 if ":" in scenario.server else 4, "sack": sysctl.get("tcp_sack", "1") == "1",
        "timestamps": sysctl.get("tcp_timestamps", "1") == "1", "mtu_probing": int(sysctl.get("tcp_mtu_probing", "0")),
        "congestion_control": p.congestion, "nat": p.nat, "proxy": p.proxy or None, "relay": p.relay or None, "vxlan": p.vxlan,
        "rules": {k: v for k, v in (("sender", p.sender_drop), ("r1", p.r1_rule), ("r2", p.r2_rule)) if v},
        "mtu_to": p.mtu_to, "sysctl": p.sysctl, "sysctl_receiver": p.sysctl_receiver,
        "mail_sizes": sorted({m.size for m in scenario.mails}), "sender_settings": scenario.sender_settings,
        "receiver_settings": {k: v for k, v in scenario.receiver_settings.items() if "file" not in k}}
    return {k: v for k, v in values.items() if v not in ({}, None) or k == "path_mtu"}


CALLED = {"incident.sender": "incident"}  # the capture that README and `make demo` name; it has one point of capture only


def publish(scenario: Scenario, out: Path, to: Path) -> int:
    folder = out / scenario.name
    result = json.loads((folder / "result.json").read_text())
    software = result["versions"]
    total = 0
    for old in to.glob(f"{scenario.name}.*.*"):  # of vantage points that the scenario no longer has
        if old.name.split(".")[1] not in scenario.views:
            old.unlink()
    for name, view in scenario.views.items():
        recorded = result["views"][name]
        capture = folder / recorded["file"]
        if capture.stat().st_size > SAMPLE_LIMIT:
            print(f"{capture.name}: {capture.stat().st_size} bytes, too large for a sample", file=sys.stderr)
            continue
        stem = CALLED.get(capture.stem, capture.stem)
        target = to / f"{stem}{capture.suffix}"
        shutil.copyfile(capture, target)
        total += target.stat().st_size
        sidecar = to / f"{stem}.json"
        old = json.loads(sidecar.read_text()) if sidecar.exists() else {}
        document = {
            "shows": view.shows or scenario.shows, "scenario": scenario.name, "vantage": name, "captured_on": f"{view.node} {view.interface}",
            "made_by": f"python3 sample_pcaps/lab/run.py {scenario.name} --publish", "kernel": result["kernel"],
            "mta": {"sender": software[scenario.sender], "receiver": software[scenario.receiver], "capture": software["tcpdump"]},
            "recorded": result["recorded"], "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
            "parameters": parameters(scenario) | ({"snaplen": view.snaplen} if view.snaplen else {}),
            "truth": truth(scenario, view, recorded, result["connections"])}
        if "findings" in old and old.get("sha256") == document["sha256"]:
            document["findings"] = old["findings"]
        sidecar.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if (folder / "keys").exists():
        shutil.copyfile(folder / "keys", to / f"{scenario.name}.keys")
    log = "".join(line + "\n" for line in (folder / "maillog").read_text().splitlines()
                  if not re.match(r"Traceback|KeyboardInterrupt| +File |    |  \^", line))
    if len(log) > LOG_LIMIT:  # the fates alone
        log = "# sender\n" + "".join(line + "\n" for line in log.splitlines() if "postfix/smtp[" in line)
    if log:
        (to / f"{scenario.name}.maillog").write_text(log)
    return total


def write_table() -> None:
    """The table of samples in the README, from the sidecars."""
    readme = SAMPLES / "README.md"
    head, begin, rest = readme.read_text().partition("<!-- table -->\n")
    _old, end, tail = rest.partition("<!-- end of table -->")
    rows = ["| scenario | what it shows | must be found |", "|---|---|---|"]
    groups: dict[str, list[tuple[str, dict]]] = {}
    for sidecar in sorted(SAMPLES.glob("*.json")):
        document = json.loads(sidecar.read_text())
        groups.setdefault(document["scenario"], []).append((document["vantage"], document))
    for scenario, views in sorted(groups.items()):
        by_rules: dict[str, list[str]] = {}
        for vantage, document in views:
            rules = ", ".join(dict.fromkeys(f"`{d['rule']}`" for d in document["truth"]["diagnosis"])) or "nothing"
            by_rules.setdefault(rules, []).append(vantage)
        found = "; ".join(f"{', '.join(vantages)}: {rules}" for rules, vantages in by_rules.items())
        rows.append(f"| {scenario} | {views[0][1]['shows']} | {found} |")
    readme.write_text(head + begin + "\n".join(rows) + "\n" + end + tail)


# ---- command line -----------------------------------------------------------------------------------
def complete(scenario: Scenario, out: Path) -> bool:
    return (out / scenario.name / "result.json").exists()


def attempt(scenario: Scenario, out: Path, tries: int) -> str:
    for number in range(1, tries + 1):
        try:
            record(scenario, out)
            return ""
        except NotAsPlanned as problem:
            failure = f"not as planned (try {number}): {problem}"
        except Exception:
            failure = traceback.format_exc()
        print(f"{scenario.name}: {failure}", file=sys.stderr, flush=True)
    return failure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--install", action="store_true", help="install the mailers and tools that the lab needs (Debian)")
    parser.add_argument("--out", type=Path, default=Path("/tmp/lab-out"))
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--readme", action="store_true", help="write the table of samples in sample_pcaps/README.md anew")
    parser.add_argument("--publish", action="store_true", help="copy accepted captures and their sidecars into sample_pcaps/")
    parser.add_argument("--sweep", type=int, metavar="N", help="N scenarios drawn at random (see sweep.py) instead of the written ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, default=SAMPLES, help="publish into this folder instead: fresh recordings to test against")
    options = parser.parse_args()
    known = {s.name: s for s in SCENARIOS}
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:32} {scenario.shows}")
        return 0
    if options.install:
        mta.install()
    unknown = [n for n in options.scenario if n not in known]
    if unknown:
        parser.error(f"unknown scenario: {', '.join(unknown)} (see --list)")
    wanted = SCENARIOS if options.all else [known[n] for n in options.scenario]
    if options.sweep:
        if options.publish and options.to == SAMPLES:
            parser.error("--sweep --publish needs --to: random recordings are no samples")
        wanted = sweep(options.sweep, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(attempt, s, options.out, options.tries): s for s in wanted if not complete(s, options.out)}
        for job in as_completed(jobs):
            scenario, problem = jobs[job], job.result()
            print(f"{scenario.name}: {'FAILED' if problem else 'recorded'}", flush=True)
            failed += [scenario.name] if problem else []
    if options.publish:
        options.to.mkdir(parents=True, exist_ok=True)
        size = sum(publish(s, options.out, options.to) for s in wanted if complete(s, options.out))
        print(f"published {size} bytes")
    if options.readme or (options.publish and options.to == SAMPLES):
        write_table()
    if failed:
        print("failed: " + " ".join(sorted(failed)), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
