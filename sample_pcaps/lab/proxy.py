#!/usr/bin/env python3
"""An SMTP proxy as firewalls have one: ends the client's TCP connection and begins one of its own with the server.

    proxy.py PORT SERVER SERVER_PORT

The router redirects the client's connections to PORT; to the client the proxy is the server. Bytes are passed on as they
come, whatever their packets were.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends; then the target hears of it."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def serve(port: int, server: tuple[str, int]) -> None:
    listener = socket.create_server(("", port))
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        upstream = socket.create_connection(server, timeout=30)
        upstream.settimeout(None)
        for pair in ((client, upstream), (upstream, client)):
            threading.Thread(target=pass_on, args=pair, daemon=True).start()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve(int(sys.argv[1]), (sys.argv[2], int(sys.argv[3])))
