"""Honest devices beside enemies, as script/hostile runs it: heartbeats, readings and new connections by an open loop, alone
and then with enemies of every kind on the same listener, each bounded in number. Writes the table of docs/security.md."""
import collections
import gzip
import json
import math
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
from pathlib import Path

from service import Service, all_files, write_between

DEVICES, RATE, STORM_DEVICES, STORM_RATE, WARM_UP = 256, 300, 64, 20, 5
# Longer than any deadline of the service that ends what an enemy leaves undone.
PATIENCE = 20
TOKEN_FRESH = 120
GOALS = {"answered well": (0.999, True), "grown by MiB": (128, False)}


def frame(kind, flags, stream, payload=b""):
    """HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name, value):
    """HPACK, not indexed, not Huffman (RFC 7541, 6.2.2); both shorter than 127 bytes."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


GET = b"".join(field(*pair) for pair in ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/v1/me")))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


class Enemies:
    """Threads that attack until they are told to stop. `identity`: the directory of a device whose keys they have."""

    def __init__(self, port, ca, identity):
        self.address, self.over = ("127.0.0.1", port), threading.Event()
        self.stranger = self.context(ca)
        self.thief = self.context(ca)
        self.thief.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
        self.http2 = self.context(ca, "h2")
        self.http2.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
        self.done, self.lock = collections.Counter(), threading.Lock()
        self.bomb = gzip.compress(b" " * (64 << 20))
        # What each does, how many do it at once, and the pause after each time.
        self.kinds = [
            ("silent connections", self.silent, 100, 0),
            ("handshakes that stop after the hello", self.mute, 50, 0),
            ("bytes that are no TLS", self.garbage, 4, 0.05),
            ("connections that are reset", self.reset, 4, 0.05),
            ("strangers that ask and go", self.ask, 4, 0.05),
            ("headers, a byte at a time", self.slow_headers, 20, 0.5),
            ("bodies, a byte at a time", self.slow_body, 20, 0),
            ("bodies of strangers that do not come", self.slow_enrollment, 30, 0),
            ("header sections of a megabyte", self.big_headers, 2, 0.1),
            ("two framings of one body", self.smuggle, 2, 0.05),
            ("forged tokens", self.tokens, 2, 0.02),
            ("gzip bombs, and 500,000 brackets", self.bodies, 2, 0.1),
            ("HTTP/2: a thousand requests, each cancelled", self.rapid_reset, 2, 0.1),
            ("HTTP/2: header sections without an end", self.continuations, 1, 0.1),
            ("HTTP/2: ten thousand pings", self.pings, 1, 0.1),
            ("HTTP/2: windows that never open", self.windows, 2, 0.1),
        ]
        self.threads = []

    @staticmethod
    def context(ca, *alpn):
        context = ssl.create_default_context(cafile=str(ca))
        context.set_alpn_protocols(list(alpn) or ["http/1.1"])
        return context

    def start(self):
        self.token = self.stolen_token()
        for name, attack, count, pause in self.kinds:
            self.threads += [threading.Thread(target=self.run, args=(name, attack, pause), daemon=True) for _ in range(count)]
        self.threads.append(threading.Thread(target=self.stay_known, daemon=True))
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def run(self, name, attack, pause):
        while not self.over.is_set():
            try:
                attack()
            except OSError:
                pass  # It was cut off: that is what it came for. (ssl.SSLError is one, too.)
            with self.lock:
                self.done[name] += 1
            self.over.wait(pause * random.uniform(0.5, 1.5))

    def tcp(self):
        return socket.create_connection(self.address, PATIENCE)

    def tls(self, context):
        return context.wrap_socket(self.tcp(), server_hostname="localhost")

    def drip(self, stream, byte):
        while not self.over.wait(1):
            stream.sendall(byte)

    def post(self, path, headers, body=b""):
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}", *headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def stolen_token(self):
        with self.tls(self.thief) as stream:
            stream.sendall(b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return json.loads(b"".join(iter(lambda: stream.recv(65536), b"")).split(b"\r\n\r\n", 1)[1])["access_token"]

    def stay_known(self):
        """A token lives for ten minutes, and an attack without one ends at the door."""
        while not self.over.wait(TOKEN_FRESH):
            try:
                self.token = self.stolen_token()
            except (OSError, KeyError, IndexError, ValueError):
                pass  # Refused, since its device is too busy: next time.

    def silent(self):
        with self.tcp() as stream:
            stream.recv(1)

    def mute(self):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self.stranger.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        except ssl.SSLWantReadError:
            pass
        with self.tcp() as stream:
            stream.sendall(outgoing.read())
            while stream.recv(65536):
                pass

    def garbage(self):
        with self.tcp() as stream:
            stream.sendall(random.choice((b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff")) + random.randbytes(2000))
            stream.recv(1)

    def reset(self):
        with self.tls(self.stranger) as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def ask(self):
        with self.tls(self.stranger) as stream:
            stream.sendall(b"GET /v1/me HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            while stream.recv(65536):
                pass

    def slow_headers(self):
        with self.tls(self.stranger) as stream:
            stream.sendall(b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nX: ")
            self.drip(stream, b"y")

    def slow_body(self):
        with self.tls(self.thief) as stream:
            stream.sendall(self.post("/v1/readings", ["Content-Type: application/json", "Content-Length: 60000"]))
            self.drip(stream, b" ")

    def slow_enrollment(self):
        with self.tls(self.stranger) as stream:
            stream.sendall(b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n")
            self.drip(stream, b" ")

    def big_headers(self):
        with self.tls(self.thief) as stream:
            stream.sendall(b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 20))
            stream.recv(65536)

    def smuggle(self):
        with self.tls(self.thief) as stream:
            both = ["Content-Length: 6", "Transfer-Encoding: chunked"]
            stream.sendall(self.post("/v1/heartbeat", both, b"0\r\n\r\nGET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n"))
            while stream.recv(65536):
                pass

    def tokens(self):
        with self.tls(self.thief) as stream:
            for _ in range(100):
                forged = self.token[:-20] + "".join(random.choices("abcdefgh", k=20))
                stream.sendall(f"GET /v1/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {forged}\r\n\r\n".encode())
                stream.recv(65536)
                if self.over.wait(0.005):
                    break

    def bodies(self):
        for encoding, body in (("gzip", self.bomb), ("identity", b"[" * 500_000)):
            with self.tls(self.thief) as stream:
                headers = ["Content-Type: application/json", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}"]
                stream.sendall(self.post("/v1/readings", headers, body))
                stream.recv(65536)

    def frames(self, payload):
        """Sends what it can, and waits for the end."""
        with self.tls(self.http2) as stream:
            stream.sendall(PREFACE + payload)
            while not self.over.is_set() and stream.recv(65536):
                pass

    def rapid_reset(self):
        cancel = struct.pack(">I", 8)
        self.frames(b"".join(frame(1, 5, n, GET) + frame(3, 0, n, cancel) for n in range(1, 2000, 2)))

    def continuations(self):
        self.frames(frame(1, 1, 1, GET) + frame(9, 0, 1, field(b"x", b"y" * 100) * 100) * 100)

    def pings(self):
        with self.tls(self.http2) as stream:
            stream.sendall(PREFACE)
            for _ in range(100):
                stream.sendall(frame(6, 0, 0, b"12345678") * 100)
                stream.recv(65536)

    def windows(self):
        with self.tls(self.http2) as stream:
            stream.sendall(PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 0)))
            stream.sendall(b"".join(frame(1, 5, n, GET.replace(b"\x06/v1/me", b"\x0d/openapi.json")) for n in range(1, 65, 2)))
            stream.settimeout(2)
            while not self.over.is_set() and stream.recv(65536):
                pass


def honest(service, name, seconds, meanwhile=lambda: None):
    """The figures of the honest load, and the most memory that the replica had meanwhile, in MiB."""
    mix, mix_out = service.start(name, "mix", seconds, "--rate", RATE, devices=DEVICES, warm_up=WARM_UP)
    storm, storm_out = service.start(f"{name}-new", "storm", seconds, "--rate", STORM_RATE, devices=STORM_DEVICES, warm_up=WARM_UP)
    meanwhile()
    most = 0
    while mix.poll() is None or storm.poll() is None:
        most = max(most, service.resident_kib() / 1024)
        time.sleep(0.5)
    return service.result(mix, mix_out), service.result(storm, storm_out), most


def main():
    program, directory, port, page = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    seconds = max(int(float(os.environ.get("EVERBEAT_HOSTILE_MIN", "10")) * 60), 2 * WARM_UP)
    directory.mkdir(parents=True, exist_ok=True)
    all_files()
    service = Service(program, directory, "hostile", port, ADMISSION__DEVICE_REQUESTS_PER_S=100)
    try:
        # The last device is the enemies'.
        service.run("enroll", "heartbeat", 2, "--rate", "10", devices=DEVICES + 1, warm_up=1)
        identity = sorted((service.place / "bench-devices").glob("*/current"))[-1]
        enemies = Enemies(port, service.place / "pki/ca.pem", identity)
        before = service.resident_kib() / 1024
        alone = honest(service, "alone", seconds)
        beside = honest(service, "beside", seconds, enemies.start)
        enemies.stop()
        after = service.resident_kib() / 1024
        open_after = len(os.listdir(f"/proc/{service.replica}/fd"))
    finally:
        service.stop()
    table = report(seconds, alone, beside, (before, after, open_after), enemies.done)
    print("\n" + table)
    write_between(page, "hostile", table)
    if "missed" in table:
        sys.exit("a goal was missed")


def report(seconds, alone, beside, replica, done):
    def quantile(result, name):
        return dict(result["all"]["latency_us"]).get(name, math.inf) / 1000

    def good(*results):
        return sum(one["all"]["good"] for one in results) / max(sum(one["all"]["due"] for one in results), 1)

    before, after, open_after = replica
    rows = [("answered well", good(*alone[:2]), good(*beside[:2]))]
    for name, index in (("heartbeats and readings", 0), ("a new connection and a heartbeat", 1)):
        rows += [(f"{name}, {p} ms", quantile(alone[index], p), quantile(beside[index], p)) for p in ("p50", "p99")]
    rows += [("most memory of the replica, MiB", alone[2], beside[2]), ("grown by MiB", alone[2] - before, beside[2] - alone[2])]
    lines = ["| | alone | beside the enemies | goal |", "|---|---|---|---|"]
    for name, first, second in rows:
        goal = ""
        if name in GOALS:
            bound, at_least = GOALS[name]
            met = second >= bound if at_least else second <= bound
            goal = f"{'≥' if at_least else '≤'} {bound}" + ("" if met else ", missed")
        lines.append(f"| {name} | {first:.4g} | {second:.4g} | {goal} |")
    about = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores for everything, {seconds} s each: {RATE} heartbeats and readings a second from {DEVICES} devices, and {STORM_RATE} new connections a second.\n\n"
    ends = f"\nAfterwards the replica had {after:.0f} MiB and {open_after} open files.\n\n"
    counts = "\n".join(["| the enemies | times |", "|---|---|", *(f"| {name} | {count} |" for name, count in sorted(done.items()))])
    return about + "\n".join(lines) + "\n" + ends + counts + "\n"


main()
