"""The vocabulary: every fact that a rule may use, with its type, its unit and its meaning.

A fact says what was seen; it never accuses. A fact that the capture cannot tell is absent or None ("not seen"): no
comparison with it holds, neither ``==`` nor ``!=``; only ``not_seen`` does. So a rule says what it needs to know.

A `Subject` is what facts are about. There is one of kind

    path         per direction of data between two hosts: all their connections weighed together
    connection   per SMTP connection
    message      per mail; its sender is the client, its receiver the server
    server       per server address and port, as one client saw it: all greetings and EHLO replies together; what a
                 server says is data from the server, so it is the sender and the client the receiver
    host         per host that sends data (all its paths)
    case         once: everything that was analysed

Path facts named ``stuck_*`` describe one byte range: of all ranges that were sent again and again without an answer, the
one with the strongest evidence. Facts named ``hole_*`` are the same thing seen from the receiver: bytes that never came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["path", "connection", "message", "server", "host", "case"]
FactType = Literal["bool", "int", "float", "str", "enum", "words"]
Unit = Literal["", "bytes", "s", "ratio", "probability"]
Value = bool | int | float | str | tuple[str, ...] | None

TOPICS = ("stuck", "small", "hole", "icmp", "suspicious-icmp", "recovery", "loss", "outage", "mails", "mss", "df")
"""What a piece of a path's evidence is about; a rule names the topics that it shows (the others show everything)."""

KINDS: tuple[Kind, ...] = ("path", "connection", "message", "server", "host", "case")


class Fact(NamedTuple):
    """One word of the vocabulary."""

    name: str
    type: FactType  # enum: one of `values`; words: a tuple of strings, for text only
    unit: Unit  # "" is a count, a name or yes/no
    kinds: frozenset[Kind]
    meaning: str
    values: tuple[str, ...] = ()


@dataclass(slots=True)
class Subject:
    """What a rule is asked about: facts, and what to show if it fires."""

    kind: Kind
    facts: dict[str, Value]
    sender: str | None = None  # of the data: the client for mails, the server for greetings
    receiver: str | None = None
    connections: tuple[int, ...] = ()
    messages: tuple[int, ...] = ()
    paths: tuple[int, ...] = ()
    # connection, frames [(capture, frame)], display_filter, note; topic: one of TOPICS, so that each rule shows its own
    evidence: list[dict[str, Any]] = field(default_factory=list)
    against: list[str] = field(default_factory=list)  # shown, like the rivals, by rules that say `weighing: true`
    rivals: list[tuple[str, str]] = field(default_factory=list)  # (hypothesis, why not)
    key: str = ""  # what happened, in words that do not change from run to run: part of the fingerprint


# Each line: name | type | unit | meaning. An enum's type is its values, joined by "/".

_EVERYWHERE = """
sender                       | str   |       | address of the host that sends the data (message: the client; server: the server)
receiver                     | str   |       | address of the host that receives the data (message: the server; server: the client)
client                       | str   |       | address of the SMTP client, whichever of the two it is
server                       | str   |       | address of the SMTP server
connections_count            | int   |       | connections that the finding covers
messages_count               | int   |       | mails that the finding covers
paths_count                  | int   |       | paths that the finding covers
captured_at                  | at_sender/middle/at_receiver/unknown | | where the capture was taken, seen from the data's sender
sender_is                    | client/server | | which side of the SMTP dialogue sends the data
ip_version                   | int   |       | 4 or 6
capture_ends_early           | bool  |       | the capture ends before the next event that was due (resend, reply, time-out)
capture_dropped              | int   |       | packets that the capture itself says it lost (pcapng statistics), or bytes acknowledged that it never saw
reverse_seen                 | bool  |       | packets of the other direction were captured (False: a one-way capture, acknowledgements are unknown)
headers_only                 | bool  |       | the snap length cut the payloads off
rtt_s                        | float | s     | smallest round trip seen
"""

