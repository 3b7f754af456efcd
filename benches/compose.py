"""Durable single readings on the compose deployment, beside pgbench's one-row INSERT on the same primary with its
synchronous standby, in turns, as script/bench-compose runs it. Writes the table of docs/performance.md."""
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from service import all_files, median, write_between

PROGRAM, DIR, PAGE = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
DEVICES, CLIENTS, SECONDS, WARM_UP, ROUNDS = 512, 16, 15, 5, int(os.environ.get("EVERBEAT_ROUNDS", "5"))
VALUES = '{"temperature": 21.5, "humidity": 40.25, "pressure": 1013, "door": false, "mode": "auto"}'
INSERT = f"""insert into readings (device_id, ts, digest, content, "values")
values (gen_random_uuid(), clock_timestamp(), (random() * 9e18)::bigint, 1, '{VALUES}');
""".replace("\n", " ", 1)
GOAL = 4


def output(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout.strip()


def compose(*arguments):
    return output("./script/compose", *arguments)


def primary():
    """The container of the primary, and how many synchronous standbys it has."""
    question = "select not pg_is_in_recovery(), (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum'))"
    for node in ("pg1", "pg2", "pg3"):
        container = compose("ps", "-q", node)
        answer = output("docker", "exec", container, "psql", "-X", "-h", "/run/postgresql", "-U", "postgres", "-Atc", question)
        is_primary, standbys = answer.split("|")
        if is_primary == "t":
            return container, int(standbys)
    raise SystemExit("no primary answers")


def inserts(container):
    """Transactions per second."""
    command = ["docker", "exec", "-i", container, "pgbench", "-h", "/run/postgresql", "-U", "postgres", "--no-vacuum"]
    command += ["--protocol=prepared", "--jobs=2", f"--client={CLIENTS}", f"--time={SECONDS - WARM_UP}", "--file=-", "everbeat"]
    return float(re.search(r"^tps = ([0-9.]+)", output(*command, input=INSERT), re.M)[1])


def readings():
    """Acknowledged per second."""
    place = Path(".everbeat/compose")
    command = [PROGRAM, "bench", "--work", "reading", "--closed", "--devices", DEVICES, "--seconds", SECONDS]
    command += ["--warm-up", WARM_UP, "--out", DIR / "readings", "--devices-dir", DIR / "devices"]
    command += ["--ca", place / "ca.pem", "--token-file", place / "token"]
    for way in ("lb1", "lb2"):
        command += ["--url", f"https://localhost:{compose('port', way, '8443').split(':')[1]}"]
        command += ["--admin-url", f"https://localhost:{compose('port', way, '9443').split(':')[1]}"]
    output(*map(str, command))
    result = json.loads((DIR / "readings.json").read_text())
    if result["all"]["good"] < 0.99 * result["all"]["due"]:
        raise SystemExit(f"of {result['all']['due']} only {result['all']['good']} were answered well: {result['all']['ends']}")
    return result["good_per_second"]


def main():
    DIR.mkdir(parents=True, exist_ok=True)
    all_files()
    container, standbys = primary()
    if standbys < 1:
        raise SystemExit("the primary has no synchronous standby")
    rounds = []
    for n in range(ROUNDS):
        rounds.append((readings(), inserts(container)))
        print(f"round {n + 1}: {rounds[-1][0]:.0f} readings/s, {rounds[-1][1]:.0f} INSERT/s", flush=True)
    if primary() != (container, standbys):
        raise SystemExit("the primary or its standbys changed meanwhile")
    ratios = [ours / theirs for ours, theirs in rounds]
    met = "" if median(ratios) >= GOAL else ", missed"
    about = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores for everything, {DEVICES} devices, {CLIENTS} clients of pgbench, medians of {ROUNDS} rounds of {SECONDS - WARM_UP} s.\n\n"
    rows = [
        ("single readings per second, three replicas behind two load balancers", [ours for ours, _ in rounds], 0, ""),
        ("pgbench: INSERT of one row per second, in the primary's container", [theirs for _, theirs in rounds], 0, ""),
        ("single readings ÷ pgbench: INSERT, in the deployment, round by round", ratios, 2, f"≥ {GOAL}{met}"),
    ]
    table = "| | median | least to most | goal |\n|---|---|---|---|\n"
    for name, values, digits, goal in rows:
        table += f"| {name} | {median(values):.{digits}f} | {min(values):.{digits}f} to {max(values):.{digits}f} | {goal} |\n"
    print("\n" + about + table)
    write_between(PAGE, "bench-compose", about + table)


main()
