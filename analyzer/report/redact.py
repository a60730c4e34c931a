"""A case without addresses and names: each is replaced by the same pseudonym wherever it occurs.

Pseudonyms are keyed (HMAC-SHA-256, RFC 2104): without the key nobody can try all 2**32 addresses and look. With the same
key the same host has the same pseudonym in every report, so that reports can be compared; a random key, the default,
makes a report that can not be compared with any other.

An IPv4 address becomes one of 240.0.0.0/4 and an IPv6 address one of 2001:db8::/32: neither is ever routed (RFC 1112
section 4, RFC 3849), so that a reader sees that they are not real, while filters stay well-formed. A name becomes
`name-….invalid` (RFC 2606). What remains: ports, times, sizes, MTUs, rule texts, outcomes.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path as FilePath
from typing import Any

from ..capture.packets import CaptureInfo, IcmpError
from ..case import Case, Connection, Finding, Message
from ..errors import UsageError

KEY_BYTES = 32  # as long as the hash: longer adds nothing (RFC 2104 section 3)
LEAST_KEY_BYTES = 16  # 128 bits: can not be searched

# Keywords that say what a server can do and nothing of whose it is (IANA's list of SMTP service extensions, and the
# commonest of its own making).
KEYWORDS = frozenset(
    "8BITMIME AUTH BINARYMIME BURL CHECKPOINT CHUNKING CONPERM CONNEG DELIVERBY DSN ENHANCEDSTATUSCODES ETRN EXPN "
    "FUTURERELEASE HELP LIMITS MTRK MT-PRIORITY NO-SOLICITING PIPELINING REQUIRETLS RRVS SIZE SMTPUTF8 STARTTLS SUBMITTER UTF8SMTP "
    "VERB VRFY XCLIENT XFORWARD X-EXPS X-ANONYMOUSTLS XOORG XRDST".split()
)
_MASKED = re.compile(r"[X*20 ]+[A-Z]?|\**")  # what a firewall made of a greeting or keyword: nothing is left to hide

_MAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w.-]+\w")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?<![.])(?![\w:])")
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]")


def read_key(path: str | FilePath) -> bytes:
    """The key from a file; its whole content counts, a newline at the end does not."""
    try:
        key = FilePath(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(f"{path}: the redaction key cannot be read: {error.strerror}") from error
    if len(key) < LEAST_KEY_BYTES:
        raise UsageError(
            f"{path}: a redaction key of {len(key)} bytes can be guessed; {LEAST_KEY_BYTES} or more are needed "
            f"(head -c {KEY_BYTES} /dev/urandom > {path})"
        )
    return key


def new_key() -> bytes:
    """A random key: pseudonyms made with it can be compared with no others."""
    return secrets.token_bytes(KEY_BYTES)


def redact(case: Case, key: bytes | None = None) -> Case:
    """A copy of the case with pseudonyms for addresses and names, and keyed fingerprints."""
    return _Redactor(key or new_key(), case).case()


class Pseudonyms:
    """Knows every address and name that is to be hidden, so that it is found in sentences as well."""

    def __init__(self, key: bytes, addresses: Iterable[str], names: Iterable[str]) -> None:
        self._key = key
        self._addresses: dict[str, str] = {}
        self._taken: set[str] = set()
        for text in sorted(set(addresses)):
            self.address(text)
        known = {name for name in names if len(name) > 2}
        # the longest first: mail.example.org before example.org
        alternatives = "|".join(re.escape(n) for n in sorted(known, key=lambda n: (-len(n), n)))
        self._known = re.compile(rf"(?<![\w.-])(?:{alternatives})(?![\w-])", re.IGNORECASE) if known else None

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), "sha256")

    def address(self, text: str) -> str:
        """The pseudonym of an address; of what is none, the text as a name."""
        if text not in self._addresses:
            try:
                ip = ip_address(text)
            except ValueError:
                return self.name(text)
            self._addresses[text] = self._free(ip)
        return self._addresses[text]

    def _free(self, ip: IPv4Address | IPv6Address) -> str:
        """The first pseudonym that no other address of this case has: two hosts never become one."""
        attempt = 0
        while True:
            digest = self._digest(f"address {attempt}" if attempt else "address", ip.compressed)
            if ip.version == 4:
                pseudonym = str(IPv4Address(0xF << 28 | int.from_bytes(digest[:4], "big") >> 4))
            else:
                pseudonym = str(IPv6Address(0x20010DB8 << 96 | int.from_bytes(digest[:12], "big")))
            if pseudonym not in self._taken:
                self._taken.add(pseudonym)
                return pseudonym
            attempt += 1

    def name(self, text: str) -> str:
        """A host name, or any other text that names somebody; upper and lower case are the same name (RFC 1035 2.3.3)."""
        return f"name-{self._digest('name', text.lower()).hex()[:10]}.invalid"

    def mail_address(self, text: str) -> str:
        """Both halves by themselves, so that mails to one domain stay recognizable; `<>` stays what it is."""
        bare = text.strip("<>")
        if not bare:
            return text
        local, at, domain = bare.rpartition("@")
        if not at:
            return f"user-{self._digest('user', bare).hex()[:10]}"
        return f"user-{self._digest('user', local).hex()[:10]}@{self.name(domain)}"

    def text(self, text: str) -> str:
        """A sentence: every address of any kind, and every name that the case knows."""
        text = _MAIL.sub(lambda m: self.mail_address(m[0]), text)
        if self._known:
            text = self._known.sub(lambda m: self._as_what_it_is(m[0]), text)
        text = _IPV4.sub(lambda m: self._address_in_text(m[0]), text)
        return _IPV6.sub(lambda m: self._address_in_text(m[0]), text)

    def _as_what_it_is(self, known: str) -> str:
        try:
            ip_address(known)
        except ValueError:
            return self.name(known)
        return self.address(known)

    def _address_in_text(self, text: str) -> str:
        if text in self._taken:  # a pseudonym already
            return text
        try:
            canonical = str(ip_address(text))
        except ValueError:
            return text
        return canonical if canonical in self._taken else self.address(canonical)

    def everywhere(self, value: Any) -> Any:
        """Every string inside a value, whatever it is made of; keys of dictionaries (names of facts) stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {k: self.everywhere(v) for k, v in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.everywhere(v) for v in value))
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)(self.everywhere(v) for v in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: self.everywhere(getattr(value, f.name)) for f in fields(value)})
        return value

    def finding(self, f: Finding) -> Finding:
        fingerprint = self._digest("fingerprint", f.fingerprint).hex()[:32]
        hidden: Finding = self.everywhere(f)
        return replace(hidden, rule=f.rule, fingerprint=fingerprint)

    def capture(self, c: CaptureInfo, number: int) -> CaptureInfo:
        """File names often are names of customers: a capture is called by its number."""
        suffix = ".pcapng" if "pcapng" in c.format else ".pcap"
        path = f"capture-{number}{suffix}"
        problems = [self.text(p.replace(c.path, path).replace(FilePath(c.path).name, path)) for p in c.problems]
        return replace(c, path=path, problems=problems)


