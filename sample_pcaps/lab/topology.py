"""Hosts, routers and links out of network namespaces, and what can go wrong on the way.

    sender --A-- r1 --B-- r2 --C-- receiver

The narrow place of a path is a *route* with a locked MTU on the router before it, so that both hosts
keep announcing the MSS of their own link, as they do in front of a real tunnel. Link B can be replaced
by a userspace wire (relay.py), because the kernel that the samples come from has no netem.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
NETNS_ETC = Path("/etc/netns")

SENDER4, RECEIVER4 = "10.1.0.2", "10.3.0.2"
SENDER6, RECEIVER6 = "2001:db8:1::2", "2001:db8:3::2"

# nft expressions for "fragmentation needed", "packet too big"
TOO_BIG4 = "icmp type destination-unreachable icmp code 4"
TOO_BIG6 = "icmpv6 type packet-too-big"

# where an ICMP filter can sit -> (namespace, nft hook)
ICMP_FILTERS = {
    "filtered-at-r2": ("r2", "output"),
    "filtered-only-at-r2": ("r2", "output"),
    "filtered-at-r1": ("r1", "forward"),
    "filtered-at-sender": ("sender", "input"),
}


@dataclass(frozen=True)
class Path_:
    """What the network between the two hosts does. Directions are named by where the data goes."""

    mtu: int | None = None
    """Path MTU toward the receiver, narrow at r2 (None: as wide as the links)."""
    mtu_unclear: bool = False
    """No single number is the truth: it changes on the way, or something else than a narrow link discards by size."""
    mtu_back: int | None = None
    """Path MTU toward the sender, narrow at r1."""
    mtu_to: dict[str, int] = field(default_factory=dict)
    """Path MTU toward single receiver addresses (several destinations)."""
    mtu_near: int | None = None
    """Path MTU of everything that leaves the sender's network, narrow at r1."""
    mtu_of_sender: int | None = None
    """The sender's own route is set to this MTU (a repair)."""
    host_mtu: int = 1500
    """MTU of link A and of the sender's interface; the other links carry the larger of this and 1500."""
    receiver_mtu: int = 1500
    icmp: str = "sent"
    """sent, or where it is filtered (a key of ICMP_FILTERS)."""
    loss: str = ""
    """nft condition on r2 for random loss toward the receiver, for instance `numgen random mod 100 < 5`."""
    loss_back: str = ""
    """The same toward the sender."""
    rtt_ms: int = 0
    relay: str = ""
    """What the userspace wire does to frames: words for relay.py."""
    offload: bool = False
    sysctl: dict[str, str] = field(default_factory=dict)
    """Settings of the sending host, in the form `net.ipv4.tcp_sack: "0"`."""
    sysctl_receiver: dict[str, str] = field(default_factory=dict)
    congestion: str = "cubic"
    nat: bool = False
    proxy: bool = False
    """r1 ends the connections to port 25 of the receiver and makes its own (proxy.py)."""
    receivers: int = 0
    """Further receiver addresses 10.3.0.11, .12, ..."""
    drop_fragments: bool = False
    """IP fragments vanish on their way to the receiver."""
    vxlan: bool = False
    """Link B is a VXLAN tunnel (1450 bytes) over a 1500-byte link."""
    sender_drop: str = ""
    """nft statement in the sender's output hook."""
    r1_rule: str = ""
    """Extra nft statements on r1 (forward hook)."""
    r2_rule: str = ""
    """Extra nft statements on r2 (forward hook)."""


