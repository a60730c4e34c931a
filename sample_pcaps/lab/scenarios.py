"""What is recorded: every scenario is data. `run.py` makes it happen, checks that it did, and writes the truth beside it."""

from __future__ import annotations

from dataclasses import replace

from mta import Mail
from scenario import (
    DELIVERED,
    HANGS,
    MIDDLE,
    NEAR,
    RECEIVER,
    SENDER,
    Finding,
    Scenario,
    View,
    black_hole,
    black_hole_views,
    each_to_its_server,
    one_mail_to_each_server,
    plain,
    python_client,
    same,
    three,
    whole,
    with_script,
)
from topology import RECEIVER4, RECEIVER6, SENDER4, SENDER6, Path_

MANY = {"smtp_connection_cache_destinations": "static:all", "smtp_connection_cache_time_limit": "5s"}
STRIPPED = {"strip_received": "yes"}
LIKELY = {"confidence_at_least": "likely"}


BY_SIZE = Finding("size-dependent-delivery", "symptom", connections=None)


def only(scenario: Scenario, *views: str) -> Scenario:
    return replace(scenario, views={name: view for name, view in scenario.views.items() if name in views})


def hole(mtu: int | None, connections: int = 1, **kwargs) -> Finding:
    return Finding("pmtud-black-hole", path_mtu=mtu, connections=connections, **kwargs)


# ---- everything works ----------------------------------------------------------------------------------
WELL = [
    plain("clean-pipelining", "Four mails in one connection of a PIPELINING Postfix; nothing is wrong.", check="resends == 0 and connections == 1",
          mails=(Mail(1200), Mail(8000), Mail(20000), Mail(600)), sender_settings=MANY),
    plain("clean-starttls", "STARTTLS, then a mail of 20 KB inside TLS; nothing is wrong.", check="resends == 0", mails=(Mail(20000),), tls=2048,
          sender_settings={"smtp_tls_security_level": "may"}),
    plain("clean-ipv6", "A mail of 20 KB over IPv6; nothing is wrong.", check="resends == 0", mails=(Mail(20000),), server=RECEIVER6),
    plain("clean-exim-bdat", "Exim sends with BDAT (CHUNKING), so no final dot exists; nothing is wrong.", check="resends == 0",
          sender="exim", mails=(Mail(20000),)),
    plain("clean-sendmail", "Sendmail writes the final .CRLF alone: cut at 2, the commonest and harmless cut.", check="resends == 0",
          sender="sendmail", mails=(Mail(6000), Mail(9000))),
    plain("clean-swaks", "swaks, no pipelining; nothing is wrong.", check="resends == 0", sender="swaks", mails=(Mail(5000),)),
    plain("clean-smtplib", "smtplib sends three mails in one connection; nothing is wrong.", check="resends == 0", sender="smtplib",
          sender_settings={"one_connection": True}, mails=(Mail(500), Mail(30000), Mail(700))),
    plain("clean-offload", "Segmentation offload: frames of up to 64 KB in the capture, none on the wire; nothing is wrong.",
          Path_(offload=True), check="largest > 2000", mails=(Mail(60000),)),
    plain("clean-rtt-100", "The same at a round trip of 100 ms; nothing is wrong.", Path_(rtt_ms=100), check="resends == 0", mails=(Mail(30000),)),
    plain("clean-jumbo", "Hosts and path with an MTU of 9000: packets of 9000 bytes that are no offload artefact.",
          Path_(host_mtu=9000, receiver_mtu=9000), check="largest == 9000", mails=(Mail(60000),)),
    plain("clean-snaplen-96", "Nothing is wrong, as far as 96 bytes of each packet show.",
          views={"sender": replace(SENDER, snaplen=96)}, mails=(Mail(20000),)),
    plain("clean-bulk", "The same body to eight recipients in eight connections: bulk mail, no duplicates.", check="connections == 8",
          mails=tuple(Mail(3000) for _ in range(8)), sender="smtplib"),
    plain("clean-dots", "Lines of the body begin with dots, so that `..` occurs at line starts; the mail ends once only.", sender="smtplib",
          mails=(Mail(9000, subject="."),), sender_settings={"dotted": True}),
    plain("clean-submission", "Port 587 with STARTTLS.", sender="smtplib", receiver="script", tls=2048, receiver_settings={"port": 587},
          sender_settings={"port": 587, "starttls": True}),
    plain("clean-starttls-keys", "STARTTLS with the secrets of its session beside it: with them three mails inside TLS read as in the clear.",
          sender="smtplib", tls=2048, sender_settings={"starttls": True, "one_connection": True, "keylog": True}, mails=(Mail(700), Mail(20000), Mail(900)),
          check="resends == 0"),
    plain("clean-three-mails", "The mails of clean-starttls-keys and clean-smtps-465-keys in the clear, to be compared with.", sender="smtplib",
          sender_settings={"one_connection": True}, mails=(Mail(700), Mail(20000), Mail(900)), check="resends == 0"),
    plain("clean-smtps-465", "Port 465: TLS from the first byte.", sender="smtplib", receiver="script", tls=2048,
          receiver_settings={"port": 465, "implicit_tls": True}, sender_settings={"port": 465, "implicit_tls": True}),
    plain("clean-smtps-465-keys", "Port 465 with the secrets of its session beside it: TLS from the first byte, read as in the clear.", sender="smtplib",
          receiver="script", tls=2048, receiver_settings={"port": 465, "implicit_tls": True}, mails=(Mail(700), Mail(20000), Mail(900)),
          sender_settings={"port": 465, "implicit_tls": True, "one_connection": True, "keylog": True}, check="resends == 0"),
    plain("clean-auth", "A client logs in (AUTH PLAIN), then sends: the password is in the capture and must not be shown.", sender="smtplib", receiver="script",
          receiver_settings={"port": 587, "keywords": ["PIPELINING", "AUTH PLAIN LOGIN", "8BITMIME"]},
          sender_settings={"port": 587, "login": ["anna@example.org", "tide-secret-0042"]}),
    plain("clean-hostile-banner", "The greeting carries markup, terminal escapes and a spreadsheet formula.", receiver="script", sender="smtplib",
          receiver_settings={"banner": "220 mx.example.net <script>alert(1)</script> \x1b[31mred\x1b[0m =cmd|'/c calc'!A1 `x` | y"}),
    plain("clean-small-only", "Only short mails were sent over a path with a silent narrow place: nothing was put to the test.",
          Path_(mtu=1400, icmp="filtered-at-r2"), check="largest < 1400", mails=(Mail(500), Mail(700), Mail(900)), sender="smtplib"),
    plain("clean-reject-550", "The recipient is refused with 550: a clear answer, no delivery problem of the network.", receiver="script",
          receiver_settings={"rcpt_reply": "550 5.1.1 no such user here"}, expect="o == ['rejected']"),
    plain("clean-defer-450", "The recipient is put off with 450 (greylisting).", receiver="script",
          receiver_settings={"rcpt_reply": "450 4.2.0 greylisted, come back later"}, expect="o == ['deferred']"),
    plain("clean-reject-size", "Large mails are refused with 552 while small ones pass: refusals, not a question of packet size.",
          receiver_settings={"message_size_limit": "5000"}, sender="smtplib", sender_settings={"one_connection": False},
          mails=tuple(Mail(1000 if n % 2 else 12000) for n in range(8)), expect="o.count('delivered') == 4 and o.count('rejected') == 4"),
    plain("clean-reject-at-end", "The mail is refused with 554 after its final dot.", receiver="script",
          receiver_settings={"final_reply": "554 5.7.1 not wanted"}, expect="o == ['rejected']"),
    plain("server-slow", "The server answers the final dot after 20 seconds.", receiver="script", receiver_settings={"reply_delay_s": 20}),
    plain("server-slow-banner", "The greeting comes after 12 seconds.", receiver="script", receiver_settings={"banner_delay_s": 12}),
    plain("server-421", "The server ends the connection with 421 after the first of two mails.", receiver="script", sender="smtplib",
          receiver_settings={"say_421_after": 1}, sender_settings={"one_connection": True}, mails=(Mail(2000), Mail(2000)),
          expect="o[0] == 'delivered' and len(o) == 2 and o[1] != 'delivered'"),
    plain("server-helo-only", "A server without ESMTP refuses EHLO with 500; its greeting is not masked.", receiver="script",
          receiver_settings={"refuse_ehlo": True}),
    plain("client-pauses", "The client stops for 15 seconds in the middle of a mail: a stopped application, not the network.", sender="smtplib",
          sender_settings={"stop_after": 6000, "stop_for_s": 15}, mails=(Mail(20000),)),
    plain("banner-decorated", "The greeting is decorated with asterisks: no firewall's mask.", receiver="script",
          receiver_settings={"banner": "220 *** mx.example.net *** 2000 200 ***"}),
    plain("capture-drops", "The capturing host missed packets of a mail that arrived: holes in the capture, acknowledged all the same.", Path_(offload=True),
          views={"sender": replace(SENDER, interface="any", buffer_kib=512, drops=True)}, mails=(Mail(90000),)),
    plain("service-ftp", "FTP greets with 220 as well: no mail service.", receiver="script", mails=(), sender="smtplib", expect="",
          receiver_settings={"port": 21, "banner": "220 FTP server ready", "other_reply": "230 welcome"},
          drive=python_client("import ftplib; f = ftplib.FTP(); f.connect('10.3.0.2', 21, 10); f.login('anna', 'x'); f.voidcmd('NOOP'); f.quit()")),
    plain("service-ftp-masked", "An FTP server whose greeting is nothing but asterisks: no mail service, no finding.", receiver="script", mails=(),
          sender="smtplib", expect="", receiver_settings={"port": 21, "banner": "220 **************0*****2", "other_reply": "230 welcome"},
          drive=python_client("import ftplib; f = ftplib.FTP(); f.connect('10.3.0.2', 21, 10); f.login('anna', 'x'); f.quit()")),
]

