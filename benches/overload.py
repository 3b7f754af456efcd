"""Goodput and latency below, at and far above what the service can do, as script/bench-overload runs it: readings by an
open loop at shares of the peak that a closed loop finds, and beside them heartbeats at a tenth of it. Also what a refused
request costs. Writes the table of docs/performance.md."""
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROGRAM, DIR, PORT, PAGE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
IDLE = 10_000
DEVICES, SECONDS, WARM_UP, ROUNDS = 256, 15, 5, int(os.environ.get("EVERBEAT_ROUNDS", "3"))
BEGIN, END = "<!-- begin: written by ./script/bench-overload -->\n", "<!-- end: written by ./script/bench-overload -->\n"


class Service:
    """One replica and its database, from `everbeat dev`."""

    def __init__(self, name, port, **settings):
        self.place, self.port, self.log = DIR / name, port, DIR / f"{name}.log"
        shutil.rmtree(self.place, ignore_errors=True)
        env = os.environ | {"EVERBEAT__ADMISSION__DEVICE_REQUESTS_PER_S": "0", "EVERBEAT__LOG__FILTER": "warn"}
        env |= {f"EVERBEAT__{key}": str(value) for key, value in settings.items()}
        command = [PROGRAM, "dev", "--dir", self.place, "--devices", "0", "--replicas", "1"]
        ports = ["--device-port", port, "--admin-port", port + 1, "--ops-port", port + 2]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*map(str, command + ports)], env=env, stdout=log, stderr=log)
        for _ in range(240):
            if "Everbeat runs" in self.log.read_text():
                break
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
            time.sleep(0.5)
        else:
            raise SystemExit(self.log.read_text())
        self.replica, self.database = self.children()

    def children(self):
        replica = database = None
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
        database = pid_file.read_text().splitlines()[0]
        return replica, database

    def start(self, name, work, seconds, *mode, devices=DEVICES):
        out = DIR / name
        command = [PROGRAM, "bench", "--work", work, *mode, "--devices", devices, "--seconds", seconds]
        command += ["--warm-up", WARM_UP, "--out", out, "--url", f"https://localhost:{self.port}"]
        command += ["--admin-url", f"https://localhost:{self.port + 1}", "--ca", self.place / "pki/ca.pem"]
        command += ["--token-file", self.place / "admin-token", "--devices-dir", self.place / "bench-devices"]
        command += ["--cpu", f"server={self.replica}", "--cpu", f"database={self.database}"]
        with open(out.with_suffix(".log"), "w") as log:
            return subprocess.Popen([*map(str, command)], stdout=log, stderr=log), out

    def run(self, name, work, seconds, *mode, **more):
        process, out = self.start(name, work, seconds, *mode, **more)
        return self.result(process, out)

    @staticmethod
    def result(process, out):
        if process.wait() != 0:
            raise SystemExit(f"everbeat bench failed: {out.with_suffix('.log').read_text()[-2000:]}")
        return json.loads(out.with_suffix(".json").read_text())

    def stop(self):
        self.process.terminate()
        self.process.wait()


def quantile(figures, name="p99"):
    return dict(figures["latency_us"]).get(name, 0) / 1000


def success(result):
    return result["all"]["good"] / max(result["all"]["due"], 1)


def cpu(result):
    return sum(one["seconds"] for one in result["cpu"]) * 1e6