_PATH = """
is_mail                      | bool  |       | the connections are SMTP, or to a port of mail (--all-tcp finds path-MTU trouble of other services too)
connections_total            | int   |       | connections between these two hosts
mails_total                  | int   |       | mails sent on this path
stuck_connections            | int   |       | connections in which data got stuck for good
stuck_messages               | int   |       | mails in them that hang
stuck_sends                  | int   |       | times that the stuck byte range was sent (the first time included, capture's duplicates left out)
stuck_span_s                 | float | s     | first to last send of the stuck range
stuck_ip_bytes               | int   | bytes | IP size on the wire of the stuck packet; of a resend, since a first send may be an offloaded frame
stuck_df                     | bool  |       | "don't fragment" set on the stuck packet (IPv6: always)
stuck_acked                  | bool  |       | the stuck range was ACKed or SACKed at any time, with no smaller packet that could have carried it
stuck_at_handshake           | bool  |       | what is stuck is a TLS handshake message, before any mail
stuck_at_end_of_mail         | bool  |       | what is stuck is a piece of the end of a mail, CR LF . CR LF, cut off from the rest
stuck_at_bytes               | int   | bytes | offset of the stuck range in its stream
smallest_lost_bytes          | int   | bytes | IP size of the smallest packet that was lost again and again while smaller ones passed
largest_delivered_bytes      | int   | bytes | largest IP packet unambiguously delivered (no ambiguous resend, no offloaded frame) and still fresh
delivered_at_or_above_stuck  | bool  |       | a packet of the stuck size or larger was unambiguously delivered, before or after, with the route unchanged
largest_sent_bytes           | int   | bytes | largest IP packet on the wire that was sent
largest_seen_bytes           | int   | bytes | largest IP packet of this direction in the capture (at the receiver: largest that arrived)
full_segments                | int   |       | data packets at the limit of the announced MSS
small_passed_after           | bool  |       | after the first loss, a smaller packet got through for certain
small_passed_how             | sack/ack/peer-resend-stopped/new-data | | what proves small_passed_after
small_passed_count           | int   |       | smaller packets known to have passed after the first loss
small_failed_after           | bool  |       | a clearly smaller packet was sent again and again after the first loss and got no answer either
smallest_failed_bytes        | int   | bytes | IP size of the smallest packet that failed after the first loss
nothing_heard                | bool  |       | neither the handshake nor any packet of the other side is in the capture: a dead path and a narrow one look the same
unanswered_connections       | int   |       | new connections between the same hosts whose SYNs, meanwhile or later, nobody answered
both_directions_silent       | bool  |       | after the first loss the other side sends again too: nothing gets through either way
peer_resends                 | int   |       | times the receiver of the data sent its own last segment again after the first loss
loss_size_blind_p            | float | probability | chance of losses this uneven over sizes if size did not matter (exact test); near 1: blind to size
lost_segments                | int   |       | data segments lost (sent again and needed; spurious resends left out)
sent_segments                | int   |       | data segments sent
other_way_stuck              | bool  |       | in the same connections the other direction's data hangs, and with it the acknowledgements that it carries
loss_ratio                   | float | ratio | lost_segments / sent_segments
losses_of_size               | int   |       | packets of the stuck size (within 8 bytes) or above that were lost
queue_lets_large_pass        | bool  |       | among the losses some packets of the same size pass: a congested queue
window_shut                  | bool  |       | the receiver's window was closed when the data stopped
window_scaling_broken        | bool  |       | the loss begins where the unscaled window (65,535 bytes) ends
sack_outside_window          | bool  |       | SACK blocks lie outside what was sent: a middlebox rewrites sequence numbers but not SACK
bad_checksums_in             | int   |       | incoming large packets with a wrong TCP checksum
ack_past_hole                | bool  |       | an ACK covers bytes that the capture never saw: the capture lost them, not the path
reordered                    | bool  |       | the same bytes arrive late instead of never
fragments_seen               | bool  |       | IP fragments of this direction were captured
filter_after_bytes           | int   | bytes | every packet, of any size, dies after this many bytes of the connection
icmp_seen                    | bool  |       | a frag-needed or packet-too-big about this path is in the capture
icmp_count                   | int   |       | how many
icmp_valid                   | bool  |       | at least one that a stack should believe: quotes a sequence number in flight, an MTU below the packet (RFC 5927)
icmp_mtu                     | int   | bytes | next-hop MTU of the valid ones (the smallest)
icmp_from                    | str   |       | address of the router that sent it
icmp_mtu_zero                | bool  |       | MTU field 0: a router older than RFC 1191
icmp_suspicious              | int   |       | frag-needed that no stack should believe
icmp_suspicion               | sequence-outside-window/mtu-not-below-packet/mtu-under-floor/foreign-flow | | what is wrong with them (the commonest)
icmp_suspicious_mtu          | int   | bytes | MTU that the suspicious ones announce (the smallest)
icmp_lost_between            | str   |       | at a middle point: the stretch where the ICMP must have been lost, in words
resends_above_icmp_mtu       | int   |       | same bytes sent again in packets above the valid ICMP's MTU, later than one RTT + 200 ms after it arrived
shrank_after_icmp            | bool  |       | after a valid ICMP every new packet fits its MTU
went_on_after_icmp           | bool  |       | after that, data was acknowledged again
recovered                    | bool  |       | the stuck bytes got through after the sender cut them smaller by itself, with no ICMP that told it to
recovered_after_s            | float | s     | first send of the stuck range to the first smaller packet
recovered_payload_bytes      | int   | bytes | TCP payload of the smaller packets
recovered_df_cleared         | bool  |       | the sender also cleared "don't fragment"
hole_s                       | float | s     | how long the receiver's ACK stayed at the hole
hole_bytes                   | int   | bytes | length of the hole, as far as known
hole_connections             | int   |       | connections with such a hole
later_bytes_or_jumped_ack    | bool  |       | bytes beyond the hole arrived, or a pure ACK whose sequence number has jumped over it
hole_filled                  | bool  |       | the missing bytes came after all
hole_fits_segments           | bool  |       | the hole's length is a multiple of the segment size
hole_segments                | int   |       | how many full segments fit into the hole
hole_after_go_ahead          | bool  |       | the hole begins where large data first leaves: after the 354, after STARTTLS, in a BDAT chunk
peer_resend_answered         | bool  |       | what the receiver of the data sent again was answered: small packets pass both ways
outage_s                     | float | s     | how long nothing of any size got through, in either direction
outage_ended                 | bool  |       | traffic went on afterwards
unreachable_seen             | bool  |       | ICMP unreachable of another kind (host, network, port, prohibited) about this path was captured
delayed_mail_s               | float | s     | longest delay that losses brought on a mail
stalled_s                    | float | s     | longest pause on this path with data waiting
mtu_at_least                 | int   | bytes | largest unfragmented packet proven delivered: the path MTU is at least this
mtu_below                    | int   | bytes | the path MTU is below this
links                        | words |       | link types whose MTU lies in the bracket
mails_passed                 | int   |       | mails on this path that were answered
mails_hung                   | int   |       | mails that hang, refusals (4xx, 5xx) left out
passed_after_first_hang      | int   |       | mails that passed after the first one hung
largest_passed_packet_bytes  | int   | bytes | largest packet that any of the passed mails needed
smallest_hung_packet_bytes   | int   | bytes | smallest of the largest packets of the mails that hang
largest_passed_mail_bytes    | int   | bytes | largest mail that passed
smallest_hung_mail_bytes     | int   | bytes | smallest mail that hangs
long_mail_in_small_packets   | bool  |       | a mail as long as those that hang passed in small packets (typed by hand): packet size decides, not mail size
other_receivers_large_ok     | int   |       | other hosts to which the same sender got packets at or above mtu_below through
other_receivers_broken       | int   |       | other hosts to which the same sender's large packets die alike
other_family_ok              | bool  |       | the same peer by the other IP version gets large packets
mss_announced                | int   | bytes | MSS that the receiver of the data announced
mss_own                      | int   | bytes | MSS that the sender of the data announced; the largest, if several
df_off_packets               | int   |       | data packets without "don't fragment" (IPv4)
df_cleared                   | bool  |       | the sender began with "don't fragment" and switched it off in mid-flow
"""

