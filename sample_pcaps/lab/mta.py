"""Real mail software, each instance with its own configuration, queue and log, inside one namespace.

Senders have `send(mails)`, which returns when every mail has met its fate, and answer a list of
connections: `{"server_ip", "client_port" or None, "mails": [{"size_bytes", "outcome", "reply"}]}`.
Outcomes are the software's own words, mapped once in `outcome_of`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from topology import HERE, Network, wait_for

CACHE = Path(os.environ.get("SMTPSCOPE_LAB_CACHE", "/var/cache/smtpscope-lab"))
EXIM = CACHE / "exim/usr/sbin/exim4"
SENDMAIL = CACHE / "sendmail/usr/libexec/sendmail/sendmail"
SENDMAIL_CF = CACHE / "sendmail/usr/share/sendmail/cf"

WORDS = ("The tide table for the harbour, the ferry, the pilot and the lighthouse keeper follows below in plain "
         "words so that nobody needs to open an attachment to read it. ").encode()


@dataclass(frozen=True)
class Mail:
    """One mail to send. `size` counts the bytes on the wire (CRLF line ends) as handed to the mailer, without the final dot."""

    size: int
    server: str = "10.3.0.2"
    to: str = ""
    subject: str = "tide table"
    pause_s: float = 0
    """Wait this long before handing it to the mailer."""

    def text(self, number: int) -> bytes:
        """The mail with LF line ends; lines of 70 characters, the last one shorter to hit the size."""
        head = (f"From: Anna Lind <anna@example.org>\nTo: <{self.recipient(number)}>\nSubject: {self.subject} {number:03d}\n"
                f"Date: Mon, 02 Mar 2026 09:{number % 60:02d}:00 +0000\nMessage-ID: <{number:06d}.tide@mail.example.org>\n\n").encode()
        left = self.size - len(head) - head.count(b"\n")
        lines, filler = [], WORDS * (left // len(WORDS) + 2)
        while left > 74:
            lines.append(filler[:70])
            filler = filler[70:]
            left -= 72
        lines.append(filler[: max(left - 2, 0)])
        return head + b"\n".join(lines) + b"\n"

    def recipient(self, number: int) -> str:
        return self.to or f"harbour{number:03d}@example.net"


def outcome_of(text: str) -> str:
    """What the sender believes: timeout, lost-connection, deferred, rejected, unknown. Its own words stand in `reply`."""
    text = text.lower()
    if "timed out" in text or "timeout" in text:
        return "timeout"
    if any(word in text for word in ("lost connection", "closed", "reset", "broken pipe", "end-of-file")):
        return "lost-connection"
    if found := re.search(r"\b([45])\d\d[ -]", text):
        return "deferred" if found.group(1) == "4" else "rejected"
    return "unknown"


# ---- Postfix -------------------------------------------------------------------------------------
SERVICES = """\
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    def __init__(self, net: Network, node: str, settings: dict[str, str], port: int | None) -> None:
        self.net, self.node = net, node
        self.base = net.work / f"postfix-{node}"
        self.log = net.work / f"{node}.maillog"
        for part in ("etc", "queue", "data"):
            (self.base / part).mkdir(parents=True, exist_ok=True)
        subprocess.run(["chown", "postfix", str(self.base / "data")], check=True)
        for folder in (*self.base.parents, self.base):  # the daemons run as user postfix
            if str(folder).startswith("/tmp/"):
                folder.chmod(folder.stat().st_mode | 0o755)
        main = {
            "compatibility_level": "3.6", "queue_directory": str(self.base / "queue"), "data_directory": str(self.base / "data"),
            "maillog_file": str(self.log), "maillog_file_prefixes": "/", "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native", "smtpd_peername_lookup": "no", "smtpd_client_port_logging": "yes",
            "alias_maps": "", "alias_database": "", "local_recipient_maps": "", "local_transport": "discard:",
            "smtputf8_enable": "no", "append_dot_mydomain": "no", "biff": "no", "message_size_limit": "0", "mailbox_size_limit": "0",
            "minimal_backoff_time": "4000s", "queue_run_delay": "4000s", "default_destination_concurrency_limit": "1",
            "default_destination_concurrency_failed_cohort_limit": "100",  # a hanging mail does not hold up the next
            **settings}
        if port is None:
            main.setdefault("myhostname", "mail.example.org")
            main.setdefault("mydestination", "example.org, mail.example.org")
        else:
            main.setdefault("myhostname", "mx.example.net")
            main.setdefault("default_transport", "discard:")
            main.setdefault("mynetworks", "0.0.0.0/0 [::]/0")
            main.setdefault("mydestination", "example.net")
        if main.pop("strip_received", ""):  # then the size on the wire is the size of the mail
            (self.base / "etc/strip").write_text("/^Received:/ IGNORE\n")
            main["smtp_header_checks"] = f"regexp:{self.base}/etc/strip"
        (self.base / "etc/main.cf").write_text("".join(f"{k} = {v}\n" for k, v in main.items()))
        smtpd = f"{port} inet n - n - - smtpd\n" if port else ""
        (self.base / "etc/master.cf").write_text(smtpd + SERVICES)
        self.start()

    def start(self) -> None:
        self.net.run(self.node, "postfix", "-c", str(self.base / "etc"), "start")
        wait_for(lambda: self.log.exists() and "daemon started" in self.log.read_text(), 20, f"postfix on {self.node}")

    def stop(self) -> None:
        self.net.run(self.node, "postfix", "-c", str(self.base / "etc"), "stop", check=False)

    def submit(self, mail: Mail, number: int) -> None:
        self.net.run(self.node, "sendmail", "-f", "anna@example.org", mail.recipient(number), input=mail.text(number).decode(),
                     env={**os.environ, "MAIL_CONFIG": str(self.base / "etc")})

    def fates(self) -> list[dict]:
        """One entry per delivery attempt, in the order of the log."""
        pattern = re.compile(r"postfix/(?:smtp|error)\[\d+\]: (\w+): to=<([^>]+)>, relay=([^,\[]*)(?:\[([^\]]+)\](?::\d+)?)?,"
                             r"(?: conn_use=(\d+),)? delay=.*?status=(\w+) \((.*)\)$", re.M)
        return [dict(zip(("queue_id", "to", "relay", "server_ip", "conn_use", "status", "reply"), m.groups(), strict=True))
                for m in pattern.finditer(self.log.read_text(errors="replace"))]

    def send(self, mails: list[Mail], limit_s: float, attempts: int = 1) -> list[dict]:
        sizes = {}
        for number, mail in enumerate(mails, 1):
            time.sleep(mail.pause_s)
            sizes[mail.recipient(number)] = mail.size
            self.submit(mail, number)
        try:
            wait_for(lambda: len(self.fates()) >= len(mails) * attempts, limit_s, "mails", 0.2)
        except TimeoutError:  # the log then says what is known
            pass
        connections: list[dict] = []
        current: dict[str, dict] = {}
        for fate in self.fates():
            if not (server := fate["server_ip"]):  # put off without a connection
                continue
            entry = {"size_bytes": sizes[fate["to"]], "outcome": "delivered" if fate["status"] == "sent" else outcome_of(fate["reply"]),
                     "reply": fate["reply"][:160], "queue_id": fate["queue_id"]}
            if server not in current or int(fate["conn_use"] or 1) == 1:
                current[server] = {"server_ip": server, "client_port": None, "mails": []}
                connections.append(current[server])
            current[server]["mails"].append(entry)
        return connections


