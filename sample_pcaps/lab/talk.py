#!/usr/bin/env python3
"""A scripted mail client and server on plain sockets, for behaviour that no honest mailer can be configured to show.

    talk.py client '{"server": "10.3.0.2", "mails": [{"file": ..., "to": ..., "size": ...}], ...}'   -> connections as JSON
    talk.py server '{"banner": ..., "hang_at_end": true, ...}'                                       (logs to stderr)
"""

from __future__ import annotations

import contextlib
import json
import smtplib
import socket
import ssl
import sys
import threading
import time


def no_questions_asked(order: dict) -> ssl.SSLContext:
    """A client's TLS that takes the lab's self-signed certificate, and writes down its secrets where the order names a file."""
    context = ssl.create_default_context()
    context.keylog_filename = order.get("keylog")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# ---- client -------------------------------------------------------------------------------------------
class Client(smtplib.SMTP):
    """smtplib, but the mail can leave in chosen pieces."""

    order: dict = {}

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = super()._get_socket(host, port, timeout)
        return no_questions_asked(self.order).wrap_socket(sock) if self.order.get("implicit_tls") else sock

    def write_mail(self, data: bytes) -> None:
        """`data` ends with CRLF.CRLF. piece: bytes per write, like a typist; split_at: where to cut CR LF . CR LF (1-4)."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.order.get("piece"):
            step = self.order["piece"]
            for at in range(0, len(data), step):
                self.sock.sendall(data[at:at + step])
                time.sleep(self.order.get("piece_pause_s", 0.01))
        elif self.order.get("split_at"):
            cut = len(data) - 5 + self.order["split_at"]
            self.sock.sendall(data[:cut])
            time.sleep(self.order.get("split_pause_s", 0.02))
            self.sock.sendall(data[cut:])
        elif self.order.get("stop_after"):
            self.sock.sendall(data[: self.order["stop_after"]])
            time.sleep(self.order["stop_for_s"])
            if self.order.get("abort"):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close()
                raise smtplib.SMTPServerDisconnected("gave up: lost connection")
            self.sock.sendall(data[self.order["stop_after"]:])
        else:
            self.sock.sendall(data)

    def data(self, msg) -> tuple[int, bytes]:
        body = msg if isinstance(msg, bytes) else msg.encode()
        body = b"\r\n".join(body.replace(b"\r\n", b"\n").split(b"\n"))
        if self.order.get("bdat") and self.has_extn("chunking"):
            self.sock.sendall(b"BDAT %d LAST\r\n" % len(body) + body)
            return self.getreply()
        self.putcmd("data")
        code, reply = self.getreply()
        if code != 354:
            raise smtplib.SMTPDataError(code, reply)
        body = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in body.split(b"\r\n"))
        self.write_mail(body + b".\r\n")
        return self.getreply()


def client(order: dict) -> list[dict]:
    """One connection for all mails if `one_connection`, else one each."""
    Client.order = order
    connections: list[dict] = []
    server: Client | None = None
    timeout = order.get("timeout_s", 45)
    for mail in order["mails"]:
        time.sleep(mail.get("pause_s", 0))
        target, entry = mail.get("server", order["server"]), {"size_bytes": mail["size"]}
        try:
            if server is None or not order.get("one_connection"):
                connections.append({"server_ip": target, "client_port": None, "mails": []})
                server = Client(timeout=timeout, local_hostname="mail.example.org")
                server._host = target  # what starttls() names; connect() does not set it
                if order.get("alternate_ports"):  # odd and even in turn
                    server.source_address = ("", 40001 + len(connections))
                server.connect(target, order.get("port", 25))
                connections[-1]["client_port"] = server.sock.getsockname()[1]
                server.ehlo() if order.get("ehlo", True) else server.helo()
                if order.get("starttls"):
                    context = no_questions_asked(order)
                    if order.get("large_hello"):  # as large as one with post-quantum key shares
                        context.set_alpn_protocols([f"padding-{n:03d}" for n in range(120)])
                    server.starttls(context=context)
                    server.ehlo()
                if order.get("login"):
                    server.login(*order["login"])
            with open(mail["file"], "rb") as file:
                text = file.read()
            if order.get("dotted"):
                text = text.replace(b"\nT", b"\n.T").replace(b"\ne", b"\n..e") + b".\n\n..\n"
            server.mail("anna@example.org")
            code, reply = server.rcpt(mail["to"])
            if code >= 400:
                entry |= {"outcome": "rejected" if code >= 500 else "deferred", "reply": f"{code} {reply.decode()}"}
                server.rset()
            else:
                code, reply = server.data(text)
                entry |= {"outcome": "delivered" if code < 400 else "deferred" if code < 500 else "rejected", "reply": f"{code} {reply.decode()}"}
            if not order.get("one_connection"):
                server.quit()
        except TimeoutError as error:
            entry |= {"outcome": "timeout", "reply": f"{error}"}
            if server is not None and server.sock:
                server.sock.close()
            server = None
        except (OSError, smtplib.SMTPException) as error:
            word = "timeout" if "timed out" in str(error) else "lost-connection"
            entry |= {"outcome": word, "reply": str(error)[:160]}
            server = None
        connections[-1]["mails"].append(entry)
    if server is not None and order.get("one_connection"):
        server.quit()
    return connections


# ---- server -------------------------------------------------------------------------------------------
class Server:
    """Answers one connection at a time per thread, as told.

    banner, keywords[], hang_at_end (never answers the final dot), reply_delay_s, stop_reading_after (bytes of mail),
    stop_reading_s, close_after_data (bytes of mail, then RST), say_421_after (mails), final_reply, rcpt_reply,
    ehlo_reply_lines (a very long EHLO answer), refuse_ehlo, hang_first (only that many mails hang), hang_s, receive_buffer,
    close_at_end (so many mails), line_pause_s (reads slowly), implicit_tls, tls_hang (never answers a ClientHello), defer_first (rcpt_reply only that often), other_reply, http (answers a web request with that many bytes)
    """

    def __init__(self, order: dict) -> None:
        self.order, self.ended, self.refused = order, 0, 0
        self.tls = None
        if order.get("smtpd_tls_cert_file"):
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(order["smtpd_tls_cert_file"], order["smtpd_tls_key_file"])

    def log(self, text: str) -> None:
        print(time.strftime("%b %d %H:%M:%S"), "server", text, file=sys.stderr, flush=True)

    def serve(self) -> None:
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.order.get("receive_buffer"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.order["receive_buffer"])
        listener.bind(("::", self.order.get("port", 25)))
        listener.listen(64)
        self.log("listening")
        while True:
            sock, peer = listener.accept()
            threading.Thread(target=self.guard, args=(sock, peer), daemon=True).start()

    def guard(self, sock: socket.socket, peer: tuple) -> None:
        name = f"{peer[0].removeprefix('::ffff:')}:{peer[1]}"
        self.log(f"connect from {name}")
        try:
            self.talk(sock, name)
        except OSError as error:
            self.log(f"{name}: {error}")
        self.log(f"disconnect from {name}")

    def talk(self, sock: socket.socket, name: str) -> None:
        order = self.order
        sock.settimeout(order.get("timeout_s", 300))
        say = lambda text: sock.sendall(text.encode() + b"\r\n")  # noqa: E731
        if order.get("http"):
            sock.recv(4096)
            sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % order["http"] + b"x" * order["http"])
            sock.recv(4096)
            return
        if order.get("implicit_tls"):
            sock = self.tls.wrap_socket(sock, server_side=True)
        time.sleep(order.get("banner_delay_s", 0))
        say(order.get("banner", "220 mx.example.net ESMTP ready"))
        reader = sock.makefile("rb")
        mails = 0
        while line := reader.readline():
            verb, _, argument = line.decode("latin-1").strip().partition(" ")
            verb = verb.upper()
            if verb == "EHLO" and order.get("refuse_ehlo"):
                say("500 Command not recognized")
            elif verb == "EHLO":
                keywords = [*order.get("keywords", ["PIPELINING", "SIZE 50000000", "8BITMIME"]), *(["STARTTLS"] if self.tls else []),
                            *(f"XNOTE{n:04d} this server explains itself at great length" for n in range(order.get("ehlo_reply_lines", 0)))]
                lines = ["mx.example.net", *keywords]
                say("\r\n".join(f"250{'-' if n < len(lines) else ' '}{text}" for n, text in enumerate(lines, 1)))
            elif verb == "STARTTLS" and (self.tls or order.get("tls_hang")):
                say("220 ready to start TLS")
                if order.get("tls_hang"):  # takes the ClientHello, never answers
                    while sock.recv(65536):
                        pass
                    return
                sock = self.tls.wrap_socket(sock, server_side=True)
                say = lambda text, sock=sock: sock.sendall(text.encode() + b"\r\n")  # noqa: E731
                reader = sock.makefile("rb")
            elif verb == "DATA":
                if not self.take_mail(sock, reader, say, name):
                    return
                mails += 1
            elif verb == "AUTH":
                if argument.upper().startswith("LOGIN"):
                    say("334 VXNlcm5hbWU6") if " " not in argument else None
                    reader.readline() if " " not in argument else None
                    say("334 UGFzc3dvcmQ6")
                    reader.readline()
                say("235 2.7.0 Authentication successful")
            elif verb == "BDAT":
                reader.read(int(argument.split()[0]))
                say("250 2.0.0 chunk taken")
            elif verb == "RCPT":
                self.refused += 1
                say(order.get("rcpt_reply", "250 2.1.5 Ok") if self.refused <= order.get("defer_first", 1 << 30) else "250 2.1.5 Ok")
            elif verb == "QUIT":
                say("221 2.0.0 Bye")
                sock.close()
                return
            elif verb in ("HELO", "MAIL", "RSET", "NOOP", "VRFY", "PASS", "USER"):
                say(order.get("other_reply", "250 2.0.0 Ok"))
                if verb == "MAIL" and order.get("say_421_after") == mails and mails:
                    say("421 4.7.0 too many messages, closing connection")
                    sock.close()
                    return
            else:
                say("500 5.5.2 Command not recognized")

    def take_mail(self, sock: socket.socket, reader, say, name: str) -> bool:
        order = self.order
        say("354 End data with <CR><LF>.<CR><LF>")
        got, stalled = 0, False
        while (line := reader.readline()) not in (b".\r\n", b""):
            got += len(line)
            if order.get("stop_reading_after") and got > order["stop_reading_after"] and not stalled:
                stalled = True
                self.log(f"{name}: stops reading after {got} bytes")
                time.sleep(order["stop_reading_s"])
            time.sleep(order.get("line_pause_s", 0))
            if order.get("close_after_data") and got > order["close_after_data"]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.log(f"{name}: closes after {got} bytes of mail")
                reader.close()
                sock.close()
                return False
        if not line:
            self.log(f"{name}: lost connection after DATA ({got} bytes)")
            return False
        self.ended += 1
        if self.ended <= order.get("close_at_end", 0):
            self.log(f"{name}: mail of {got} bytes complete, closes without an answer")
            reader.close()
            sock.close()
            return False
        if order.get("hang_at_end") and self.ended <= order.get("hang_first", 1 << 30):
            self.log(f"{name}: mail of {got} bytes complete, says nothing")
            time.sleep(order.get("hang_s", 600))
        time.sleep(order.get("reply_delay_s", 0))
        self.log(f"{name}: mail of {got} bytes accepted")
        say(order.get("final_reply", "250 2.0.0 Ok: queued"))
        return True


if __name__ == "__main__":
    what, told = sys.argv[1], json.loads(sys.argv[2])
    if what == "client":
        print(json.dumps(client(told)))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            Server(told).serve()