# Computed by `derive` from the facts above; whoever makes a subject leaves them out.
_PATH_DERIVED = """
mtu_bracket_bytes            | int   | bytes | mtu_below - mtu_at_least
mtu_to_set                   | int   | bytes | MTU that is safe to set now: mtu_at_least when that is usable, else 1280
mtu_to_set_proven            | bool  |       | mtu_to_set was seen to pass
mss_clamp                    | int   | bytes | TCP MSS for mtu_to_set (40 bytes less, IPv6: 60)
ping_size_pass               | int   | bytes | ping payload whose packet has mtu_at_least bytes (28 bytes less, IPv6: 48)
ping_size_fail               | int   | bytes | ping payload whose packet has mtu_below bytes
"""

_CONNECTION = """
phase                        | connect/greeting/ehlo/starttls/tls/auth/mail/rcpt/data/body/end-of-data/quit | | how far the dialogue came
closed_by                    | client-fin/server-fin/client-rst/server-rst/open | | how it ended
tls                          | none/starttls/implicit | | encryption
duration_s                   | float | s     | first to last packet
server_port                  | int   |       | TCP port of the server
handshake_seen               | bool  |       | the capture holds the SYN and its answer
greeting_code                | int   |       | reply code of the greeting
greeting_delay_s             | float | s     | end of the handshake to the greeting
zero_window_s                | float | s     | longest time that a receiver's window stayed closed
zero_window_by               | client/server | | whose window it was
zero_window_probes           | int   |       | probes sent meanwhile
zero_window_ended            | bool  |       | the window opened again
client_bytes                 | int   | bytes | distinct payload bytes from the client
server_bytes                 | int   | bytes | distinct payload bytes from the server
mails                        | int   |       | mails begun
mails_answered               | int   |       | mails with a final reply
last_reply_code              | int   |       | the last reply of the server
longest_reply_delay_s        | float | s     | longest wait for any reply
starttls_offered             | bool  |       | the EHLO reply has STARTTLS
starttls_refused             | bool  |       | STARTTLS was answered by 4xx or 5xx: the server's own fault
said_helo                    | bool  |       | the client greeted with HELO, not EHLO
gap_bytes                    | int   | bytes | payload bytes that the capture does not hold
"""