def postfix_sender(net: Network, settings: dict[str, str], server: str) -> Postfix:
    base = {"relayhost": f"[{server}]", "smtp_tls_security_level": "none", "smtp_data_done_timeout": "45s", "smtp_data_xfer_timeout": "45s",
            "smtp_data_init_timeout": "45s", "smtp_helo_timeout": "45s", "smtp_mail_timeout": "45s", "smtp_quit_timeout": "10s"}
    return Postfix(net, "sender", {**base, **settings}, None)


# Both can sit in a write for a quarter of an hour, whatever their time-outs say.
PATIENCE = ("timeout", "--kill-after=2", "75")
GAVE_UP = ["timed out: stopped by hand"]


# ---- Exim, sendmail: one process per mail, in the foreground ---------------------------------------
class Exim:
    """Exim 4: pipelines, and sends BDAT to a server that offers CHUNKING."""

    def __init__(self, net: Network, settings: dict[str, str], server: str) -> None:
        self.net, self.server, self.log = net, server, net.work / "sender.maillog"
        self.base = net.work / "exim"
        (self.base / "log").mkdir(parents=True)
        (self.base / "log").chmod(0o777)  # exim writes it under its own user
        transport = "".join(f"  {k} = {v}\n" for k, v in settings.items() if k.startswith(("hosts_", "command_", "data_", "final_")))
        top = "".join(f"{k} = {v}\n" for k, v in settings.items() if not k.startswith(("hosts_", "command_", "data_", "final_")))
        (self.base / "exim.conf").write_text(f"""\
primary_hostname = mail.example.org
spool_directory = {self.base}/spool
log_file_path = {self.base}/log/%slog
exim_path = {EXIM}
log_selector = +outgoing_port +delivery_size +smtp_confirmation
trusted_users = root
keep_environment =
{top}begin routers
all:
  driver = manualroute
  route_list = * "<+ {server}" byname
  transport = out
begin transports
out:
  driver = smtp
  hosts_try_prdr =
  hosts_avoid_tls = *
{transport}begin retry
* * F,1h,1h
""")
        (self.base / "exim.conf").chmod(0o644)

    def send(self, mails: list[Mail], limit_s: float) -> list[dict]:
        connections = []
        main_log = self.base / "log/mainlog"
        for number, mail in enumerate(mails, 1):
            before = len(main_log.read_text()) if main_log.exists() else 0
            self.net.run("sender", str(EXIM), "-C", str(self.base / "exim.conf"), "-odf", "-oMr", "local", "-f", "anna@example.org",
                         mail.recipient(number), input=mail.text(number).decode(), timeout=limit_s + 60, check=False)
            said = main_log.read_text()[before:]
            sent = re.search(r"^.* => .*$", said, re.M)
            failed = re.search(r"^.* (?:==|\*\*|H=).*$", said, re.M)
            reply = (sent or failed).group(0)[20:] if sent or failed else said[-200:]
            connections.append({"server_ip": self.server, "client_port": None, "mails": [{
                "size_bytes": mail.size, "outcome": "delivered" if sent else outcome_of(said), "reply": reply[:160]}]})
        self.log.write_text(main_log.read_text())
        return connections

    def stop(self) -> None:
        """Nothing runs on."""


