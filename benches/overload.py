"""Goodput and latency below, at and far above what the service can do, as script/bench-overload runs it. Writes the table
of docs/performance.md.

- Goodput: readings by an open loop at shares of the peak that a closed loop finds. Beside both of them other devices send
  heartbeats at a tenth of what a closed loop finds alone.
- Recovery: other devices send readings at 0.8 of the peak, alone for the base p99, and in a second run before, during and
  after a rush of five times the peak. Counted are the seconds from when the last request of the rush was due to the first
  of three whole seconds in a row with a p99 of at most 1.2 times the base. What the rush has left behind is answered
  within them. The p99 is of what was answered well, so the seconds to as large a share of good answers as in the base,
  less 0.01, are counted beside it.
- The memory of idle connections.
- A refused request: (CPU of the replica in a rush - good answers × its CPU for one without a rush) ÷ answers 503, over
  CPU of replica and database ÷ good answers, in the closed loop of 256 devices without anything beside it. The rush has a service of its own with a
  small limit, 10,000 devices that come again at once, and a database whose commits take a tenth of a second without CPU
  (`commit_delay`), so that good answers are few. One without a rush: the same service and devices at the rate of those
  good answers. Who comes again too early is answered a second later, so there are about 10,000 refusals a second, and
  cores that are not busy: each may wake a thread, which at the peak many requests share."""
import json
import math
import os
import sys
import time
from pathlib import Path

from service import OTHERS_DIR, Database, Service, all_files, cpu_us, median, plain, spread, write_between

PROGRAM, DIR, PORT, PAGE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
IDLE = 10_000
DEVICES, SECONDS, WARM_UP, ROUNDS = 4_096, 20, 8, int(os.environ.get("EVERBEAT_ROUNDS", "5"))
FEW = 256
# Of the rush that devices of their own see begin and end, and how long they are watched after it.
OTHERS, RUSH, AFTER = 2_048, 12, 20
# Room for the generator's eight devices that enroll or log in at a time, and for few readings.
SMALL_LIMIT = 40


def quantile(figures, name="p99"):
    """Milliseconds; endless where nobody was answered well."""
    return dict(figures["latency_us"]).get(name, math.inf) / 1000


def success(figures):
    return figures["good"] / max(figures["due"], 1)


def refused(result):
    return dict(result["all"]["ends"]).get("503", 0)


def must_refuse(share, result):
    """No figure where the generator held back what the service should have refused."""
    due, ends = result["all"]["due"], dict(result["all"]["ends"])
    if not refused(result) or ends.get("not sent", 0) > 0.01 * due:
        raise SystemExit(f"at {share} of the peak the generator held back what the service should have refused: {ends}")


def phases(service):
    """The figures of one round."""

    def beside(name, *mode, devices):
        # Until after the readings have ended: those take longer to connect.
        beats, out = service.start("beats", "heartbeat", SECONDS + 5, "--rate", rate, devices=64, warm_up=WARM_UP, among=OTHERS_DIR)
        readings = service.run(name, "reading", SECONDS, *mode, devices=devices, warm_up=WARM_UP)
        return readings, service.result(beats, out)["all"]

    def closed(devices):
        return beside("peak", "--closed", devices=devices)[0]

    alone = service.run("alone", "reading", SECONDS, "--closed", devices=FEW, warm_up=WARM_UP)
    rate = f"{max(alone['good_per_second'] / 10, 1):.0f}"
    first = {devices: closed(devices) for devices in (FEW, DEVICES)}
    peak, best = max((result["good_per_second"], devices) for devices, result in first.items())
    peaks, rows, goodput = [peak], {}, {}
    for share in (0.8, 2.0, 5.0):
        readings, beats = beside(f"x{round(share * 10)}", "--rate", f"{peak * share:.0f}", devices=DEVICES)
        rows[share] = (readings["all"], beats)
        if share > 1:
            must_refuse(share, readings)
        # A machine is not equally fast for minutes: the peak is that of just before and just after.
        before, peak = peak, closed(best)["good_per_second"]
        peaks.append(peak)
        goodput[share] = readings["good_per_second"] / ((before + peak) / 2)
    base = quantile(rows[0.8][0])
    return {
        f"readings per second of {FEW} devices alone": alone["good_per_second"],
        "peak": median(peaks),
        f"peak of {FEW} devices": first[FEW]["good_per_second"],
        f"peak of {DEVICES:,} devices": first[DEVICES]["good_per_second"],
        "p99 at 0.8, ms": base,
        "goodput at 2 ÷ peak": goodput[2.0],
        "goodput at 5 ÷ peak": goodput[5.0],
        "heartbeats answered well at 2": success(rows[2.0][1]),
        "heartbeats answered well at 5": success(rows[5.0][1]),
        "accepted p99 at 2 ÷ at 0.8": quantile(rows[2.0][0]) / max(base, 0.001),
        **recovery(service, peak),
        SERVED: cpu_us(alone, "server", "database") / alone["all"]["good"],
    }