def median(values):
    return sorted(values)[len(values) // 2]


def phases(service):
    """The figures of one round."""
    peak = service.run("peak", "reading", SECONDS, "--closed")["good_per_second"]
    heartbeat_rate = max(peak / 10, 1)
    rows = {}
    for share in (0.8, 2.0, 5.0):
        beats, beats_out = service.start("beats", "heartbeat", SECONDS, "--rate", f"{heartbeat_rate:.0f}", devices=64)
        readings = service.run(f"x{round(share * 10)}", "reading", SECONDS, "--rate", f"{peak * share:.0f}")
        rows[share] = (readings, service.result(beats, beats_out))
    base = quantile(rows[0.8][0]["all"])
    after = service.run("after", "reading", SECONDS, "--rate", f"{peak * 0.8:.0f}")
    seconds = [quantile(second) for second in after["seconds"][:SECONDS]]
    back = next((n for n in range(len(seconds)) if all(p <= 1.2 * base for p in seconds[n : n + 3])), None)
    return {
        "peak": peak,
        "base p99 ms": base,
        "goodput at 2 ÷ peak": rows[2.0][0]["good_per_second"] / peak,
        "goodput at 5 ÷ peak": rows[5.0][0]["good_per_second"] / peak,
        "heartbeats answered well at 2": success(rows[2.0][1]),
        "heartbeats answered well at 5": success(rows[5.0][1]),
        "accepted p99 at 2 ÷ at 0.8": quantile(rows[2.0][0]["all"]) / max(base, 0.001),
        "seconds to 1.2 × base p99": SECONDS if back is None else back,
    }


def refusal(service, tight):
    """CPU of server and database for a refused request, by that of a served one."""
    served = service.run("served", "reading", SECONDS, "--closed")
    each = cpu(served) / served["all"]["good"]
    shed = tight.run("shed", "reading", SECONDS, "--closed")
    refused = shed["all"]["due"] - shed["all"]["good"]
    return (cpu(shed) - each * shed["all"]["good"]) / max(refused, 1) / each


def idle(service):
    """Memory of the replica for each of many connections that are open and do nothing, in KiB. Each has called once: what
    the replica remembers of its device is in it, too."""
    def resident():
        return int((Path("/proc") / service.replica / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024

    # Everybody is enrolled by the first run, whose connections end with it.
    service.run("enroll", "heartbeat", WARM_UP + 2, "--rate", "10", devices=IDLE)
    before = resident()
    process, out = service.start("idle", "heartbeat", 55, "--rate", str(IDLE // 50), devices=IDLE)
    most, opened = 0, 0
    while process.poll() is None:
        most = max(most, resident())
        opened = max(opened, len(os.listdir(f"/proc/{service.replica}/fd")))
        time.sleep(0.5)
    service.result(process, out)
    if opened < IDLE:
        raise SystemExit(f"only {opened} files were open at once")
    return (most - before) / IDLE


GOALS = {
    "goodput at 2 ÷ peak": (0.90, True),
    "goodput at 5 ÷ peak": (0.75, True),
    "heartbeats answered well at 2": (0.999, True),
    "accepted p99 at 2 ÷ at 0.8": (2, False),
    "seconds to 1.2 × base p99": (5, False),
    "CPU of a refused request ÷ of a served one": (0.10, False),
    "KiB for an idle connection (10,000 of them)": (40, False),
}


def main():
    DIR.mkdir(parents=True, exist_ok=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    service, tight, rounds = None, None, []
    try:
        service = Service("overload", PORT)
        tight = Service("tight", PORT + 10, ADMISSION__LIMIT_MIN=20, ADMISSION__LIMIT_MAX=20, ADMISSION__LIMIT_INITIAL=20)
        for n in range(ROUNDS):
            one = phases(service)
            one["CPU of a refused request ÷ of a served one"] = refusal(service, tight)
            if n == 0:
                one["KiB for an idle connection (10,000 of them)"] = idle(service)
            rounds.append(one)
            print(f"round {n + 1}:", json.dumps({key: round(value, 3) for key, value in one.items()}, ensure_ascii=False))
    finally:
        for each in (service, tight):
            if each is not None:
                each.stop()
    lines = ["| | median | least to most | goal |", "|---|---|---|---|"]
    for key in rounds[0]:
        values = [one[key] for one in rounds if key in one]
        goal, met = "", True
        if key in GOALS:
            bound, at_least = GOALS[key]
            met = median(values) >= bound if at_least else median(values) <= bound
            goal = f"{'≥' if at_least else '≤'} {bound}" + ("" if met else ", missed")
        lines.append(f"| {key} | {median(values):.3g} | {min(values):.3g} to {max(values):.3g} | {goal} |")
    date = time.strftime("%Y-%m-%d")
    about = f"{date}, {os.cpu_count()} cores for everything, {DEVICES} devices, medians of {ROUNDS} rounds of {SECONDS} s.\n\n"
    table = about + "\n".join(lines) + "\n"
    print("\n" + table)
    page = PAGE.read_text()
    head, rest = page.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    PAGE.write_text(head + BEGIN + table + END + tail)


main()