class Sendmail:
    """Sendmail 8.17: no pipelining as a client, writes 4096 bytes at a time, `.CRLF` often alone."""

    def __init__(self, net: Network, settings: dict[str, str], server: str) -> None:
        self.net, self.server, self.log = net, server, net.work / "sender.maillog"
        self.base = net.work / "sendmail"
        (self.base / "queue").mkdir(parents=True)
        (self.base / "queue").chmod(0o700)
        (self.base / "switch").write_text("hosts files\naliases files\n")  # no DNS in here
        options = "".join(f"define(`{k}', `{v}')dnl\n" for k, v in settings.items())
        (self.base / "lab.mc").write_text(f"""\
include(`{SENDMAIL_CF}/m4/cf.m4')dnl
OSTYPE(`linux')dnl
define(`QUEUE_DIR', `{self.base}/queue')dnl
define(`ALIAS_FILE', `')dnl
define(`STATUS_FILE', `')dnl
define(`HELP_FILE', `')dnl
define(`confSERVICE_SWITCH_FILE', `{self.base}/switch')dnl
define(`confPID_FILE', `{self.base}/pid')dnl
define(`confQUEUE_LA', `999')dnl
define(`confREFUSE_LA', `999')dnl
define(`confDOMAIN_NAME', `mail.example.org')dnl
define(`confTRUSTED_USERS', `root')dnl
define(`SMART_HOST', `esmtp:[{"IPv6:" if ":" in server else ""}{server}]')dnl
define(`confBIND_OPTS', `-DNSRCH -DEFNAMES')dnl
{options}FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
undefine(`confCW_FILE')dnl
MAILER(smtp)dnl
""")
        # The two macro folders are named inside cf.m4 by _CF_DIR_.
        cf = subprocess.run(["m4", f"-D_CF_DIR_={SENDMAIL_CF}/", f"{SENDMAIL_CF}/m4/cf.m4", str(self.base / "lab.mc")],
                            capture_output=True, text=True, check=True).stdout
        (self.base / "lab.cf").write_text(cf)

    def send(self, mails: list[Mail], limit_s: float) -> list[dict]:
        connections, said = [], ""
        for number, mail in enumerate(mails, 1):
            done = self.net.run("sender", *PATIENCE, str(SENDMAIL), f"-C{self.base}/lab.cf", "-Am", "-odi", "-v", "-f", "anna@example.org",
                                mail.recipient(number), input=mail.text(number).decode(), timeout=limit_s + 60, check=False)
            said += done.stdout + done.stderr
            last = GAVE_UP if done.returncode == 124 else (done.stdout + done.stderr).strip().splitlines()[-2:]
            sent = "Sent (" in done.stdout + done.stderr
            connections.append({"server_ip": self.server, "client_port": None, "mails": [{
                "size_bytes": mail.size, "outcome": "delivered" if sent else outcome_of(" ".join(last)), "reply": " / ".join(last)[:160]}]})
        self.log.write_text(said)
        return connections

    def stop(self) -> None:
        """Nothing runs on."""