# ---- black holes ---------------------------------------------------------------------------------------
HOLES = [
    black_hole("blackhole-1400", 1400, "A silent path-MTU black hole: Postfix sends an 8 KB mail over a path of 1400 bytes, no ICMP comes back."),
    black_hole("blackhole-ipv6-1400", 1400, "The same over IPv6: no packet-too-big comes back.", six=True),
    black_hole("blackhole-ipv6-1280", 1280, "IPv6 over its narrowest path, 1280 bytes, at a round trip of 20 ms.", six=True,
               path={"rtt_ms": 20}, mails=(Mail(40000),)),
    black_hole("blackhole-576-one-packet", 576, "A mail of one packet, smaller than the MSS, is too large for a path of 576 bytes.",
               sender="smtplib", mails=(Mail(1150),)),
    black_hole("blackhole-576", 576, "8 KB over a path of 576 bytes.", sender="swaks"),
    black_hole("blackhole-1280-exim", 1280, "Exim without CHUNKING, 40 KB, path of 1280 bytes, round trip 20 ms.", path={"rtt_ms": 20},
               sender="exim", mails=(Mail(40000),), receiver_settings={"smtpd_discard_ehlo_keywords": "chunking"},
               sender_settings={"data_timeout": "40s", "final_timeout": "40s"}),
    black_hole("blackhole-1380-sendmail", 1380, "Sendmail, 40 KB, path of 1380 bytes.", sender="sendmail", mails=(Mail(40000),),
               sender_settings={"confTO_DATABLOCK": "40s", "confTO_DATAFINAL": "40s"}),
    black_hole("blackhole-1420-swaks", 1420, "swaks, 8 KB, path of 1420 bytes (WireGuard).", sender="swaks"),
    black_hole("blackhole-1450-smtplib", 1450, "smtplib writes 70 KB at once, path of 1450 bytes (VXLAN).", sender="smtplib", mails=(Mail(70000),)),
    black_hole("blackhole-1454", 1454, "40 KB: only full-size segments leave, so no small one arrives after the hole; the server's repeated 354 proves that small "
               "packets pass.", mails=(Mail(40000),)),
    black_hole("blackhole-1476-reno", 1476, "Reno, 40 KB, path of 1476 bytes (GRE).", path={"congestion": "reno"}, mails=(Mail(40000),)),
    black_hole("blackhole-1480-bbr", 1480, "BBR, 40 KB, path of 1480 bytes (IPIP).", path={"congestion": "bbr"}, mails=(Mail(40000),)),
    black_hole("blackhole-1492", 1492, "8 bytes too few: a path of 1492 (PPPoE), 12 KB.", mails=(Mail(12000),)),
    black_hole("blackhole-70k", 1400, "70 KB: Postfix says `timed out while sending message body`.", mails=(Mail(70000),)),
    black_hole("blackhole-no-sack", 1400, "Without SACK.", path={"sysctl": {"net.ipv4.tcp_sack": "0"}}, mails=(Mail(12000),)),
    black_hole("blackhole-no-timestamps", 1400, "Without timestamps: 1460 bytes of payload.", path={"sysctl": {"net.ipv4.tcp_timestamps": "0"}}),
    black_hole("blackhole-rtt-100", 1400, "At a round trip of 100 ms, 40 KB.", path={"rtt_ms": 100}, mails=(Mail(40000),)),
    black_hole("blackhole-bbr-rtt-20", 1400, "BBR at a round trip of 20 ms, 12 KB.", path={"rtt_ms": 20, "congestion": "bbr"}, mails=(Mail(12000),)),
    black_hole("blackhole-offload", 1400, "Segmentation offload on the sender: the first sends are giant frames, the resends single segments.",
               path={"offload": True}, mails=(Mail(40000),)),
    black_hole("blackhole-offload-8k", 1400, "Segmentation offload, 8 KB.", path={"offload": True}),
    black_hole("blackhole-jumbo-1500", 1500, "Jumbo hosts (9000) over a path of 1500 bytes.", path={"host_mtu": 9000, "receiver_mtu": 9000},
               mails=(Mail(60000),)),
    black_hole("blackhole-bdat", 1400, "Exim, the mail in one BDAT chunk: no final dot, the envelope rides in the same packets.", sender="exim",
               mails=(Mail(12000),), sender_settings={"data_timeout": "40s", "final_timeout": "40s"},
               views={k: replace(v, allowed=(*v.allowed, "pmtud-black-hole"), finds=() if k == "receiver" else v.finds,
                                 check=v.check.replace(" and hole", ""))
                      for k, v in black_hole_views(1400).items()}),
    black_hole("blackhole-starttls", 1400, "Behind STARTTLS: the mail is invisible, its lost packets are not.", tls=2048, mails=(Mail(12000),),
               sender_settings={"smtp_tls_security_level": "may"}),
    black_hole("blackhole-starttls-keys", 1400, "Behind STARTTLS, with the secrets of the sessions beside it: which mail hangs, and how large it is.", tls=2048,
               sender="smtplib", mails=(Mail(500), Mail(12000)), sender_settings={"starttls": True, "keylog": True}),
    black_hole("blackhole-proxy", 1400, "A firewall's SMTP proxy ends the client's connection; behind it is the black hole, which the client cannot see.",
               path={"proxy": True}, sender="smtplib", mails=(Mail(500), Mail(12000)), views=three(
                   replace(SENDER, finds=(Finding("end-of-data-timeout", "symptom"),), allowed=HANGS, check="resends == 0 and icmp == 0"),
                   *(replace(v, finds=tuple(replace(f, sender="10.2.0.1") for f in v.finds))
                     for v in list(black_hole_views(1400).values())[1:]))),
    black_hole("blackhole-client-hello", 1400, "A TLS ClientHello larger than one packet dies on the narrow path, before any mail.", tls=2048, sender="smtplib",
               mails=(Mail(500),), sender_settings={"starttls": True, "large_hello": True},
               views={k: replace(v, allowed=(*v.allowed, *(("pmtud-black-hole",) if k == "receiver" else ())), finds=() if k == "receiver" else v.finds,
                                 check=v.check.replace(" and hole", ""))
                      for k, v in black_hole_views(1400).items()}),
    black_hole("blackhole-smtps-465", 1400, "Port 465: TLS from the first byte, the mail's large packets die.", sender="smtplib", receiver="script", tls=2048,
               receiver_settings={"port": 465, "implicit_tls": True}, sender_settings={"port": 465, "implicit_tls": True}, mails=(Mail(12000),)),
    black_hole("blackhole-587", 1400, "A submission on port 587 dies the same way.", sender="smtplib", receiver="script",
               receiver_settings={"port": 587}, sender_settings={"port": 587}, mails=(Mail(12000),)),
    black_hole("blackhole-sent-in-pieces", 1400, "The same long mail hangs from the mailer and passes when typed in small packets: packet size decides, not mail size.",
               sender="smtplib", drive=with_script({"piece": 60}, (Mail(8000),)), expect="o == ['timeout', 'delivered']",
               views={k: replace(v, allowed=HANGS) for k, v in black_hole_views(1400).items()}),
    black_hole("blackhole-by-size", 1400, "Five small mails pass and four large ones hang, in turn, all to one destination.", sender="smtplib",
               sender_settings={"timeout_s": 16}, mails=tuple(Mail(700 + n if n % 2 else 9000 + n) for n in range(1, 10)),
               expect="o.count('delivered') == 5 and o.count('timeout') == 4", resends=5,
               views={k: replace(v, finds=v.finds[:1], allowed=(*v.allowed, "size-dependent-delivery")) if k == "receiver" else v
                      for k, v in black_hole_views(1400, connections=4, resends=5, more=(BY_SIZE,)).items()}),
    black_hole("blackhole-retry", 1400, "Postfix tries again after a black hole: the end never arrived, so nothing is delivered twice.", attempts=2,
               sender_settings={"minimal_backoff_time": "3s", "maximal_backoff_time": "4s", "queue_run_delay": "3s",
                                "smtp_data_done_timeout": "20s", "smtp_data_xfer_timeout": "20s"},
               views=black_hole_views(1400, connections=2, resends=5)),
    black_hole("blackhole-server-gives-up", 1400, "The server gives up first: 421 and FIN while the client still resends.", mails=(Mail(40000),),
               receiver_settings={"smtpd_timeout": "15s"}, expect="o[0] != 'delivered'", after_s=12),
    black_hole("blackhole-lossy", 1400, "A black hole and 5 % random loss at once.", path={"loss": "numgen random mod 100 < 5", "rtt_ms": 20},
               mails=(Mail(40000),), resends=5, views=black_hole_views(1400, resends=5, allowed=("packet-loss",))),
    black_hole("blackhole-both-ways", 1400, "Both directions are narrow; the mail is what dies.", path={"mtu_back": 1400}, mails=(Mail(12000),)),
    black_hole("blackhole-layer-2", 1400, "A layer-2 limit: frames above 1400 bytes vanish without a router, so nobody could send ICMP.",
               path={"mtu": None, "relay": "max-size=1400", "icmp": "sent"}, mails=(Mail(12000),), views=black_hole_views(1400, middle=NEAR)),
    black_hole("blackhole-layer-2-df-off", 1400, "A layer-2 limit and no DF bit: DF off is no cure.", mails=(Mail(12000),),
               path={"mtu": None, "relay": "max-size=1400", "icmp": "sent", "sysctl": {"net.ipv4.ip_no_pmtu_disc": "1"}},
               views=black_hole_views(1400, middle=NEAR, more=(Finding("df-off", "observation"),))),
    black_hole("blackhole-fragments-dropped", 1400, "DF is off, so the router fragments, and a firewall drops the fragments.", mails=(Mail(12000),),
               path={"icmp": "sent", "sysctl": {"net.ipv4.ip_no_pmtu_disc": "1"}, "drop_fragments": True},
               views=black_hole_views(1400, more=(Finding("df-off", "observation"),))),
    black_hole("blackhole-nat", 1400, "Behind NAT: the capture in the middle has other addresses than the sender's.", path={"nat": True},
               views={k: replace(v, finds=tuple(replace(f, sender=SENDER4 if k == "sender" else "10.2.0.1") for f in v.finds))
                      for k, v in black_hole_views(1400).items()}),
    black_hole("blackhole-vxlan", 1450, "The narrow place is a VXLAN tunnel (1450): before it the packets are lost, inside it only small ones are seen.",
               path={"mtu": None, "vxlan": True}, mails=(Mail(12000),),
               views={"sender": black_hole_views(1450)["sender"], "tunnel": replace(black_hole_views(1450)["receiver"], node="r1", interface="b0"),
                      "receiver": black_hole_views(1450)["receiver"]}),
    Scenario("blackhole-scope-host", "One narrow link near the sender breaks all five destinations for large mail.",
             Path_(mtu_near=1400, receivers=4, icmp="filtered-at-r2"), {"sender": replace(
                 SENDER, allowed=HANGS, check="resends >= 5 and icmp == 0 and connections >= 10",
                 finds=(Finding("pmtud-black-hole", path_mtu=1400, connections=5, receiver="*", extra={"scope": "host"}),))},
             sender="smtplib", sender_settings={"timeout_s": 12}, drive=each_to_its_server, limit_s=40,
             mails=tuple(Mail(size, server=f"10.3.0.{last}") for last in (2, 11, 12, 13, 14) for size in (700, 9000)),
             expect="o == ['delivered', 'timeout'] * 5"),
    Scenario("blackhole-ipv6-only", "The same server is reached well over IPv4; over IPv6 large mail dies.",
             Path_(r2_rule="ip6 length > 1360 ip6 nexthdr tcp drop", mtu_unclear=True),
             {k: replace(v, check="icmp == 0") for k, v in black_hole_views(1400, six=True, connections=2).items()},
             sender="smtplib", sender_settings={"timeout_s": 15}, drive=each_to_its_server,
             mails=(Mail(9000), Mail(9000, server=RECEIVER6), Mail(9000), Mail(9001, server=RECEIVER6), Mail(600, server=RECEIVER6)),
             expect="o == ['delivered', 'timeout', 'delivered', 'timeout', 'delivered']"),
    black_hole("blackhole-behind-pmtud", 1400, "Two narrow places: the nearer router says 1450 and is believed, the farther one (1400) drops in silence.",
               path={"mtu_near": 1450, "icmp": "filtered-only-at-r2"}, mails=(Mail(12000),),
               views={"sender": replace(black_hole_views(1400)["sender"], allowed=(*HANGS, "pmtud-working"), check="resends >= 5 and icmp > 0"),
                      "middle": replace(black_hole_views(1400)["middle"], check="resends >= 5 and largest <= 1450 and icmp == 0"),
                      "receiver": black_hole_views(1400)["receiver"]}),
    black_hole("blackhole-jumbo-offload", 1500, "Jumbo hosts with segmentation offload over a path of 1500 bytes: even the mail's last piece is too large, so that nothing "
               "small follows and a dead path looks the same.", mails=(Mail(60000),), path={"host_mtu": 9000, "receiver_mtu": 9000, "offload": True},
               views={k: replace(v, finds=(), allowed=("pmtud-black-hole", "path-outage", *HANGS), check=v.check.replace(" and hole", ""))
                      for k, v in black_hole_views(1500).items()}),
    Scenario("blackhole-one-of-two-paths", "Connections from odd ports take a path of 1400 bytes, those from even ports one of 1500: large mail hangs now and then.",
             Path_(r2_rule="tcp dport 25 tcp sport & 1 == 1 meta length > 1400 drop", mtu_unclear=True),
             three(*(replace(v, allowed=("pmtud-black-hole", "packet-loss", *HANGS), check="icmp == 0 and resends >= 5") for v in (SENDER, MIDDLE)),
                   replace(RECEIVER, allowed=("pmtud-black-hole", "packet-loss", *HANGS))), sender="smtplib",
             sender_settings={"timeout_s": 12, "alternate_ports": True}, mails=tuple(Mail(9000 + n) for n in range(6)), limit_s=90,
             expect="sorted(o) == ['delivered'] * 3 + ['timeout'] * 3"),
    # the other direction: the mail server's own large answers
    *(Scenario(f"blackhole-reverse-{word}", shows, Path_(mtu_back=1400, icmp="filtered-at-r2"), {
        "sender": replace(SENDER, finds=(Finding("pmtud-black-hole", path_mtu=1400, sender=RECEIVER4, receiver=SENDER4,
                                                 extra={"confidence_at_most": "likely"}),),
                          allowed=HANGS, check="largest <= 1400 and icmp == 0 and hole_server"),
        "middle": replace(MIDDLE, finds=(reverse := Finding("pmtud-black-hole", path_mtu=1400, sender=RECEIVER4, receiver=SENDER4, extra=LIKELY),),
                          allowed=HANGS, check="resends_server >= 5 and icmp == 0"),
        "receiver": replace(RECEIVER, finds=(reverse,), allowed=HANGS, check="resends_server >= 5 and icmp == 0")},
        sender="smtplib", mails=(Mail(600),), limit_s=60, expect="o == ['timeout']", **rest)
      for word, shows, rest in (
          ("ehlo", "The server's EHLO answer of several KB is lost on its way back.",
           {"receiver": "script", "receiver_settings": {"ehlo_reply_lines": 60}}),
          ("greeting", "The server's greeting of several KB is lost on its way back.",
           {"receiver": "script", "receiver_settings": {"banner": "\r\n".join(
               [f"220-rule {n:02d} of this house: no unsolicited mail is accepted here" for n in range(40)] + ["220 mx.example.net"])}}),
          ("certificate", "The server's TLS certificate (RSA 4096) is lost on its way back.", {"tls": 4096, "sender_settings": {"starttls": True}}))),
]

