"""What one request costs, in CPU, WAL and storage, and what a million devices cost that say nothing, as script/bench-costs
runs it. Writes the table of docs/capacity.md."""
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from service import Service, all_files, cpu_us, median, write_between

PROGRAM, DIR, PORT, PAGE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
PSQL = Path(os.environ["EVERBEAT_PG_BIN"]) / "psql"
DEVICES, SECONDS, WARM_UP, ROUNDS = 4_096, 25, 8, int(os.environ.get("EVERBEAT_ROUNDS", "3"))
BATCH, CROWD, SWEEPS = 100, 1_000_000, 20
READINGS = "(select coalesce(sum(pg_total_relation_size(relid)), 0) from pg_partition_tree('readings') where isleaf)"


class Database:
    """The owner's session of a service's database."""

    def __init__(self, service):
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
        command = [PSQL, "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-c", sql]
        return subprocess.run(command, env=self.env, check=True, stdout=subprocess.PIPE, text=True).stdout


def written(database):
    """Bytes of WAL so far; bytes and rows of the readings that are stored."""
    return database.numbers(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), {READINGS}, (select count(*) from readings)")


def request(service, database, work, rows):
    """Microseconds of CPU, bytes of WAL for each request (of a batch: for each reading), and bytes of storage for each row.
    No checkpoint is due meanwhile: whole pages in the WAL are those of the first changes after the one before."""
    database.run("checkpoint")
    wal, size, count = written(database)
    # Each device about once in two seconds: more often, and many heartbeats would share one write.
    rate = str(DEVICES // 2 // (1 if rows == 1 else 20))
    result = service.run(work.replace(":", "-"), work, SECONDS, "--rate", rate, devices=DEVICES, warm_up=WARM_UP)
    wal_after, size_after, count_after = written(database)
    # CPU is that after the warm-up, WAL that of the whole run.
    every = sum(second["good"] for second in result["seconds"]) * rows
    return {
        "server": cpu_us(result, "server") / result["all"]["good"] / rows,
        "database": cpu_us(result, "database") / result["all"]["good"] / rows,
        "wal": (wal_after - wal) / every,
        "storage": (size_after - size) / max(count_after - count, 1),
    }


def handshake(service):
    """Microseconds of CPU of the replica for a new connection with one heartbeat."""
    result = service.run("storm", "storm", SECONDS, "--rate", "300", devices=DEVICES, warm_up=WARM_UP)
    return cpu_us(result, "server") / result["all"]["good"]


def sweeps(service):
    """Seconds and number of the sweeps so far."""
    address = f"http://127.0.0.1:{service.port + 2}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    name = "everbeat_jobs_pass_seconds_{}{{duty=\"sweeper\"}}"
    return [float(values.get(name.format(part), 0)) for part in ("sum", "count")]


def crowd(service, database):
    """Milliseconds of a sweep over a million devices that are online and not due, and bytes that each of them takes."""
    tables = "pg_total_relation_size('devices') + pg_total_relation_size('presence')"
    (before,) = database.numbers(f"select {tables}")
    database.run(
        f"""insert into devices (id, fleet_id, name)
            select gen_random_uuid(), (select id from fleets limit 1), 'crowd-' || n from generate_series(1, {CROWD}) n;
            insert into presence (device_id, state, last_seen, promise_ms)
            select id, 1, clock_timestamp(), 86400000 from devices where name like 'crowd-%'"""
    )
    (after,) = database.numbers(f"select {tables}")
    for table in ("devices", "presence", "changes"):
        database.run(f"vacuum (analyze) {table}")
    database.run("checkpoint")
    time.sleep(5)
    seconds, count = sweeps(service)
    while (now := sweeps(service))[1] < count + SWEEPS:
        time.sleep(0.5)
    return (now[0] - seconds) / (now[1] - count) * 1000, (after - before) / CROWD


def needs(cost, sweep_ms, device_bytes):
    """What fleets of three sizes need by these costs: a heartbeat and a reading a minute for each device, the readings one
    by one or in batches. Cores are half busy."""
    lines = ["| devices | readings | requests/s | replicas, cores | PostgreSQL, cores | WAL, MB/s | readings, GB a day | a sweep |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    beat = cost["heartbeat"]
    for devices in (100_000, 1_000_000, 10_000_000):
        for name, work, size in (("one by one", "reading", 1), (f"batches of {BATCH}", f"batch:{BATCH}", BATCH)):
            each, rate = cost[work], devices / 60
            cores = {what: 2 * rate * (beat[what] + each[what]) / 1e6 for what in ("server", "database")}
            wal, storage = rate * (beat["wal"] + each["wal"]) / 1e6, rate * each["storage"] * 86_400 / 1e9
            cells = [f"{devices:,}", name, f"{rate + rate / size:,.0f}", *(f"{cores[what]:.2g}" for what in ("server", "database"))]
            cells += [f"{wal:.2g}", f"{storage:,.0f}", f"{sweep_ms * devices / CROWD / 1000:.2g} s"]
            lines.append("| " + " | ".join(cells) + " |")
    rest = f"The rows of the devices themselves: {device_bytes * 1e6 / 1e9:.1f} GB for each million."
    return "\n".join(lines) + "\n\n" + rest + "\n"


def main():
    DIR.mkdir(parents=True, exist_ok=True)
    all_files()
    service = Service(PROGRAM, DIR, "costs", PORT)
    try:
        database = Database(service)
        database.run("alter system set max_wal_size = '8GB'")
        database.run("alter system set checkpoint_timeout = '1h'")
        database.run("select pg_reload_conf()")
        # Everybody is enrolled before anything is counted.
        service.run("enroll", "heartbeat", 2, "--rate", "10", devices=DEVICES, warm_up=1)
        works = {"heartbeat": 1, "reading": 1, f"batch:{BATCH}": BATCH}
        rounds = [{work: request(service, database, work, rows) for work, rows in works.items()} for _ in range(ROUNDS)]
        storms = [handshake(service) for _ in range(ROUNDS)]
        beat = median([one["heartbeat"]["server"] for one in rounds])
        sweep_ms, device_bytes = crowd(service, database)
    finally:
        service.stop()
    lines = ["| | replica, µs of CPU | PostgreSQL, µs of CPU | WAL, bytes | storage, bytes |", "|---|---|---|---|---|"]
    cost = {work: {what: median([one[work][what] for one in rounds]) for what in rounds[0][work]} for work in works}
    names = {"heartbeat": "a heartbeat", "reading": "a single reading (five values)", f"batch:{BATCH}": f"a reading in a batch of {BATCH}"}
    for work, name in names.items():
        cells = [cost[work][what] for what in ("server", "database", "wal", "storage")]
        storage = "–" if work == "heartbeat" else f"{cells[3]:.0f}"
        lines.append(f"| {name} | {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.0f} | {storage} |")
    lines.append(f"| a new connection (TLS 1.3, both sides' certificates) | {median(storms) - beat:.0f} | – | – | – |")
    about = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores for everything, {DEVICES:,} devices that send about once in two seconds (batches: in forty), medians of {ROUNDS}.\n\n"
    more = f"A sweep over {CROWD:,} devices that are online: {sweep_ms:.0f} ms. A device at rest: {device_bytes:.0f} bytes in `devices` and `presence`.\n"
    table = about + "\n".join(lines) + "\n\n" + more
    model = needs(cost, sweep_ms, device_bytes)
    print("\n" + table + "\n" + model)
    write_between(PAGE, "bench-costs", table)
    write_between(PAGE, "bench-costs (model)", model)


main()