class Swaks:
    def __init__(self, net: Network, settings: dict[str, str], server: str) -> None:
        self.net, self.server, self.log = net, server, net.work / "sender.maillog"
        self.options = [word for key, value in settings.items() for word in (f"--{key}", value) if word]

    def send(self, mails: list[Mail], limit_s: float) -> list[dict]:
        connections, said = [], ""
        for number, mail in enumerate(mails, 1):
            body = self.net.work / f"mail{number}.txt"
            body.write_bytes(mail.text(number))
            done = self.net.run("sender", *PATIENCE, "swaks", "--server", self.server, "--from", "anna@example.org", "--to", mail.recipient(number),
                                "--helo", "mail.example.org", "--data", f"@{body}", "--suppress-data",
                                "--timeout", "45", *self.options, timeout=limit_s + 60, check=False)
            said += done.stdout + done.stderr
            last = GAVE_UP if done.returncode == 124 else [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("***", "<** ", "<-  "))][-3:]
            connections.append({"server_ip": self.server, "client_port": None, "mails": [{
                "size_bytes": mail.size, "outcome": "delivered" if done.returncode == 0 else outcome_of(" ".join(last)),
                "reply": " / ".join(last)[:160]}]})
        self.log.write_text(said)
        return connections

    def stop(self) -> None:
        """Nothing runs on."""


# ---- the scripted pair of talk.py -----------------------------------------------------------------
class Script:
    """smtplib, with options for how it writes; see talk.py. One connection per entry of `settings["connections"]`."""

    def __init__(self, net: Network, settings: dict, server: str) -> None:
        self.net, self.settings, self.server, self.log = net, settings, server, net.work / "sender.maillog"

    def send(self, mails: list[Mail], limit_s: float) -> list[dict]:
        order = {"server": self.server, "mails": [], **self.settings}
        for number, mail in enumerate(mails, 1):
            file = self.net.work / f"mail{number}.txt"
            file.write_bytes(mail.text(number))
            order["mails"].append({"file": str(file), "to": mail.recipient(number), "size": mail.size, "pause_s": mail.pause_s})
        done = self.net.run("sender", sys.executable, str(HERE / "talk.py"), "client", json.dumps(order), timeout=limit_s + 120)
        self.log.write_text(done.stderr)
        return json.loads(done.stdout)

    def stop(self) -> None:
        """Nothing runs on."""