_MESSAGE = """
outcome                      | delivered/rejected/deferred/end-of-data-timeout/lost-connection/aborted/unknown | | what became of the mail
via                          | data/bdat/tls | | how the mail was sent
size_bytes                   | int   | bytes | the mail on the wire, without its end
largest_packet_bytes         | int   | bytes | largest IP packet that it needed
cut_at_3_or_4                | bool  |       | the end CR LF . CR LF was cut after 3 or 4 bytes: inside `.CRLF`
cut_after                    | int   |       | the first such cut: bytes of CR LF . CR LF before it
cut_inferred                 | bool  |       | the cut lies inside an offloaded frame: computed, not seen
end_pieces                   | int   |       | segments that carried the end
end_sent                     | bool  |       | the whole end left (at the receiver: arrived)
end_acked                    | bool  |       | TCP acknowledged the whole end
end_sends                    | int   |       | times the last piece of the end was sent
body_acked                   | bool  |       | TCP acknowledged all bytes before the end
answered                     | bool  |       | a final reply came; None: the capture cannot tell
reply_code                   | int   |       | its code
reply_delay_s                | float | s     | end of the mail to its reply
waited_s                     | float | s     | how long the client waited for the reply that did not come
gave_up_by                   | client/server/nobody | | who ended the wait
closed_in_data               | bool  |       | the connection ended between DATA and the final reply
data_bytes_sent              | int   | bytes | how much of the mail had left by then
whole_answered_same_server   | int   |       | mails to this server with a whole end that were answered
whole_hung_same_server       | int   |       | mails to this server with a whole, acknowledged end that were not
split_answered_same_server   | int   |       | mails to this server with a cut end that were answered
split_hung_same_server       | int   |       | mails to this server with a cut end that were not
client_cuts_always           | bool  |       | this client cuts every end at the same place: its way to write, not chance
banner_masked                | bool  |       | the greeting in this connection was masked
hold_back_s                  | float | s     | `.CRLF` left this long after everything before it was acknowledged
end_alone                    | bool  |       | `.CRLF` left in a packet of its own
helo_for_mask                | bool  |       | the client said HELO to a masked banner and says EHLO elsewhere
copies                       | int   |       | times that the same envelope with the same body was sent to any server of the destination
earlier_end_acked            | bool  |       | an earlier copy's end was acknowledged by TCP
earlier_answered             | bool  |       | that earlier copy was answered before the client gave up
earlier_accepted             | bool  |       | that earlier copy was accepted (seen at the server, or too late for the client)
accepted                     | bool  |       | this copy was accepted
retry_after_s                | float | s     | earlier copy to this one
starttls_used                | bool  |       | the mail went through STARTTLS
"""

_SERVER = """
greetings                    | int   |       | greetings seen
banner_lines                 | int   |       | lines of the greeting
banner_masked_lines          | int   |       | lines made of `*`, `2`, `0` and space only
banner_stars                 | int   |       | asterisks in the greeting's least masked line
banner_masked                | bool  |       | every line is masked and has at least 3 asterisks
banner_text                  | str   |       | the greeting as seen
ehlo_masked_keywords         | int   |       | EHLO keywords turned to runs of X
ehlo_keywords                | int   |       | EHLO keywords in all
ehlo_refused                 | bool  |       | EHLO was answered by 500 or 502
masked_commands              | int   |       | commands turned to runs of X
starttls_masked              | no/possible/certain | | a masked keyword may be STARTTLS (an 8-letter run), or is: the other point shows it
starttls_missing             | int   |       | EHLO replies of this server without STARTTLS, in the clear and before TLS
starttls_offered_elsewhere   | int   |       | EHLO replies of the same server address with STARTTLS, elsewhere in the case
starttls_differs             | bool  |       | two points of capture show different bytes for the same EHLO reply
starttls_refused             | bool  |       | STARTTLS was offered and answered by 454
cleartext_mails              | int   |       | mails sent to it in the clear
workaround_seen              | bool  |       | a client works around this firewall (HELO, or `.CRLF` held back)
server_port                  | int   |       | TCP port of the server
"""