def is_telling(keyword: str) -> bool:
    """Neither a keyword that everybody has, nor what a firewall made of one."""
    return keyword.upper() not in KEYWORDS and not _MASKED.fullmatch(keyword)


def names_of_hosts(text: str) -> list[str]:
    """What looks like the name of a host, in free text."""
    return _HOST_NAME.findall(text)


def names_of_mail(address: str) -> list[str]:
    """The parts of a mail address that name somebody wherever they stand; a local part alone may be any word."""
    local, _, domain = address.strip("<>").rpartition("@")
    return [part for part in (local, domain) if "." in part or part == domain]


class _Redactor(Pseudonyms):
    """A case with pseudonyms."""

    def __init__(self, key: bytes, case: Case) -> None:
        self._case = case
        super().__init__(key, (a for c in case.connections for a in (c.client.ip, c.server.ip)), self._names())

    def _names(self) -> Iterable[str]:
        for c in self._case.connections:
            if c.client_name:
                yield c.client_name.strip("[]")
            yield from names_of_hosts(c.banner or "")
        for m in self._case.messages:
            for mail in (m.mail_from or "", *m.recipients):
                yield from names_of_mail(mail)

    def case(self) -> Case:
        case = self._case
        return replace(
            case,
            captures=[self.capture(c, c.id) for c in case.captures],
            connections=[self._connection(c) for c in case.connections],
            messages=[self._message(m) for m in case.messages],
            paths=[replace(p, sender=self.address(p.sender), receiver=self.address(p.receiver)) for p in case.paths],
            findings=[self.finding(f) for f in case.findings],
            icmp=[self._icmp(e) for e in case.icmp],
            summary=[self.text(line) for line in case.summary],
            limits=[self.text(line) for line in case.limits],
            what_if=[answer._replace(why=self.text(answer.why)) for answer in case.what_if],
            # what a mailer writes names hosts and people that the packets do not show
            log=[replace(line, file="maillog", text="(redacted)") for line in case.log],
            log_notes=[_HOST_NAME.sub(lambda m: self.name(m[0]), self.text(note)) for note in case.log_notes],
        )

    def _connection(self, c: Connection) -> Connection:
        return replace(
            c,
            client=c.client._replace(ip=self.address(c.client.ip)),
            server=c.server._replace(ip=self.address(c.server.ip)),
            banner=self._banner(c.banner),
            client_name=None if c.client_name is None else self._as_what_it_is(c.client_name.strip("[]")),
            ehlo_keywords=tuple(self._keyword(k) for k in c.ehlo_keywords),
            expected_log={side: self.text(line) for side, line in c.expected_log.items()},
        )

    def _banner(self, banner: str | None) -> str | None:
        """Free text of whoever runs the server: only a mask is kept, and whether ESMTP was said."""
        if banner is None or all(_MASKED.fullmatch(line) for line in banner.splitlines()):
            return banner
        return self.name(banner) + (" ESMTP" if "ESMTP" in banner.upper() else "")

    def _keyword(self, keyword: str) -> str:
        word, _, rest = keyword.partition(" ")
        if word.upper() in KEYWORDS:
            return keyword if re.fullmatch(r"[A-Z0-9 =-]*", rest.upper()) else word
        return keyword if _MASKED.fullmatch(keyword) else "(another keyword)"

    def _message(self, m: Message) -> Message:
        sender = None if m.mail_from is None else self.mail_address(m.mail_from)
        return replace(m, mail_from=sender, recipients=tuple(self.mail_address(r) for r in m.recipients))

    def _icmp(self, e: IcmpError) -> IcmpError:
        src, dst, quoted_src, quoted_dst = map(self._number, (e.src, e.dst, e.quoted_src, e.quoted_dst))
        return replace(e, src=src, dst=dst, quoted_src=quoted_src, quoted_dst=quoted_dst)

    def _number(self, address: int) -> int:
        """A 128-bit address, IPv4 as IPv4-mapped IPv6."""
        mapped = IPv6Address(address).ipv4_mapped
        ip = ip_address(self.address(str(mapped or IPv6Address(address))))
        return int(ip) | 0xFFFF << 32 if ip.version == 4 else int(ip)