# captures that show less than everything
PARTIAL = [
    black_hole("blackhole-any", 1400, "Captured on the pseudo interface `any` (SLL2).", mails=(Mail(12000),), views={
        "sender": replace(black_hole_views(1400)["sender"], interface="any"),
        "router": replace(black_hole_views(1400)["middle"], node="r1", interface="any", check="icmp == 0 and resends >= 12",
                          shows="A router's `any` capture has every packet twice within microseconds: duplicates of capture, not resends."),
        "receiver": replace(black_hole_views(1400)["receiver"], interface="any")}),
    black_hole("blackhole-any-sll", 1400, "Captured on `any` in the older format LINUX_SLL.", mails=(Mail(12000),), views={
        "sender": replace(black_hole_views(1400)["sender"], interface="any", link_type="LINUX_SLL"),
        "router": replace(black_hole_views(1400)["middle"], node="r1", interface="any", link_type="LINUX_SLL", check="icmp == 0")}),
    *(black_hole(f"blackhole-snaplen-{n}", 1400, f"Only the first {n} bytes of each packet were kept.", mails=(Mail(12000),),
                 views={k: replace(v, snaplen=n) for k, v in black_hole_views(1400).items()}) for n in (68, 96)),
    black_hole("blackhole-pcapng", 1400, "Written by dumpcap as pcapng.", mails=(Mail(12000),),
               views={k: replace(v, pcapng=True) for k, v in black_hole_views(1400).items()}),
    black_hole("blackhole-one-way", 1400, "Only one direction was captured.", mails=(Mail(12000),), views={
        "sender-out": replace(SENDER, filter_="src host 10.1.0.2", allowed=("pmtud-black-hole", "path-outage", *HANGS), check="resends >= 6"),
        "sender-in": replace(SENDER, filter_="src host 10.3.0.2", allowed=("pmtud-black-hole", *HANGS), check="resends == 0")}),
    black_hole("blackhole-late-start", 1400, "The capture begins in the middle of the mail, without handshake.", mails=(Mail(40000),),
               views={k: replace(v, from_data=True, skip=4, check=v.check.replace(">= 6", ">= 5"))
                      for k, v in black_hole_views(1400).items() if k != "receiver"}),
    *(black_hole(f"blackhole-stops-after-{seconds}s", 1400, f"The capture ends {seconds} s after the mail began to hang.", mails=(Mail(12000),), views={
        "sender": replace(black_hole_views(1400)["sender"], until_s=seconds, check=f"icmp == 0 and resends >= {least}",
                          allowed=("pmtud-black-hole", *HANGS), finds=black_hole_views(1400)["sender"].finds if seconds > 1 else ())})
      for seconds, least in ((1, 2), (3, 3), (30, 6))),
    *(black_hole(f"blackhole-in-{tag}", 1400, f"Captured inside {name}, before the narrow place.", path={"relay": f"--tag {tag}"}, mails=(Mail(12000),),
                 views={"tunnel": replace(black_hole_views(1400)["middle"], node="wire", interface="t1")})
      for tag, name in (("vlan", "an 802.1Q VLAN"), ("qinq", "two VLAN tags (802.1ad)"), ("mpls", "two MPLS labels"), ("pppoe", "a PPPoE session"),
                        ("gre", "a GRE tunnel"), ("ipip", "an IPIP tunnel"))),
    black_hole("blackhole-in-6in4", 1400, "IPv6 inside IPv4 (6in4), captured inside the tunnel, before the narrow place.", six=True, path={"relay": "--tag ipip"},
               mails=(Mail(12000),), views={"tunnel": replace(black_hole_views(1400, six=True)["middle"], node="wire", interface="t1")}),
    plain("clean-in-vxlan", "A mail through a VXLAN tunnel with hosts that know its MTU; captured at the tunnel.", Path_(vxlan=True, host_mtu=1450, receiver_mtu=1450),
          views={"tunnel": replace(MIDDLE, node="r1", allowed=("small-mss",), check="resends == 0")}, mails=(Mail(20000),)),
]