def recovery(service, peak):
    """How long after a rush the others are served as without it."""
    rate, mode = f"{peak * 0.8:.0f}", {"devices": OTHERS, "warm_up": WARM_UP, "among": OTHERS_DIR}
    alone = service.run("alone", "reading", SECONDS, "--rate", rate, **mode)["all"]
    base, share = quantile(alone), success(alone)
    # It is ended below: how long the rush takes to connect is not known.
    steady, steady_out = service.start("steady", "reading", 600, "--rate", rate, **mode)
    begun = service.begun(steady, steady_out)
    time.sleep(WARM_UP)
    rush, rush_out = service.start("rush", "reading", RUSH, "--rate", f"{peak * 5:.0f}", devices=DEVICES, warm_up=1)
    end = service.begun(rush, rush_out) + RUSH - begun
    time.sleep(max(begun + end + AFTER + 1 - time.monotonic(), 0))
    steady.terminate()
    seconds = service.result(steady, steady_out)["seconds"]
    must_refuse(5.0, service.result(rush, rush_out))

    def until(is_back):
        first = math.ceil(end)
        series = [is_back(second) for second in seconds[first : first + AFTER]]
        # When a load began is read from its log: a tenth of a second is what can be told.
        back = (round(first + n - end, 1) for n in range(len(series) - 2) if all(series[n : n + 3]))
        return next(back, math.inf)

    return {
        "base p99 of the recovery, ms": base,
        "seconds to 1.2 × base p99": until(lambda second: quantile(second) <= 1.2 * base),
        "seconds to the base's share of good answers": until(lambda second: success(second) >= share - 0.01),
    }


def at_the_door():
    """Of a service with a small limit and very many devices: memory for each that is connected and idle, in KiB, and the
    replica's CPU for each refused request, in microseconds, round by round."""
    limit = {f"ADMISSION__LIMIT_{which}": SMALL_LIMIT for which in ("MIN", "MAX", "INITIAL")}
    service = Service(PROGRAM, DIR, "door", PORT + 20, **limit)
    try:
        kib = idle(service)
        Database(service).set(commit_delay=100_000, commit_siblings=0)
        return kib, [refusal(service) for _ in range(ROUNDS)]
    finally:
        service.stop()


def idle(service):
    """Memory of a replica for each of many connections that are open and do nothing, in KiB, with all else that it has by
    then and had not at its start: what it remembers of the devices, and of how they were enrolled."""
    before = service.resident_kib()
    process, out = service.start("idle", "heartbeat", 60, "--rate", str(IDLE // 50), devices=IDLE)
    most, opened = 0, 0
    while process.poll() is None:
        most = max(most, service.resident_kib())
        opened = max(opened, len(os.listdir(f"/proc/{service.replica}/fd")))
        time.sleep(0.5)
    service.result(process, out)
    if opened < IDLE:
        raise SystemExit(f"only {opened} files were open at once")
    return (most - before) / IDLE


def refusal(service):
    mode = {"devices": IDLE, "warm_up": WARM_UP}
    full = service.run("full", "reading", SECONDS, "--closed", "--stubborn", **mode)
    calm = service.run("calm", "reading", SECONDS, "--rate", f"{max(full['good_per_second'], 1):.0f}", **mode)
    good = cpu_us(calm, "server") / max(calm["all"]["good"], 1)
    cost = (cpu_us(full, "server") - full["all"]["good"] * good) / max(refused(full), 1)
    print(f"a refused request: {cost:.1f} µs; in the rush {full['all']['ends']}, without {calm['all']['ends']}", flush=True)
    if refused(full) < 5 * full["all"]["good"]:
        raise SystemExit("too few were refused to say what that costs")
    return cost


SERVED = f"CPU of a served request, replica and database, {FEW} devices alone, µs"
REFUSED = "CPU of a refused request, replica, µs"
SHED = "CPU of a refused request ÷ of a served one"
IDLE_KIB = f"KiB for an idle connection ({IDLE:,} of them)"
GOALS = {
    "goodput at 2 ÷ peak": (0.90, True),
    "goodput at 5 ÷ peak": (0.75, True),
    "heartbeats answered well at 2": (0.999, True),
    "accepted p99 at 2 ÷ at 0.8": (2, False),
    "seconds to 1.2 × base p99": (5, False),
    SHED: (0.10, False),
    IDLE_KIB: (40, False),
}


def main():
    DIR.mkdir(parents=True, exist_ok=True)
    all_files()
    service, rounds = Service(PROGRAM, DIR, "overload", PORT), []
    try:
        service.enroll(DEVICES, OTHERS)
        for n in range(ROUNDS):
            one = phases(service)
            rounds.append(one)
            print(f"round {n + 1}:", json.dumps({key: round(value, 3) for key, value in one.items()}, ensure_ascii=False), flush=True)
    finally:
        service.stop()
    rounds[0][IDLE_KIB], costs = at_the_door()
    for one, cost in zip(rounds, costs):
        one[REFUSED], one[SHED] = cost, cost / one[SERVED]
    lines = ["| | median | least to most | goal |", "|---|---|---|---|"]
    for key in rounds[0]:
        values = [one[key] for one in rounds if key in one]
        goal, met = "", True
        if key in GOALS:
            bound, at_least = GOALS[key]
            met = median(values) >= bound if at_least else median(values) <= bound
            goal = f"{'≥' if at_least else '≤'} {bound}" + ("" if met else ", missed")
        lines.append(f"| {key} | {plain(median(values))} | {spread(values)} | {goal} |")
    date = time.strftime("%Y-%m-%d")
    about = f"{date}, {os.cpu_count()} cores for everything, {DEVICES:,} devices, medians of {ROUNDS}; of each run {SECONDS - WARM_UP} s after {WARM_UP} s.\n\n"
    table = about + "\n".join(lines) + "\n"
    print("\n" + table)
    write_between(PAGE, "bench-overload", table)


main()
