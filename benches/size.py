#!/usr/bin/env python3
"""What a gateway takes in memory for each connection, route and key: benches/size.py target/release/naka

Prints KiB of resident memory (VmRSS). Linux, two workers, on the loopback; needs 8,100 file descriptors (ulimit -n)."""

import socket
import subprocess
import sys
import tempfile
import time

CONNECTIONS = 8_000
ROUTES = 10_000
KEYS = 100_000
# Requests that are sent before their answers are read.
AT_ONCE = 50

with socket.create_server(("127.0.0.1", 0)) as free:
    AT = free.getsockname()

BASE = f"""
gateway: {{workers: 2, admin: none, limits: {{connections: 30000}}}}
listeners: {{public: {{listen: '127.0.0.1:{AT[1]}', timeouts: {{idle: 10m, request_headers: 10m}}}}}}
"""
PLAIN = "routes: {all: {match: {prefix: /}, respond: {body: in}}}\n"
LIMITED = """
policies: {few: {rate_limit: {rate: 10/h, key: [header:x-user], max_keys: 200000}}}
routes: {all: {match: {prefix: /}, use: [few], respond: {body: in}}}
"""


class Gateway:
    def __init__(self, rest):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        self.file.write(BASE + rest)
        self.file.flush()
        command = [sys.argv[1], "run", "-c", self.file.name]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(300):
            try:
                connect().close()
                time.sleep(1)
                return self
            except OSError:
                time.sleep(0.1)
        raise SystemExit("it does not listen within half a minute")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def kib(self):
        time.sleep(1)
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def connect():
    return socket.create_connection(AT, 30)


def get(path="/", header=""):
    return f"GET {path} HTTP/1.1\r\nhost: a\r\n{header}\r\n".encode()


def ask(connection, requests):
    """Reads so many answers, each with its length."""
    connection.sendall(b"".join(requests))
    read = b""
    for _ in requests:
        while b"\r\n\r\n" not in read:
            read += received(connection)
        head, read = read.split(b"\r\n\r\n", 1)
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        while len(read) < length:
            read += received(connection)
        read = read[length:]


def received(connection):
    some = connection.recv(65536)
    if not some:
        raise SystemExit("the gateway has closed a connection")
    return some


with Gateway(PLAIN) as gateway:
    base = gateway.kib()
    print(f"the process: {base}")
    connections = [connect() for _ in range(CONNECTIONS)]
    print(f"a connection that has said nothing: {(gateway.kib() - base) / CONNECTIONS:.1f}")
    for connection in connections:
        ask(connection, [get()])
    print(f"a connection that is kept after a request: {(gateway.kib() - base) / CONNECTIONS:.1f}")
    for connection in connections:
        connection.close()

routes = "".join(f"  r{i}: {{match: {{prefix: /r{i}}}, respond: {{body: in}}}}\n" for i in range(ROUTES))
with Gateway("routes:\n" + routes) as gateway:
    print(f"a route: {(gateway.kib() - base) / ROUTES:.1f}")
    with connect() as connection:
        for i in range(ROUTES):
            ask(connection, [get(f"/r{i}")])
    print(f"a route that one worker was asked for: {(gateway.kib() - base) / ROUTES:.1f}")

with Gateway(LIMITED) as gateway:
    before = gateway.kib()
    with connect() as connection:
        for first in range(0, KEYS, AT_ONCE):
            ask(connection, [get(header=f"x-user: u{i}\r\n") for i in range(first, first + AT_ONCE)])
    print(f"a key of a rate limit: {(gateway.kib() - before) / KEYS:.3f}")