class Network:
    """One set of namespaces, alive between `with` and its end. Knows every process it has started."""

    def __init__(self, tag: str, path: Path_, work: Path) -> None:
        self.tag, self.path, self.work = tag, path, work
        self.names = {n: f"smtplab-{tag}-{n}" for n in ("sender", "r1", "wire", "r2", "receiver")}
        self.processes: list[subprocess.Popen] = []

    # -- processes ---------------------------------------------------------------------------------
    def command(self, node: str, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.names[node], *argv]

    def run(self, node: str, *argv: str, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
        kwargs.setdefault("capture_output", True)
        done = subprocess.run(self.command(node, *argv), text=True, **kwargs)
        if check and done.returncode:
            raise RuntimeError(f"{node}: {' '.join(argv)}: exit {done.returncode}: {done.stderr}")
        return done

    def start(self, node: str, *argv: str, log: Path | None = None, **kwargs) -> subprocess.Popen:
        out = open(log, "ab") if log else subprocess.DEVNULL
        process = subprocess.Popen(self.command(node, *argv), stdout=out, stderr=out, **kwargs)
        self.processes.append(process)
        return process

    def ip(self, node: str, line: str) -> None:
        self.run(node, "ip", *line.split())

    def sysctl(self, node: str, settings: dict[str, str]) -> None:
        if settings:
            self.run(node, "sysctl", "-qw", *(f"{k}={v}" for k, v in settings.items()))

    def nft(self, node: str, rules: str) -> None:
        self.run(node, "nft", "-f", "-", input=rules)

    def chain(self, node: str, hook: str, rules: str) -> None:
        """Add rules to one chain of the node's filter table (made when missing)."""
        lines = [f"add rule inet lab {hook} {rule}" for rule in filter(None, rules.split("\n"))]
        self.nft(node, "add table inet lab\n"
                 f"add chain inet lab {hook} {{ type filter hook {hook} priority 0; }}\n"
                 + "\n".join(lines) + "\n")

    def flush(self, node: str, hook: str) -> None:
        self.run(node, "nft", "flush", "chain", "inet", "lab", hook)

    # -- building ----------------------------------------------------------------------------------
    def __enter__(self) -> Network:
        self.__exit__()  # what a run that was broken off has left behind
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        p = self.path
        for name in self.names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
        for name in self.names.values():  # `ip netns exec` mounts these over /etc: no name leaves the lab
            etc = NETNS_ETC / name
            etc.mkdir(parents=True, exist_ok=True)
            (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{SENDER4} mail.example.org\n{SENDER6} mail.example.org\n"
                                       f"{RECEIVER4} mx.example.net\n{RECEIVER6} mx.example.net\n")
        for node in self.names:
            self.ip(node, "link set lo up")
            self.sysctl(node, {"net.ipv6.conf.all.accept_dad": "0", "net.ipv6.conf.default.accept_dad": "0",
                               "net.ipv6.conf.all.accept_ra": "0", "net.ipv6.conf.default.router_solicitations": "0"})
        for router in ("r1", "r2"):
            self.sysctl(router, {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
                                 "net.ipv4.icmp_ratelimit": "0", "net.ipv6.icmp.ratelimit": "0",
                                 "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.all.send_redirects": "0"})
        wide = max(p.host_mtu, 1500)
        self._link("sender", "eth0", "r1", "a0", p.host_mtu)
        self._link("r2", "c0", "receiver", "eth0", p.receiver_mtu)
        if p.relay or p.rtt_ms:
            self._link("r1", "b0", "wire", "w1", wide, peer_mtu=9500)
            self._link("wire", "w2", "r2", "b0", 9500, peer_mtu=wide)
            self._link("wire", "t1", "wire", "t2", 9500)
        else:
            self._link("r1", "b0", "r2", "b0", wide)
        self._addresses()
        self.sysctl("sender", p.sysctl)
        self.sysctl("receiver", p.sysctl_receiver)
        self._filters()
        if p.relay or p.rtt_ms:
            self.start_relay()
        if p.proxy:
            self.start_proxy()

    def _link(self, left: str, left_if: str, right: str, right_if: str, mtu: int, peer_mtu: int | None = None) -> None:
        a, b = self.names[left], self.names[right]
        subprocess.run(["ip", "-n", a, "link", "add", left_if, "mtu", str(mtu), "type", "veth", "peer", "name", right_if,
                        "netns", b, "mtu", str(peer_mtu or mtu)], check=True)
        for node, interface in ((left, left_if), (right, right_if)):
            wire = "wire" in (left, right)
            state = "on" if self.path.offload and not wire else "off"
            keys = ("tx", "sg", "tso", "gso", "gro")
            self.run(node, "ethtool", "-K", interface, *(w for k in keys for w in (k, state)))
            self.ip(node, f"link set {interface} up")

    def _addresses(self) -> None:
        p, b = self.path, "b0"
        if p.vxlan:
            for node, own, peer in (("r1", "192.0.2.1", "192.0.2.2"), ("r2", "192.0.2.2", "192.0.2.1")):
                self.ip(node, f"addr add {own}/30 dev b0")
                self.ip(node, f"link add vx0 mtu 1450 type vxlan id 42 local {own} remote {peer} dstport 4789 dev b0")
                self.ip(node, "link set vx0 up")
            b = "vx0"
        self.far_interface = b
        for node, interface, *addresses in (
            ("sender", "eth0", f"{SENDER4}/24", f"{SENDER6}/64"),
            ("r1", "a0", "10.1.0.1/24", "2001:db8:1::1/64"),
            ("r1", b, "10.2.0.1/24", "2001:db8:2::1/64"),
            ("r2", b, "10.2.0.2/24", "2001:db8:2::2/64"),
            ("r2", "c0", "10.3.0.1/24", "2001:db8:3::1/64"),
            ("receiver", "eth0", f"{RECEIVER4}/24", f"{RECEIVER6}/64",
             *(f"10.3.0.{11 + i}/24" for i in range(p.receivers)))):
            for address in addresses:
                self.ip(node, f"addr add {address} dev {interface}" + (" nodad" if ":" in address else ""))
        for node, gateway4, gateway6 in (("sender", "10.1.0.1", "2001:db8:1::1"), ("receiver", "10.3.0.1", "2001:db8:3::1"),
                                         ("r2", "10.2.0.1", "2001:db8:2::1")):
            # per route, because a namespace may not choose the algorithm for all its sockets
            algorithm = "" if node == "r2" else f"congctl {p.congestion}"
            if node == "sender" and p.mtu_of_sender:
                algorithm += f" mtu {p.mtu_of_sender}"
            self.ip(node, f"route add default via {gateway4} {algorithm}")
            self.ip(node, f"-6 route add default via {gateway6} {algorithm}")
        lock = f"mtu lock {p.mtu_near}" if p.mtu_near else ""
        self.ip("r1", f"route add 10.3.0.0/24 via 10.2.0.2 {lock}")
        self.ip("r1", f"-6 route add 2001:db8:3::/64 via 2001:db8:2::2 {lock}")
        if p.mtu:
            self.narrow(p.mtu)
        for address, mtu in p.mtu_to.items():
            self.ip("r2", f"route add {address}/32 dev c0 mtu lock {mtu}")
        if p.mtu_back:
            self.ip("r1", f"route replace 10.1.0.0/25 dev a0 mtu lock {p.mtu_back}")
            self.ip("r1", f"-6 route replace 2001:db8:1::/65 dev a0 mtu lock {p.mtu_back}")

    def narrow(self, mtu: int) -> None:
        """From now on the path to the receiver is `mtu` bytes wide."""
        self.ip("r2", f"route replace 10.3.0.0/25 dev c0 mtu lock {mtu}")
        if mtu >= 1280:  # less does not exist in IPv6
            self.ip("r2", f"-6 route replace 2001:db8:3::/65 dev c0 mtu lock {mtu}")

    def _filters(self) -> None:
        p = self.path
        for where in filter(None, p.icmp.split("+")):
            if where == "sent":
                continue
            node, hook = ICMP_FILTERS[where]
            self.chain(node, hook, f"{TOO_BIG4} drop\n{TOO_BIG6} drop")
            if where == "filtered-at-r2":
                self.chain("r1", "output", f"{TOO_BIG4} drop\n{TOO_BIG6} drop")
        if p.loss:
            self.chain("r2", "forward", f'oifname "c0" meta l4proto tcp {p.loss} drop')
        if p.loss_back:
            self.chain("r2", "forward", f'iifname "c0" meta l4proto tcp {p.loss_back} drop')
        for node, rules in (("r1", p.r1_rule), ("r2", p.r2_rule)):
            if rules:
                self.chain(node, "forward", rules)
        if p.drop_fragments:  # after the router has made them: at the egress of its link
            self.nft("r2", 'add table netdev lab\nadd chain netdev lab out { type filter hook egress device "c0" priority 0; }\n'
                     "add rule netdev lab out ip frag-off & 0x3fff != 0 drop\n")
        if p.sender_drop:
            self.chain("sender", "output", p.sender_drop)
        if p.nat:
            self.nft("r1", "add table ip nat\nadd chain ip nat post { type nat hook postrouting priority 100; }\n"
                     'add rule ip nat post oifname "b0" masquerade\n')

    def start_relay(self) -> None:
        log = self.work / "relay.log"
        self.relay = self.start("wire", sys.executable, str(HERE / "relay.py"), "--delay-ms", str(self.path.rtt_ms / 2),
                                *self.path.relay.split(), log=log)
        wait_for(lambda: log.exists() and b"ready" in log.read_bytes(), 10, "relay")

    def start_proxy(self) -> None:
        self.nft("r1", "add table ip proxy\nadd chain ip proxy pre { type nat hook prerouting priority -100; }\n"
                 f'add rule ip proxy pre iifname "a0" ip daddr {RECEIVER4} tcp dport 25 redirect to :2500\n')
        log = self.work / "proxy.log"
        self.start("r1", sys.executable, str(HERE / "proxy.py"), "2500", RECEIVER4, "25", log=log)
        wait_for(lambda: log.exists() and b"ready" in log.read_bytes(), 10, "proxy")

    # -- capturing ---------------------------------------------------------------------------------
    def capture(self, node: str, interface: str, file: Path, *, snaplen: int = 0, link_type: str = "",
                filter_: str = "", pcapng: bool = False, buffer_kib: int = 65536) -> subprocess.Popen:
        if pcapng:
            argv = ["dumpcap", "-q", "-i", interface, "-w", str(file)]
        else:
            argv = ["tcpdump", "-Z", "root", "--immediate-mode", "-U", "-n", "-i", interface, "-B", str(buffer_kib), "-s", str(snaplen), "-w", str(file)]
        if link_type:
            argv += ["-y", link_type]
        if filter_:
            argv += ["-f", filter_] if pcapng else [filter_]
        log = file.with_suffix(".tcpdump.log")
        process = self.start(node, *argv, log=log)
        ready = b"Capturing on" if pcapng else b"listening on"
        wait_for(lambda: ready in log.read_bytes(), 10, f"capture {file.name}")
        return process

    @staticmethod
    def stop(process: subprocess.Popen, how: int = signal.SIGINT) -> None:
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __exit__(self, *_exc: object) -> None:
        for process in self.processes:
            self.stop(process, signal.SIGTERM)
        for name in self.names.values():
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(NETNS_ETC / name, ignore_errors=True)


def wait_for(condition, seconds: float, what: str, step: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(step)