# ---- ICMP that arrives, or should not be believed --------------------------------------------------------
WORKS = Finding("pmtud-working", "observation", path_mtu=1400)
WORKS6 = replace(WORKS, sender=SENDER6, receiver=RECEIVER6)
SUSPICIOUS = Finding("suspicious-icmp", "observation")


def pmtud_views(finding: Finding = WORKS, **kwargs) -> dict[str, View]:
    view = {"finds": (finding,), "check": "icmp > 0 and resends <= 3", "allowed": ("packet-loss",) if kwargs.get("lossy") else ()}
    return three(replace(SENDER, **view), replace(MIDDLE, **view),
                 # beyond the narrow place the lost packets look like any loss
                 replace(RECEIVER, check="icmp == 0", allowed=("packet-loss",)))


def icmp_again(net) -> None:
    net.flush("r2", "output")
    net.flush("r1", "output")


ICMP = [
    plain("pmtud-working", "Path-MTU discovery works: frag-needed arrives, the sender shrinks, the mail passes.", Path_(mtu=1400), views=pmtud_views(),
          mails=(Mail(12000), Mail(9000))),
    plain("pmtud-working-40k", "The same with 40 KB at a round trip of 20 ms.", Path_(mtu=1400, rtt_ms=20), views=pmtud_views(), mails=(Mail(40000),)),
    plain("pmtud-working-ipv6", "The same over IPv6 with packet-too-big.", Path_(mtu=1400), views=pmtud_views(WORKS6), server=RECEIVER6, mails=(Mail(12000),)),
    plain("pmtud-working-ipv6-1280", "IPv6 over its narrowest path, packet-too-big arrives.", Path_(mtu=1280, rtt_ms=20), server=RECEIVER6, mails=(Mail(20000),),
          views=pmtud_views(replace(WORKS6, path_mtu=1280))),
    plain("pmtud-working-twice", "Two narrow places, 1450 and 1400: two routers speak up, one after the other.", Path_(mtu_near=1450, mtu=1400), mails=(Mail(20000),),
          views={"sender": pmtud_views()["sender"], "middle": pmtud_views()["middle"], "receiver": pmtud_views()["receiver"]}),
    plain("pmtud-working-late", "For five seconds no ICMP comes (a filter), then it does: the mail passes.", Path_(mtu=1400, icmp="filtered-at-r2"), mails=(Mail(12000),),
          events=((5, icmp_again),), views={k: replace(v, check=v.check.replace("resends <= 3", "resends >= 3"),
                                                       allowed=("packet-loss", "black-hole-recovered")) for k, v in pmtud_views().items()}),
    plain("repaired-route-mtu", "After a repair: the sender's route has an MTU of 1400, so nothing larger leaves.", mails=(Mail(12000),),
          path=Path_(mtu=1400, icmp="filtered-at-r2", mtu_of_sender=1400), views=same(check="largest <= 1400 and resends == 0", allowed=("small-mss",))),
    plain("mss-536", "The MSS is clamped to 536.", Path_(r1_rule="tcp flags syn tcp option maxseg size set 536"), mails=(Mail(12000),),
          views=three(replace(SENDER, finds=(Finding("small-mss", "observation"),)), replace(MIDDLE, allowed=("small-mss",)),
                      replace(RECEIVER, allowed=("small-mss",)))),
    plain("pmtud-working-offload", "PMTUD works although a giant frame follows the ICMP: offload, on the wire it is cut small.", Path_(mtu=1400, offload=True),
          views=pmtud_views(), mails=(Mail(60000),)),
    plain("pmtud-working-jumbo", "Jumbo hosts over 1500 bytes, ICMP arrives.", Path_(mtu=1500, host_mtu=9000, receiver_mtu=9000),
          views=pmtud_views(replace(WORKS, path_mtu=1500)), mails=(Mail(60000),)),
    plain("pmtud-working-nat", "PMTUD works through NAT: the ICMP quotes the translated address outside.", Path_(mtu=1400, nat=True), mails=(Mail(12000),),
          views={k: replace(v, finds=tuple(replace(f, sender=SENDER4 if k == "sender" else "10.2.0.1") for f in v.finds)) for k, v in pmtud_views().items()}),
    Scenario("icmp-ignored", "The sender's own firewall drops the frag-needed that arrives; its capture still sees it.",
             Path_(mtu=1400, icmp="filtered-at-sender"), black_hole_views(1400, icmp_sender=True, icmp_middle=True), mails=(Mail(12000),), expect="'timeout' in o"),
    Scenario("icmp-ignored-ipv6", "The same over IPv6.", Path_(mtu=1400, icmp="filtered-at-sender"),
             black_hole_views(1400, six=True, icmp_sender=True, icmp_middle=True), server=RECEIVER6, expect="'timeout' in o"),
    Scenario("icmp-ignored-rtt-20", "The same at a round trip of 20 ms with 40 KB: segments in flight still leave at the old size.",
             Path_(mtu=1400, icmp="filtered-at-sender", rtt_ms=20), black_hole_views(1400, icmp_sender=True, icmp_middle=True), mails=(Mail(40000),),
             expect="'timeout' in o"),
    Scenario("icmp-ignored-offload", "The same with segmentation offload.", Path_(mtu=1400, icmp="filtered-at-sender", offload=True),
             black_hole_views(1400, icmp_sender=True, icmp_middle=True), mails=(Mail(40000),), expect="'timeout' in o"),
    Scenario("icmp-lost-between", "The frag-needed passes the middle and is dropped by the router nearer to the sender.", Path_(mtu=1400, icmp="filtered-at-r1"),
             black_hole_views(1400, icmp_middle=True), mails=(Mail(12000),), expect="'timeout' in o"),
    Scenario("icmp-lost-between-nat", "The same behind NAT: outside, the ICMP quotes the translated address.",
             Path_(mtu=1400, icmp="filtered-at-sender", nat=True), {
                 k: replace(v, finds=tuple(replace(f, sender=SENDER4 if k == "sender" else "10.2.0.1") for f in v.finds))
                 for k, v in black_hole_views(1400, icmp_sender=True, icmp_middle=True).items()}, mails=(Mail(12000),), expect="'timeout' in o"),
    plain("icmp-mtu-zero", "A router older than RFC 1191 names no MTU (0): Linux falls back to 552 bytes and clears DF.", Path_(relay="icmp=1400,0,plain"),
          views=three(*(replace(v, finds=(WORKS, Finding("df-off", "observation")), allowed=("suspicious-icmp",), check="icmp > 0") for v in (SENDER, View("r1", "b0"))),
                      replace(RECEIVER, finds=(Finding("df-off", "observation"),), allowed=("packet-loss",))), mails=(Mail(12000),)),
    plain("icmp-below-floor", "The frag-needed names an MTU of 40, under the floor of 68; Linux uses 552 and clears DF.", Path_(relay="icmp=1400,40,plain"),
          views=three(*(replace(v, finds=(SUSPICIOUS, Finding("df-off", "observation")), allowed=("pmtud-working",), check="icmp > 0") for v in (SENDER, View("r1", "b0"))),
                      replace(RECEIVER, finds=(Finding("df-off", "observation"),), allowed=("packet-loss",))), mails=(Mail(12000),)),
    *(Scenario(f"icmp-{word}", shows, Path_(relay=f"icmp=1400,{values}"),
               {k: replace(v, check=v.check.replace("icmp == 0", "icmp > 0") if k != "receiver" else v.check,
                           finds=(*v.finds, *((SUSPICIOUS,) if k != "receiver" and word != "foreign" else ())),
                           allowed=(*v.allowed, *(("suspicious-icmp",) if word == "foreign" else ())))
                for k, v in black_hole_views(1400, middle=NEAR).items()}, mails=(Mail(12000),), expect="'timeout' in o")
      for word, values, shows in (
          ("not-smaller", "1500,plain", "The frag-needed names an MTU that is not below the packet's size: ignored, the hole stays."),
          ("foreign", "1300,foreign", "The frag-needed quotes another connection's ports: not for this flow, the hole stays."),
          ("stale", "1300,stale", "The frag-needed quotes a sequence number far outside the window: ignored, the hole stays."))),
    plain("icmp-forged", "Forged frag-needed messages quote sequence numbers outside the window while the mail passes: an attack that fails.",
          Path_(relay="icmp=1400,600,forged"),
          views=three(*(replace(v, finds=(SUSPICIOUS,), check="icmp > 0") for v in (SENDER, NEAR)), RECEIVER), mails=(Mail(12000),)),
    plain("recovered-probing-1", "tcp_mtu_probing=1: after about 3 s the sender shrinks by itself and the mail passes.",
          Path_(mtu=1400, icmp="filtered-at-r2", sysctl={"net.ipv4.tcp_mtu_probing": "1"}), mails=(Mail(12000),),
          views=three(*(replace(v, finds=(Finding("black-hole-recovered", path_mtu=1400),), check="icmp == 0 and resends >= 3") for v in (SENDER, MIDDLE)),
                      replace(RECEIVER, allowed=("black-hole-recovered", "packet-loss")))),
    plain("recovered-probing-1-40k", "The same with 40 KB at a round trip of 20 ms.", mails=(Mail(40000),),
          path=Path_(mtu=1400, icmp="filtered-at-r2", rtt_ms=20, sysctl={"net.ipv4.tcp_mtu_probing": "1"}),
          views=three(*(replace(v, finds=(Finding("black-hole-recovered", path_mtu=1400),), check="icmp == 0 and resends >= 3") for v in (SENDER, MIDDLE)),
                      replace(RECEIVER, allowed=("black-hole-recovered", "packet-loss")))),
    plain("recovered-probing-2", "tcp_mtu_probing=2: segments of 1024 bytes from the start, larger ones only as probes; the mail passes.",
          Path_(mtu=1400, icmp="filtered-at-r2", sysctl={"net.ipv4.tcp_mtu_probing": "2"}), mails=(Mail(40000),),
          allowed=("packet-loss", "black-hole-recovered")),
    plain("mss-clamped", "A router clamps the MSS to a path of 1400 bytes: the peer's small MSS protects the path.",
          Path_(mtu=1400, icmp="filtered-at-r2", r1_rule="tcp flags syn tcp option maxseg size set 1360"),
          views=three(replace(SENDER, finds=(Finding("small-mss", "observation"),)), replace(MIDDLE, allowed=("small-mss",)),
                      replace(RECEIVER, allowed=("small-mss",))), mails=(Mail(12000),)),
    plain("mss-pppoe", "The receiver's interface is set to 1492 (PPPoE), so it announces an MSS of 1452.", Path_(mtu=1492, icmp="filtered-at-r2", receiver_mtu=1492),
          views=three(*(replace(v, finds=(Finding("small-mss", "observation"),)) for v in (SENDER, MIDDLE)), replace(RECEIVER, allowed=("small-mss",))),
          mails=(Mail(12000),)),
    plain("df-off", "The sender has discovery switched off (no DF); the router fragments, the mail passes.",
          Path_(mtu=1400, sysctl={"net.ipv4.ip_no_pmtu_disc": "1"}), views=same(Finding("df-off", "observation")), mails=(Mail(12000),)),
    Scenario("receiver-learned-mtu", "The server learned the path MTU from its own long EHLO answer and announces a small MSS from then on: the second mail passes.",
             Path_(mtu=1400, mtu_back=1400, icmp="filtered-at-sender"), {
                 "sender": replace(SENDER, finds=(Finding("icmp-frag-needed-ignored", path_mtu=1400), Finding("small-mss", "observation")),
                                   allowed=(*HANGS, "pmtud-working", "packet-loss"), check="resends >= 5 and icmp > 0"),
                 "receiver": replace(RECEIVER, finds=(Finding("pmtud-working", "observation", path_mtu=1400, sender=RECEIVER4, receiver=SENDER4),),
                                     allowed=(*HANGS, "pmtud-black-hole", "small-mss"))},
             sender="smtplib", sender_settings={"timeout_s": 25}, receiver="script", receiver_settings={"ehlo_reply_lines": 60},
             mails=(Mail(9000), Mail(9000)), expect="o == ['timeout', 'delivered']"),
]

