"""What one request costs, in CPU, WAL and storage, and what a million devices cost that say nothing, as script/bench-costs
runs it. Writes the tables of docs/capacity.md."""
import os
import re
import sys
import time
import urllib.request
from pathlib import Path

from service import Database, Service, all_files, cpu_us, median, plain, spread, write_between

PROGRAM, DIR, PORT, PAGE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
DEVICES, SECONDS, WARM_UP, ROUNDS = 4_096, 25, 8, int(os.environ.get("EVERBEAT_ROUNDS", "5"))
BATCH, CROWD, LOOKS = 100, 1_000_000, 5
# Heartbeats before the crowd is there and after it, devices and heartbeats a second: of a small fleet, once a second from
# each; and as many as the crowd itself would send, once a minute from each.
BEATS = ((1_000, 1_000), (DEVICES, CROWD // 60))
READINGS = "(select coalesce(sum(pg_total_relation_size(relid)), 0) from pg_partition_tree('readings') where isleaf)"


def written(database):
    """Bytes of WAL so far; bytes and rows of the readings that are stored."""
    return database.numbers(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), {READINGS}, (select count(*) from readings)")


def busy(result):
    """The share of all cores that server, database and generator had together, in percent."""
    return cpu_us(result) / 1e6 / (os.cpu_count() * result["seconds_measured"]) * 100


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
        "busy": busy(result),
    }


def handshake(service):
    """Microseconds of CPU of the replica for a new connection with one heartbeat."""
    result = service.run("storm", "storm", SECONDS, "--rate", "300", devices=DEVICES, warm_up=WARM_UP)
    return {"server": cpu_us(result, "server") / result["all"]["good"], "busy": busy(result)}


def heartbeat(service, devices, rate):
    """Microseconds of CPU of replica and database for each heartbeat. The leader's looks and sweeps are among them."""
    result = service.run("beats", "heartbeat", SECONDS, "--rate", str(rate), devices=devices, warm_up=WARM_UP)
    return {name: cpu_us(result, name) / result["all"]["good"] for name in ("server", "database")}


def leader(service):
    """Seconds and number of the leader's looks through all of presence so far, and of its sweeps, which include them."""
    address = f"http://127.0.0.1:{service.port + 2}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    names = ("everbeat_jobs_look_seconds_{}", "everbeat_jobs_pass_seconds_{}{{duty=\"sweeper\"}}")
    return [float(values.get(name.format(part), 0)) for name in names for part in ("sum", "count")]


def crowd(service, database):
    """Milliseconds of a look through a million devices that are online and not due, seconds from one look to the next,
    milliseconds of the sweeps in each of them, how late silence is seen, and bytes that each device takes."""
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
    # From the end of a look to that of another: whole times between looks.
    first = leader(service)
    while (began := leader(service))[1] == first[1]:
        time.sleep(0.1)
    since = time.monotonic()
    while (now := leader(service))[1] < began[1] + LOOKS:
        time.sleep(0.1)
    apart = (time.monotonic() - since) / LOOKS
    looked, _, swept, _ = (later - earlier for later, earlier in zip(now, began))
    return looked / LOOKS * 1000, apart, (swept - looked) / LOOKS / apart * 1000, lateness(database), (after - before) / CROWD


def lateness(database):
    """Some of the crowd fall silent, each at a moment of its own: seconds from when each is suspect to when it is called so,
    at most. Who is not found at all says that the looks are worth nothing."""
    some = "device_id in (select id from devices where name ~ '^crowd-[0-9]*0077$')"
    # Due in 30 to 50 seconds, at one and a half times the promise.
    database.run(f"update presence set promise_ms = 20000, last_seen = clock_timestamp() + random() * interval '20 s' where {some}")
    time.sleep(50 + 15)
    found, all_of_them, late = database.numbers(
        f"""select count(*) filter (where state = 2), count(*),
            max(extract(epoch from state_since - last_seen - interval '30 s')) from presence where {some}"""
    )
    if not 0 < found == all_of_them:
        raise SystemExit(f"costs: of {all_of_them:.0f} devices that fell silent among {CROWD:,}, {found:.0f} were found")
    return late


def needs(cost, connection_us, connection_kib, look_ms, device_bytes):
    """What fleets of three sizes need by these costs: a heartbeat and a reading a minute for each device, the readings one
    by one or in batches. Cores are half busy. Of three replicas one restarts, so that a third of the fleet connects again."""
    heads = ["devices", "readings", "requests/s", "replicas, cores", "PostgreSQL, cores", "WAL, MB/s", "readings, GB a day"]
    heads += ["a look, s", "connections, GiB", "a third connects again, core-seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    beat = cost["heartbeat"]
    for devices in (100_000, 1_000_000, 10_000_000):
        for name, work, size in (("one by one", "reading", 1), (f"batches of {BATCH}", f"batch:{BATCH}", BATCH)):
            each, rate = cost[work], devices / 60
            cores = [2 * rate * (beat[what] + each[what]) / 1e6 for what in ("server", "database")]
            wal, storage = rate * (beat["wal"] + each["wal"]) / 1e6, rate * each["storage"] * 86_400 / 1e9
            connections, again = devices * connection_kib / 1024**2, devices / 3 * connection_us / 1e6
            numbers = [rate + rate / size, *cores, wal, storage, look_ms * devices / CROWD / 1000, connections, again]
            lines.append("| " + " | ".join([f"{devices:,}", name, *(two(number) for number in numbers)]) + " |")
    rest = f"The rows of the devices themselves: {device_bytes * 1e6 / 1e9:.1f} GB for each million. A connection: {connection_kib:.0f} KiB, and {two(connection_us)} µs of CPU to begin."
    return "\n".join(lines) + "\n\n" + rest + "\n"


def connection_kib():
    """A connection's memory, with what is remembered of its device, as ./script/bench-overload has measured it."""
    row = re.search(r"^\| KiB for an idle connection[^|]*\| ([0-9.]+) ", (PAGE.parent / "performance.md").read_text(), re.M)
    if not row:
        raise SystemExit("costs: docs/performance.md says nothing of an idle connection; run ./script/bench-overload first")
    return float(row[1])


def two(value):
    """A model is no better than two digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def cell(values):
    """Median, and least to most."""
    return f"{plain(median(values))} ({spread(values)})"


def measure():
    """All figures of the tables, in lists of one for each round."""
    service = Service(PROGRAM, DIR, "costs", PORT)
    try:
        database = Database(service)
        database.set(max_wal_size="8GB", checkpoint_timeout="1h")
        service.enroll(DEVICES)
        rounds = [{work: request(service, database, work, rows) for work, rows in WORKS.items()} for _ in range(ROUNDS)]
        storms = [handshake(service) for _ in range(ROUNDS)]
        without = [[heartbeat(service, *beats) for _ in range(ROUNDS)] for beats in BEATS]
        at_rest = crowd(service, database)
        among = [[heartbeat(service, *beats) for _ in range(ROUNDS)] for beats in BEATS]
    finally:
        service.stop()
    return rounds, storms, without, among, at_rest


WORKS = {"heartbeat": 1, "reading": 1, f"batch:{BATCH}": BATCH}
NAMES = {"heartbeat": "a heartbeat", "reading": "a single reading (five values)", f"batch:{BATCH}": f"a reading in a batch of {BATCH}"}
CROWD_RATIO_MAX = 1.2


def crowded(beats, without, among):
    """What a heartbeat costs with the crowd, over without it. The rounds of the two are apart, so the least is that of the
    most without and the least with it."""
    devices, rate = beats
    before, after = ([sum(one.values()) for one in some] for some in (without, among))
    ratio = median(after) / median(before)
    met = "" if ratio <= CROWD_RATIO_MAX else ", missed"
    extremes = spread([min(after) / max(before), max(after) / min(before)])

    def part(name):
        return " to ".join(plain(median([one[name] for one in some])) for some in (without, among))

    return (
        f"CPU of a heartbeat with {CROWD:,} devices more ÷ without, {rate:,} a second: {plain(ratio)}, {extremes} (goal ≤ {CROWD_RATIO_MAX}{met}). "
        f"From {devices:,} devices; replica {part('server')} µs, PostgreSQL {part('database')} µs, looks and sweeps included.\n"
    )


def main():
    DIR.mkdir(parents=True, exist_ok=True)
    all_files()
    kib = connection_kib()
    rounds, storms, without, among, (look_ms, apart_s, sweep_ms, late_s, device_bytes) = measure()
    heads = ["", "replica, µs of CPU", "PostgreSQL, µs of CPU", "WAL, bytes", "storage, bytes", "all cores busy, %"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for work, name in NAMES.items():
        figures = {what: [one[work][what] for one in rounds] for what in rounds[0][work]}
        cells = [cell(figures[what]) for what in ("server", "database", "wal", "storage", "busy")]
        if work == "heartbeat":
            cells[3] = "–"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cost = {work: {what: median([one[work][what] for one in rounds]) for what in rounds[0][work]} for work in WORKS}
    connections = [storm["server"] - cost["heartbeat"]["server"] for storm in storms]
    lines.append(f"| a new connection (TLS 1.3, both sides' certificates) | {cell(connections)} | – | – | – | {cell([storm['busy'] for storm in storms])} |")
    about = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores for everything, {DEVICES:,} devices that send about once in two seconds (batches: in forty; new connections: in fourteen), medians of {ROUNDS} (least to most). Busy: replica, PostgreSQL and generator.\n\n"
    more = (
        f"A look through {CROWD:,} devices that are online: {look_ms:,.0f} ms, every {apart_s:.1f} s; the sweeps of a second: "
        f"{sweep_ms:.1f} ms; who falls silent among them is seen {late_s:.1f} s late at most. A device at rest: {device_bytes:.0f} bytes in `devices` and `presence`.\n"
    )
    table = about + "\n".join(lines) + "\n\n" + more + "\n" + "\n".join(map(crowded, BEATS, without, among))
    model = needs(cost, median(connections), kib, look_ms, device_bytes)
    print("\n" + table + "\n" + model)
    write_between(PAGE, "bench-costs", table)
    write_between(PAGE, "bench-costs (model)", model)


main()