class ScriptServer:
    """The scripted server of talk.py."""

    def __init__(self, net: Network, settings: dict) -> None:
        self.net, self.log = net, net.work / "receiver.maillog"
        self.process = net.start("receiver", sys.executable, str(HERE / "talk.py"), "server", json.dumps(settings), log=self.log)
        wait_for(lambda: self.log.exists() and b"listening" in self.log.read_bytes(), 10, "scripted server")

    def stop(self) -> None:
        self.net.stop(self.process)


SENDERS = {"postfix": postfix_sender, "exim": Exim, "sendmail": Sendmail, "swaks": Swaks, "smtplib": Script}


def receiver(net: Network, kind: str, settings: dict):
    return Postfix(net, "receiver", {"smtpd_tls_security_level": "none", **settings}, 25) if kind == "postfix" else ScriptServer(net, settings)


@functools.cache
def versions() -> dict[str, str]:
    def first(argv: list[str], pattern: str) -> str:
        try:
            out = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
        except OSError:
            return "not installed"
        found = re.search(pattern, out.stdout + out.stderr)
        return found.group(1) if found else "unknown"

    return {
        "postfix": "Postfix " + first(["postconf", "-hd", "mail_version"], r"(\S+)"),
        "exim": "Exim " + first([str(EXIM), "-C", "/dev/null", "-bV"], r"version (\S+)"),
        "sendmail": "Sendmail " + first(["sh", "-c", f"dpkg-deb -f {CACHE}/debs/sendmail-bin_*.deb Version"], r"([\d.]+)"),
        "swaks": "swaks " + first(["swaks", "--version"], r"version (\S+)"),
        "smtplib": f"Python {sys.version.split()[0]} smtplib",
        "script": f"scripted server on Python {sys.version.split()[0]} sockets",
        "tcpdump": first(["tcpdump", "--version"], r"(tcpdump version \S+)"),
    }


def make_certificate(folder: Path, bits: int = 2048) -> dict[str, str]:
    """A self-signed certificate for STARTTLS; answers the paths of key and certificate."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-days", "3650", "-subj", "/CN=mx.example.net",
                    "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return {"smtpd_tls_key_file": str(key), "smtpd_tls_cert_file": str(cert)}


INSTALL = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
echo 'wireshark-common wireshark-common/install-setuid boolean false' | debconf-set-selections
if [ ! -e /usr/sbin/policy-rc.d ]; then  # no service starts by being installed
    printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get install -qy --no-install-recommends iproute2 nftables iptables ethtool tcpdump tshark swaks libio-socket-inet6-perl openssl m4 procps postfix \\
    libidn12 libgnutls-dane0 libpcre2-8-0 liblockfile1 libldap-2.5-0 libwrap0 libsasl2-2 libdb5.3 libnsl2
id Debian-exim >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin Debian-exim
id smmta >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin smmta
id smmsp >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin smmsp
mkdir -p "$CACHE/debs"; cd "$CACHE/debs"
[ -x ../exim/usr/sbin/exim4 ] && [ -x ../sendmail/usr/libexec/sendmail/sendmail ] && exit 0
apt-get -q download exim4-daemon-light sendmail-bin sendmail-cf
for deb in exim4*.deb; do dpkg -x "$deb" ../exim; done
for deb in sendmail*.deb; do dpkg -x "$deb" ../sendmail; done
"""


def install() -> None:
    """Everything the lab needs. Exim and sendmail are unpacked beside Postfix, because apt would replace one by the other."""
    subprocess.run(["bash", "-c", INSTALL], check=True, env={**os.environ, "CACHE": str(CACHE)})