# ---- rivals: loss, outages, stalls -----------------------------------------------------------------------
LOSS = Finding("packet-loss", connections=None)
OUTAGE = Finding("path-outage")
DEAD = ("lost-after-data", "end-of-data-timeout")


def lossy(name: str, shows: str, path: Path_, check: str = "resent >= 3", **kwargs) -> Scenario:
    kwargs.setdefault("expect", "'delivered' in o")
    views = three(*(replace(v, finds=(LOSS,), allowed=DEAD, check=check) for v in (SENDER, MIDDLE)), replace(RECEIVER, allowed=("packet-loss", *DEAD)))
    return Scenario(name, shows, path, kwargs.pop("views", None) or views, **kwargs)


def narrow_now(net) -> None:
    net.narrow(1400)


def unplug(net) -> None:
    net.ip("r1", "route del 10.3.0.0/24")


RIVALS = [
    lossy("loss-5", "5 % random loss: four mails of 30 KB arrive, late.", Path_(loss="numgen random mod 100 < 5", rtt_ms=20), mails=(Mail(30000),) * 4, limit_s=100),
    plain("loss-1", "1 % random loss, which nobody notices.", Path_(loss="numgen random mod 100 < 1", rtt_ms=20), mails=(Mail(40000),) * 5, limit_s=100,
          views={"sender": replace(SENDER, allowed=("packet-loss",), check="resent >= 1"), "receiver": replace(RECEIVER, allowed=("packet-loss",))}),
    lossy("loss-30", "30 % random loss: four and more timeouts of one full-size segment occur, and it is no black hole.",
          Path_(loss="numgen random mod 100 < 30", rtt_ms=20), mails=(Mail(12000),) * 3, limit_s=110, expect="len(o) > 0"),
    lossy("loss-both-ways", "5 % loss in both directions.", Path_(loss="numgen random mod 100 < 5", loss_back="numgen random mod 100 < 5", rtt_ms=20),
          mails=(Mail(30000),) * 3, limit_s=100),
    lossy("loss-ipv6", "5 % random loss over IPv6.", Path_(loss="numgen random mod 100 < 5", rtt_ms=20), mails=(Mail(30000),) * 3, limit_s=100, server=RECEIVER6,
          views=three(*(replace(v, finds=(replace(LOSS, sender=SENDER6, receiver=RECEIVER6),), check="resent >= 3") for v in (SENDER, MIDDLE)),
                      replace(RECEIVER, allowed=("packet-loss",)))),
    plain("loss-of-acks", "Only acknowledgements are lost, 60 % of them: spurious resends, the mail passes.",
          Path_(r2_rule='iifname "c0" meta length < 100 numgen random mod 100 < 60 drop', rtt_ms=20), allowed=("packet-loss",), mails=(Mail(60000), Mail(60000)), limit_s=100,
          views=same(allowed=("packet-loss",))),
    plain("loss-of-large", "A congested queue drops 60 % of the large packets and lets the rest through: not a black hole.",
          Path_(r2_rule="meta length > 1000 numgen random mod 100 < 60 drop", rtt_ms=20, mtu_unclear=True), mails=(Mail(12000),), limit_s=100, expect="len(o) > 0",
          views=same(allowed=("packet-loss", *DEAD))),
    plain("loss-of-large-5s", "Large packets are lost for 5 seconds while small ones pass; then the same packet passes at full size: no black hole.",
          Path_(r2_rule="meta length > 1000 drop"), sender="sendmail", mails=(Mail(2500),), events=((5, lambda net: net.flush("r2", "forward")),),
          views=three(*(replace(v, allowed=("packet-loss", "path-outage"), check="resends >= 4") for v in (SENDER, MIDDLE)),
                      replace(RECEIVER, allowed=("packet-loss", "path-outage")))),
    plain("loss-by-policer", "A policer cuts bursts: packets beyond 30 kbyte/s are dropped, whatever their size.",
          Path_(r2_rule='oifname "c0" limit rate over 30 kbytes/second burst 8000 bytes drop', rtt_ms=20), mails=(Mail(40000),), limit_s=100, expect="len(o) > 0",
          views=three(*(replace(v, allowed=("packet-loss", *DEAD), check="resent >= 2") for v in (SENDER, MIDDLE)), replace(RECEIVER, allowed=("packet-loss", *DEAD)))),
    plain("slow-reader", "The server reads slowly, a line every 20 ms: its window stays small, the mail passes.", receiver="script", mails=(Mail(40000),),
          receiver_settings={"line_pause_s": 0.02, "receive_buffer": 4096}, views=same(allowed=("receiver-stalled",))),
    plain("reordering", "Every third large packet arrives one late: reordering, no loss.", Path_(relay="reorder=3"), mails=(Mail(40000),), allowed=("packet-loss",)),
    Scenario("outage-mid-mail", "The path dies in the middle of a mail, for every packet in both directions.",
             Path_(r2_rule="meta l4proto tcp quota over 50000 bytes drop", rtt_ms=20),
             three(*(replace(v, finds=(OUTAGE,), allowed=DEAD, check="resends >= 5") for v in (SENDER, MIDDLE)),
                   replace(RECEIVER, allowed=("path-outage", *DEAD))), mails=(Mail(70000),), expect="'timeout' in o"),
    Scenario("outage-ipv6", "The same over IPv6.", Path_(r2_rule="meta l4proto tcp quota over 50000 bytes drop", rtt_ms=20),
             three(*(replace(v, finds=(replace(OUTAGE, sender=SENDER6, receiver=RECEIVER6),), allowed=DEAD, check="resends >= 5") for v in (SENDER, MIDDLE)),
                   replace(RECEIVER, allowed=("path-outage", *DEAD))), mails=(Mail(70000),), server=RECEIVER6, expect="'timeout' in o"),
    Scenario("outage-offload", "The path dies in mid-mail, captured with segmentation offload: giant frames of full-size segments were acknowledged before; the next "
             "mail's SYN is not answered either.", Path_(r2_rule="meta l4proto tcp quota over 20000 bytes drop", offload=True, congestion="bbr"),
             three(*(replace(v, finds=(replace(OUTAGE, connections=None),), allowed=DEAD, check="resends >= 5") for v in (SENDER, MIDDLE)),
                   replace(RECEIVER, allowed=("path-outage", *DEAD))), mails=(Mail(19081), Mail(40000)), limit_s=90, expect="'timeout' in o",
             sender_settings={f"smtp_{step}_timeout": "25s" for step in ("connect", "data_xfer", "data_done")}),
    plain("blackout-12s", "The path is dead for 12 seconds, then lives again; the mail passes.", Path_(r2_rule="meta l4proto tcp quota over 30000 bytes drop", rtt_ms=20),
          views=three(*(replace(v, allowed=("path-outage", "packet-loss"), check="resends >= 3") for v in (SENDER, MIDDLE)),
                      replace(RECEIVER, allowed=("path-outage", "packet-loss"))), mails=(Mail(60000),), events=((12, lambda net: net.flush("r2", "forward")),)),
    Scenario("firewall-after-envelope", "A firewall drops every packet of the client after the envelope, small ones too; the server repeats its 354.",
             Path_(r2_rule=f"ip saddr {SENDER4} quota over 560 bytes drop"),
             three(*(replace(v, finds=(OUTAGE,), allowed=DEAD, check="resends >= 5 and resends_server >= 4") for v in (SENDER, MIDDLE)),
                   replace(RECEIVER, allowed=("path-outage", *DEAD), check="resends_server >= 4")), mails=(Mail(40000),), expect="'timeout' in o"),
    Scenario("host-unreachable", "The route vanishes between two mails: ICMP network unreachable (code 0), not 4.", Path_(),
             three(replace(SENDER, finds=(OUTAGE,), allowed=DEAD, check="icmp == 0 and resends >= 3"), replace(MIDDLE, allowed=DEAD), replace(RECEIVER, allowed=DEAD)),
             sender="smtplib", sender_settings={"one_connection": True, "timeout_s": 30}, mails=(Mail(9000), Mail(9000, pause_s=5)), events=((4, unplug),),
             expect="o == ['delivered', 'timeout']"),
    Scenario("route-changes", "The path becomes narrow between two mails of one connection: what was proven before is no longer true.",
             Path_(mtu=1500, icmp="filtered-at-r2", mtu_unclear=True), same(allowed=("pmtud-black-hole", "packet-loss", "path-outage", *DEAD)), sender="smtplib",
             sender_settings={"one_connection": True, "timeout_s": 40}, mails=(Mail(9000), Mail(9000, pause_s=6)), events=((4, narrow_now),),
             expect="o == ['delivered', 'timeout']"),
    plain("route-changes-pmtud", "The path becomes narrow between two mails, and the ICMP arrives.", Path_(mtu=1500, mtu_unclear=True), views=pmtud_views(), sender="smtplib",
          sender_settings={"one_connection": True}, mails=(Mail(9000), Mail(9000, pause_s=6)), events=((4, narrow_now),)),
    plain("zero-window", "The server stops reading for 25 seconds, its window closes; then the mail passes.", receiver="script", mails=(Mail(60000),),
          receiver_settings={"stop_reading_after": 6000, "stop_reading_s": 25, "receive_buffer": 8192},
          views=same(Finding("receiver-stalled"), check="zero_windows >= 3")),
    plain("zero-window-forever", "The server stops reading for good; the client gives up.", receiver="script", mails=(Mail(60000),), expect="o == ['timeout']",
          receiver_settings={"stop_reading_after": 6000, "stop_reading_s": 300, "receive_buffer": 8192},
          views=same(Finding("receiver-stalled"), allowed=DEAD, check="zero_windows >= 3")),
    plain("zero-window-short", "The server stops reading for 4 seconds: a pause below the threshold.", receiver="script", mails=(Mail(60000),),
          receiver_settings={"stop_reading_after": 6000, "stop_reading_s": 4, "receive_buffer": 8192}, check="zero_windows >= 1"),
    Scenario("bad-checksums", "Large packets arrive with a wrong TCP checksum and are discarded by the receiver: from the sender it looks like a black hole.",
             Path_(relay="bad-checksum=1000", mtu_unclear=True), three(
                 replace(SENDER, allowed=("pmtud-black-hole", *DEAD), check="resends >= 5"), replace(NEAR, allowed=("pmtud-black-hole", *DEAD)),
                 replace(RECEIVER, allowed=("packet-loss", "path-outage", *DEAD), check="largest > 1400")), mails=(Mail(12000),), expect="'timeout' in o"),
    plain("sack-shifted", "A firewall shifts sequence numbers but not SACK blocks, on a path with 5 % loss.",
          Path_(relay="shift-sequence=100000000", rtt_ms=20, loss="numgen random mod 100 < 5"), mails=(Mail(60000), Mail(60000)), limit_s=120, expect="len(o) > 0",
          views=three(*(replace(v, allowed=("packet-loss", *DEAD)) for v in (SENDER, NEAR, RECEIVER)))),
    Scenario("window-scaling-broken", "Nothing beyond the 65,536th byte of a connection passes, whatever its size: a firewall that does not know window scaling.",
             Path_(relay="stop-at=65536"), three(*(replace(v, allowed=("path-outage", *DEAD), check="resends >= 5") for v in (SENDER, NEAR)),
                                                 replace(RECEIVER, allowed=("path-outage", *DEAD))), mails=(Mail(100000),), expect="'timeout' in o"),
]

