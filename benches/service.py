"""One replica and its database from `everbeat dev`, load from `everbeat bench`, and tables that go to a page of docs/:
what overload.py, costs.py and compose.py share."""
import json
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path

DEVICES_DIR, OTHERS_DIR = "bench-devices", "other-devices"


class Service:
    """One replica and its database, as processes. `settings`: beside the configuration, with two underscores for each dot."""

    def __init__(self, program, directory, name, port, **settings):
        self.program, self.directory = program, directory
        self.place, self.port, self.log = directory / name, port, directory / f"{name}.log"
        shutil.rmtree(self.place, ignore_errors=True)
        env = os.environ | {"EVERBEAT__ADMISSION__DEVICE_REQUESTS_PER_S": "0", "EVERBEAT__LOG__FILTER": "warn"}
        env |= {f"EVERBEAT__{key}": str(value) for key, value in settings.items()}
        command = [program, "dev", "--dir", self.place, "--devices", "0", "--replicas", "1", "--quiet"]
        ports = ["--device-port", port, "--admin-port", port + 1, "--ops-port", port + 2]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*map(str, command + ports)], env=env, stdout=log, stderr=log)
        self.loads = []
        deadline = time.monotonic() + 120
        while "Everbeat runs" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise SystemExit(self.log.read_text())
            time.sleep(0.5)
        self.replica, self.postmaster_pid = self.children()
        self.database = self.postmaster_pid.read_text().splitlines()[0]

    def children(self):
        replica = None
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((process / "stat").read_text().rsplit(") ", 1)[1].split()[1])
                command = (process / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue
            if parent == self.process.pid and b"serve" in command:
                replica = process.name
        pid_file = next(iter(self.place.glob("postgres/**/postmaster.pid")), None)
        if pid_file is None:
            pid_file = max(Path("/var/lib/everbeat-dev").glob("*/**/postmaster.pid"), key=lambda f: f.stat().st_mtime)
        return replica, pid_file

    def enroll(self, devices, others=0):
        """Enrolls all devices before anything is measured. The `others` are those after the first `devices`, by another
        directory, since a run of the generator always takes the first of a directory."""
        self.run("enroll", "heartbeat", 2, "--rate", "10", devices=devices + others, warm_up=1)
        place = (self.place / OTHERS_DIR).resolve()
        place.mkdir()
        for n in range(others):
            (place / f"bench-{n:05}").symlink_to(place.parent / DEVICES_DIR / f"bench-{devices + n:05}")

    def start(self, name, work, seconds, *mode, devices, warm_up=5, among=DEVICES_DIR):
        """`everbeat bench` in the background."""
        out = self.directory / name
        command = [self.program, "bench", "--work", work, *mode, "--devices", devices, "--seconds", seconds]
        command += ["--warm-up", warm_up, "--out", out, "--url", f"https://localhost:{self.port}"]
        command += ["--admin-url", f"https://localhost:{self.port + 1}", "--ca", self.place / "pki/ca.pem"]
        command += ["--token-file", self.place / "admin-token", "--devices-dir", self.place / among]
        command += ["--cpu", f"server={self.replica}", "--cpu", f"database={self.database}"]
        with open(out.with_suffix(".log"), "w") as log:
            process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
        self.loads.append(process)
        return process, out

    def run(self, name, work, seconds, *mode, **more):
        process, out = self.start(name, work, seconds, *mode, **more)
        return self.result(process, out)

    @staticmethod
    def begun(process, out):
        """When a load began that `start` has started, by the monotonic clock: its first line comes a second later."""
        log = out.with_suffix(".log")
        while not re.search(r"^ +1 s  good ", log.read_text(), re.M):
            if process.poll() is not None:
                raise SystemExit(f"everbeat bench failed: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - 1

    @staticmethod
    def result(process, out):
        if process.wait() != 0:
            raise SystemExit(f"everbeat bench failed: {out.with_suffix('.log').read_text()[-2000:]}")
        return json.loads(out.with_suffix(".json").read_text())

    def stop(self):
        """Also what is still sending, if something failed."""
        for process in [*self.loads, self.process]:
            if process.poll() is None:
                process.terminate()
            process.wait()

    def resident_kib(self):
        """Memory of the replica that is in RAM."""
        return int((Path("/proc") / self.replica / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


class Database:
    """The owner's session of a service's database."""

    def __init__(self, service):
        self.psql = Path(os.environ["EVERBEAT_PG_BIN"]) / "psql"
        port = service.postmaster_pid.read_text().splitlines()[3]
        self.env = os.environ | {
            "PGHOST": "127.0.0.1",
            "PGPORT": port,
            "PGUSER": "everbeat_owner",
            "PGDATABASE": "everbeat",
            "PGPASSWORD": (service.place / "password-owner").read_text(),
        }

    def numbers(self, sql):
        return [float(number) for number in self.run(sql).split()]

    def run(self, sql):
        command = [self.psql, "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-c", sql]
        return subprocess.run(command, env=self.env, check=True, stdout=subprocess.PIPE, text=True).stdout

    def set(self, **settings):
        for key, value in settings.items():
            self.run(f"alter system set {key} = '{value}'")
        self.run("select pg_reload_conf()")


def all_files():
    """Lets this process and its children open as many files as they may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cpu_us(result, *names):
    """Microseconds of CPU that a run of `everbeat bench` saw used, by the processes named so, or by all."""
    return sum(one["seconds"] for one in result["cpu"] if not names or one["name"] in names) * 1e6


def median(values):
    return statistics.median(values)


def plain(value):
    """A number for people: three digits or all before the point, no exponent. Below one a fourth: 0.9992 is not 1."""
    if math.isinf(value):
        return "never"
    size = abs(value)
    digits = 4 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def spread(values):
    return f"{plain(min(values))} to {plain(max(values))}"


def write_between(page, script, text):
    """Puts `text` between the marks of `script` in a page."""
    begin, end = (f"<!-- {mark}: written by ./script/{script} -->\n" for mark in ("begin", "end"))
    head, rest = page.read_text().split(begin, 1)
    page.write_text(head + begin + text + end + rest.split(end, 1)[1])