_HOST = """
paths_broken                 | int   |       | its paths whose large packets die
paths_tested                 | int   |       | its paths on which large packets were tried
"""

_CASE = """
connections_total            | int   |       | TCP connections seen
mails_total                  | int   |       | mails seen
mails_passed                 | int   |       | mails that were answered
mails_hung                   | int   |       | mails that hang
captures                     | int   |       | capture files read
captures_incomplete          | int   |       | captures that could not be read to their end
"""


def _words_of(table: str, kinds: tuple[Kind, ...]) -> dict[str, Fact]:
    words: dict[str, Fact] = {}
    for line in table.strip().splitlines():
        name, kind_of_value, unit, meaning = (cell.strip() for cell in line.split("|", 3))
        values = tuple(kind_of_value.split("/")) if "/" in kind_of_value else ()
        words[name] = Fact(
            name=name,
            type="enum" if values else kind_of_value,  # type: ignore[arg-type]
            unit=unit,  # type: ignore[arg-type]
            kinds=frozenset(kinds),
            meaning=meaning,
            values=values,
        )
    return words


def _vocabulary() -> dict[Kind, dict[str, Fact]]:
    own: dict[Kind, str] = {
        "path": _PATH,
        "connection": _CONNECTION,
        "message": _MESSAGE,
        "server": _SERVER,
        "host": _HOST,
        "case": _CASE,
    }
    words = {kind: _words_of(_EVERYWHERE, KINDS) | _words_of(table, (kind,)) for kind, table in own.items()}
    words["path"] |= _words_of(_PATH_DERIVED, ("path",))
    return words


SAFE_MTU_BYTES = 1280  # every link that carries IPv6 carries this (RFC 8200 section 5); in practice every link does
USABLE_MTU_BYTES = 576  # below this a "largest delivered packet" only says that nothing larger was tried


def derive(facts: Mapping[str, Value]) -> dict[str, Value]:
    """The numbers that remedies need, from a path's bracket [mtu_at_least, mtu_below) (all IP packet sizes in bytes)."""
    at_least, below = facts.get("mtu_at_least"), facts.get("mtu_below")
    at_least = at_least if isinstance(at_least, int) else None
    below = below if isinstance(below, int) else None
    ip_header, floor = (40, SAFE_MTU_BYTES) if facts.get("ip_version") == 6 else (20, USABLE_MTU_BYTES)
    derived: dict[str, Value] = {}
    if at_least is not None:
        derived["ping_size_pass"] = max(at_least - ip_header - 8, 0)  # 8: ICMP echo header
    if below is not None:
        derived["ping_size_fail"] = max(below - ip_header - 8, 0)
        proven = at_least is not None and at_least >= min(SAFE_MTU_BYTES, max(floor, below - 1))
        mtu = at_least if proven and at_least is not None else max(floor, min(SAFE_MTU_BYTES, below - 1))
        derived |= {"mtu_to_set": mtu, "mtu_to_set_proven": proven, "mss_clamp": mtu - ip_header - 20}
        if at_least is not None:
            derived["mtu_bracket_bytes"] = below - at_least
    return derived


VOCABULARY: Mapping[Kind, Mapping[str, Fact]] = _vocabulary()


def of_type(fact: Fact, value: object) -> bool:
    """Whether `value` is one that `fact` can have (None, "not seen", always is)."""
    if value is None:
        return True
    match fact.type:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "str":
            return isinstance(value, str)
        case "enum":
            return value in fact.values
        case "words":
            return isinstance(value, tuple) and all(isinstance(word, str) for word in value)


def check(subject: Subject) -> list[str]:
    """What is wrong with a subject's facts: unknown names, values of a wrong type. Empty when all is well (for tests)."""
    known = VOCABULARY[subject.kind]
    return [
        f"{subject.kind} fact {name!r} is unknown"
        if name not in known
        else f"{subject.kind} fact {name!r} cannot be {value!r}"
        for name, value in subject.facts.items()
        if name not in known or not of_type(known[name], value)
    ]