# ---- the end of the mail, and the firewall's mask ----------------------------------------------------------
SPLIT_LOW = Finding("split-terminator", "observation", extra={"severity": "low"})
SPLIT_MEDIUM = Finding("split-terminator", "cause", extra={"severity": "medium"})
SPLIT_HIGH = Finding("split-terminator", "cause", extra={"severity": "high"})
NO_ANSWER = Finding("end-of-data-timeout", "symptom")
MASKED = Finding("masked-banner", "observation")


def pix(before: tuple[Finding, ...], after: tuple[Finding, ...] = (), check: str = "", allowed: tuple[str, ...] = ()) -> dict[str, View]:
    """A box on link B: sender and `NEAR` see one side of it, the receiver the other."""
    return {"sender": replace(SENDER, finds=before, check=check, allowed=allowed), "receiver": replace(RECEIVER, finds=after, allowed=(*DEAD, *allowed))}


ENDS = [
    *(plain(f"split-at-{cut}", shows, sender_settings=STRIPPED, mails=(Mail(whole(5, cut)),), views=same(*finds, check="resends == 0"))
      for cut, shows, finds in (
          (1, "A packet boundary lies between the CR and the LF before the final dot: harmless, no finding.", ()),
          (2, "A packet boundary lies just before the final dot: harmless, no finding.", ()),
          (3, "A packet boundary lies inside .CRLF, after the dot; the mail is answered.", (SPLIT_LOW,)),
          (4, "A packet boundary lies inside .CRLF, after the CR; the mail is answered.", (SPLIT_LOW,)))),
    *(Scenario(f"pix-split-{cut}-{word}", f"A PIX-like firewall loses the end of a mail cut {place}: {what}.", Path_(relay=f"swallow-split={word}"),
               pix((SPLIT_MEDIUM, *((NO_ANSWER,) if word == "ack" else ())), check="resends >= 6" if word == "drop" else "resends == 0",
                   allowed=DEAD), sender_settings=STRIPPED, mails=(Mail(whole(5, cut)),), expect="o == ['timeout']")
      for cut, place in ((3, "after the dot"), (4, "after the CR"))
      for word, what in (("drop", "the last packet is dropped each time"), ("ack", "it is acknowledged and dropped"))),
    Scenario("pix-split-harmless", "The same firewall, a mail cut just before the dot, and one whole: both answered.", Path_(relay="swallow-split=drop"), pix(()),
             sender_settings=STRIPPED, mails=(Mail(whole(5, 2)), Mail(3000)), expect=DELIVERED),
    Scenario("pix-split-compared", "Of five mails through a PIX-like firewall only the one with a split .CRLF hangs; whole ones to the same server are answered.",
             Path_(relay="swallow-split=drop"), pix((SPLIT_HIGH,), check="resends >= 6", allowed=DEAD), sender_settings=STRIPPED,
             mails=(Mail(1500), Mail(9000), Mail(whole(5, 3)), Mail(3000), Mail(whole(5, 2))), expect="o.count('timeout') == 1 and len(o) == 5"),
    Scenario("pix-masked-split", "The greeting is masked and the end of a split mail is lost: a PIX with fixup protocol smtp.",
             Path_(relay="mask-banner swallow-split=ack"), pix((SPLIT_HIGH, MASKED, NO_ANSWER), allowed=(*DEAD, "pix-workaround")), sender_settings=STRIPPED,
             mails=(Mail(whole(5, 3)),), expect="o == ['timeout']"),
    Scenario("pix-typed-split", "A client writes `.` and CRLF in two packets by itself, behind the same firewall; its other mail ends whole.",
             Path_(relay="swallow-split=drop"), pix((SPLIT_HIGH,), check="resends >= 6", allowed=DEAD), sender="smtplib", sender_settings={"split_at": 3},
             drive=with_script({}, (Mail(2500),)), mails=(Mail(2000),), expect="o == ['timeout', 'delivered']"),
    Scenario("split-server-hangs-anyway", "A server that answers no final dot at all, split or whole: the split is no cause.", Path_(),
             same(SPLIT_LOW, replace(NO_ANSWER, connections=3), allowed=DEAD), sender="smtplib", sender_settings={"timeout_s": 15}, receiver="script",
             receiver_settings={"hang_at_end": True}, mails=(Mail(2000), Mail(9000)),
             drive=with_script({"split_at": 3, "timeout_s": 15}, (Mail(2500),)), expect="o == ['timeout'] * 3"),
    Scenario("pix-split-ipv6", "The same over IPv6: segments of 1428 bytes, the cut after the dot.", Path_(relay="swallow-split=drop"),
             {k: replace(v, finds=tuple(replace(f, sender=SENDER6, receiver=RECEIVER6) for f in v.finds))
              for k, v in pix((SPLIT_MEDIUM,), check="resends >= 6", allowed=DEAD).items()},
             sender_settings=STRIPPED, mails=(Mail(whole(5, 3, 1428)),), server=RECEIVER6, expect="o == ['timeout']"),
    plain("masked-banner", "The firewall masks the greeting; Postfix says HELO because of it, the mail passes.", views=pix((MASKED,), allowed=("pix-workaround",)),
          path=Path_(relay="mask-banner")),
    plain("masked-banner-two-lines", "A greeting of two lines, both masked.", views=pix((MASKED,), allowed=("pix-workaround",)), path=Path_(relay="mask-banner"), receiver="script",
          receiver_settings={"banner": "220-mx.example.net ESMTP\r\n220 no spam, since 2002"}, sender="exim"),
    plain("masked-banner-by-server", "A server sends the FAQ's example greeting itself.", receiver="script", views=same(MASKED), sender="swaks",
          receiver_settings={"banner": "220 **************************************0******0*********20 ****200**0*********0*00"}),
    plain("split-at-3-offload", "The cut after the dot falls inside an offloaded frame: it is inferred, not seen; the mail is answered.", Path_(offload=True),
          sender="smtplib", mails=(Mail(whole(6, 3)),), views={"sender": replace(SENDER, finds=(SPLIT_LOW,), check="largest > 5000")}),
    plain("tls-server-silent", "The server acknowledges a large ClientHello and never answers: a server that chokes, not the path.", sender="smtplib", receiver="script",
          receiver_settings={"keywords": ["PIPELINING", "STARTTLS"], "tls_hang": True}, sender_settings={"starttls": True, "large_hello": True, "timeout_s": 20},
          check="resends == 0", expect="o == ['timeout']"),
    plain("pix-workaround", "Postfix works around the mask: HELO instead of EHLO, and the final .CRLF alone after a pause.", path=Path_(relay="mask-banner"),
          views={"sender": replace(SENDER, finds=(MASKED, Finding("pix-workaround", "observation"))),
                 "receiver": replace(RECEIVER, finds=(Finding("pix-workaround", "observation"),))},
          sender_settings={"smtp_pix_workaround_threshold_time": "0s", "smtp_pix_workaround_delay_time": "6s"}),
    plain("esmtp-inspection", "The firewall turns EHLO keywords into X: STARTTLS is gone, the mail passes in the clear.", tls=2048, path=Path_(relay="mask-keywords"),
          sender_settings={"smtp_tls_security_level": "may"}, views=pix((Finding("esmtp-inspection", "observation"),))),
    plain("esmtp-inspection-asa", "Masked greeting and masked keywords together: an ASA's inspection.", tls=2048, path=Path_(relay="mask-banner mask-keywords"),
          sender="exim", views=pix((MASKED, Finding("esmtp-inspection", "observation")))),
    plain("esmtp-inspection-ehlo-refused", "Behind the masked greeting EHLO reaches the server as XXXX and is refused; the client falls back to HELO.",
          path=Path_(relay="mask-banner mask-commands"), sender="exim", views=pix((MASKED, Finding("esmtp-inspection", "observation")),
                                                                               (Finding("esmtp-inspection", "observation"),))),
    plain("starttls-stripped", "The first connection to a server sees STARTTLS turned to X, the second sees it offered.", tls=2048,
          path=Path_(relay="mask-keywords=STARTTLS first=1"), sender="smtplib", mails=(Mail(3000), Mail(3000)),
          views=pix((Finding("starttls-stripped"), Finding("esmtp-inspection", "observation"))), expect=DELIVERED),
    plain("starttls-not-offered", "A server without TLS: nothing was stripped.", receiver="script"),
    Scenario("server-hangs-at-end", "Three mails end whole and are never answered: the server, not the network.", Path_(),
             same(replace(NO_ANSWER, connections=3), allowed=DEAD), sender="smtplib", sender_settings={"timeout_s": 15}, receiver="script",
             receiver_settings={"hang_at_end": True}, mails=(Mail(700), Mail(9000), Mail(3000)), expect="o == ['timeout'] * 3"),
    plain("split-at-3-tls-keys", "Behind STARTTLS `.` and CRLF are in records and packets of their own: no firewall can see that.", tls=2048, sender="smtplib",
          sender_settings={"split_at": 3, "starttls": True, "keylog": True}, mails=(Mail(2000),)),
    Scenario("server-hangs-tls-keys", "Behind STARTTLS, with the secrets of the sessions beside it: three mails end whole and are never answered.", Path_(),
             same(replace(NO_ANSWER, connections=3), allowed=DEAD), sender="smtplib", sender_settings={"timeout_s": 15, "starttls": True, "keylog": True},
             receiver="script", tls=2048, receiver_settings={"hang_at_end": True}, mails=(Mail(700), Mail(9000), Mail(3000)), expect="o == ['timeout'] * 3"),
    Scenario("duplicate-both-accepted", "The first copy's answer comes after the client gave up; the second is accepted as well: delivered twice.", Path_(),
             same(Finding("duplicate-delivery", "symptom", connections=None, extra={"severity_at_least": "medium"}), NO_ANSWER, allowed=DEAD), receiver="script",
             receiver_settings={"hang_at_end": True, "hang_first": 1, "hang_s": 18}, attempts=2, expect="o == ['timeout', 'delivered']",
             sender_settings={"smtp_data_done_timeout": "12s", "minimal_backoff_time": "3s", "maximal_backoff_time": "4s", "queue_run_delay": "3s"}),
    Scenario("duplicate-offered-twice", "Two copies, both unanswered: the mail may be delivered twice.", Path_(),
             same(Finding("duplicate-delivery", "symptom", connections=None, extra={"severity_at_least": "medium"}), replace(NO_ANSWER, connections=2), allowed=DEAD),
             receiver="script", receiver_settings={"hang_at_end": True}, attempts=2, expect="o == ['timeout', 'timeout']",
             sender_settings={"smtp_data_done_timeout": "12s", "minimal_backoff_time": "3s", "maximal_backoff_time": "4s", "queue_run_delay": "3s"}),
    Scenario("duplicate-other-server", "One server of the destination takes the mail and never answers; the same mail is then accepted by another.",
             Path_(receivers=1), same(Finding("duplicate-delivery", "symptom", receiver=None, connections=None, extra={"severity_at_least": "medium"}),
                                      NO_ANSWER, allowed=DEAD), sender="smtplib", sender_settings={"timeout_s": 12}, drive=one_mail_to_each_server,
             receiver="script", receiver_settings={"hang_at_end": True, "hang_first": 1, "hang_s": 60}, mails=(Mail(4000), Mail(4000, server="10.3.0.11")),
             expect="o == ['timeout', 'delivered']"),
    Scenario("duplicate-after-lost-connection", "The server takes the whole mail and closes without an answer; the sender tries again and is accepted.", Path_(),
             same(Finding("duplicate-delivery", "symptom", connections=None, extra={"severity_at_least": "medium"}), Finding("lost-after-data", "symptom"),
                  allowed=DEAD), receiver="script", receiver_settings={"close_at_end": 1}, attempts=2, expect="o == ['lost-connection', 'delivered']",
             sender_settings={"minimal_backoff_time": "3s", "maximal_backoff_time": "4s", "queue_run_delay": "3s"}),
    Scenario("lost-after-data", "The server resets the connection in the middle of the mail.", Path_(),
             same(Finding("lost-after-data", "symptom")), receiver="script", receiver_settings={"close_after_data": 5000}, mails=(Mail(20000),),
             expect="o == ['lost-connection']"),
    Scenario("client-aborts", "The client resets the connection in the middle of the mail.", Path_(),
             same(Finding("lost-after-data", "symptom")), sender="smtplib", sender_settings={"stop_after": 5000, "stop_for_s": 2, "abort": True},
             mails=(Mail(20000),), expect="o == ['lost-connection']"),
    plain("greylisted-then-accepted", "450 at RCPT, the same mail again, accepted: no duplicate.", receiver="script", attempts=2,
          receiver_settings={"rcpt_reply": "450 4.2.0 greylisted", "defer_first": 1}, expect="o == ['deferred', 'delivered']",
          sender_settings={"minimal_backoff_time": "3s", "maximal_backoff_time": "4s", "queue_run_delay": "3s"}),
    plain("http-blackhole", "A web server's large answer dies on a path of 1400 bytes: no mail, found only when all TCP is asked for (--all-tcp).",
          Path_(mtu_back=1400, icmp="filtered-at-r2"), mails=(), sender="smtplib", receiver="script", expect="", receiver_settings={"port": 8080, "http": 12000},
          drive=python_client("import urllib.request; urllib.request.urlopen('http://10.3.0.2:8080/', timeout=40).read()"),
          views={"middle": replace(MIDDLE, check="icmp == 0"), "receiver": replace(RECEIVER, check="icmp == 0")}),
]

# ---- one desk, one afternoon --------------------------------------------------------------------------------
SERVERS = [f"10.3.0.{last}" for last in (2, *range(11, 30))]
HOLE_A, HOLE_B, MASKING, SPLITTING = "10.3.0.12", "10.3.0.17", "10.3.0.21", "10.3.0.26"


def afternoon() -> tuple[Mail, ...]:
    """Six rounds to twenty destinations; sizes vary so that all kinds of mail meet all kinds of path."""
    mails = []
    for round_ in range(6):
        for n, server in enumerate(SERVERS):
            size = 700 + 137 * ((n * 7 + round_ * 11) % 20) + (5200 if (n + round_) % 4 == 0 else 0)
            if server in (HOLE_A, HOLE_B):
                size = (800, 6500, 900, 9000, 1000, 5000)[round_]
            if server == SPLITTING:
                size = (whole(1, 2), 2000, whole(2, 3), 5000, whole(3, 4), 900)[round_]
            mails.append(Mail(size, server=server, to=f"harbour{round_}@d{server.rsplit('.', 1)[1]}.example.net", subject=f"tide table {round_}", pause_s=1.6))
    return tuple(mails)


INCIDENT = [
    Scenario("incident", "Four minutes of one sender's mail to twenty destinations: two of them black holes (1400 and 1454 bytes), one behind a masking firewall, "
             "one behind a firewall that loses split ends, the rest well.",
             Path_(receivers=19, mtu_to={HOLE_A: 1400, HOLE_B: 1454}, icmp="filtered-at-r2", relay=f"mask-banner@{MASKING} swallow-split@{SPLITTING}=drop"),
             {"sender": replace(SENDER, pcapng=True, allowed=DEAD, check="connections > 100", finds=(
                 hole(1400, 3, receiver=HOLE_A, extra=LIKELY), hole(1454, 3, receiver=HOLE_B, extra=LIKELY),
                 replace(SPLIT_HIGH, receiver=SPLITTING, connections=2), replace(MASKED, receiver=MASKING, connections=6),
                 Finding("pix-workaround", "observation", receiver=MASKING, connections=6),
                 Finding("size-dependent-delivery", "symptom", receiver=HOLE_A, connections=None),
                 Finding("size-dependent-delivery", "symptom", receiver=HOLE_B, connections=None)))},
             mails=afternoon(), limit_s=120, sender_settings=STRIPPED | {
                 "transport_maps": "inline:{" + ", ".join(f"d{s.rsplit('.', 1)[1]}.example.net=smtp:[{s}]" for s in SERVERS) + "}",
                 "smtp_connection_cache_on_demand": "no",
                 "smtp_data_done_timeout": "40s", "smtp_data_xfer_timeout": "40s"},
             expect="o.count('timeout') == 8 and o.count('delivered') == 112"),
]

# Where nothing is wrong, two of the three points show the same; one is enough.
SCENARIOS: list[Scenario] = [*INCIDENT, *HOLES, *PARTIAL, *ICMP, *RIVALS, *ENDS, *(only(s, "sender", "tunnel") for s in WELL)]
