"""Goodput and latency below, at and far above what the service can do, as script/bench-overload runs it: readings by an
open loop at shares of the peak that a closed loop finds, and beside them heartbeats at a tenth of it. Also the memory of
idle connections. Writes the table of docs/performance.md."""
import json
import math
import os
import sys
import time
from pathlib import Path

from service import Service, all_files, median, write_between

PROGRAM, DIR, PORT, PAGE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
IDLE = 10_000
DEVICES, SECONDS, WARM_UP, ROUNDS = 4_096, 20, 8, int(os.environ.get("EVERBEAT_ROUNDS", "3"))


def quantile(figures, name="p99"):
    """Milliseconds; endless where nobody was answered well."""
    return dict(figures["latency_us"]).get(name, math.inf) / 1000


def success(result):
    return result["all"]["good"] / max(result["all"]["due"], 1)


def phases(service):
    """The figures of one round."""
    # Everybody is enrolled before anything is measured.
    service.run("enroll", "heartbeat", 2, "--rate", "10", devices=DEVICES, warm_up=1)
    def closed(devices):
        return service.run("peak", "reading", SECONDS, "--closed", devices=devices, warm_up=WARM_UP)["good_per_second"]

    peak, best = max((closed(devices), devices) for devices in (256, DEVICES))
    peaks, rows, goodput = [peak], {}, {}
    for share in (0.8, 2.0, 5.0):
        # Until after the readings have ended: those take longer to connect.
        rate = f"{max(peak / 10, 1):.0f}"
        beats, beats_out = service.start("beats", "heartbeat", SECONDS + 5, "--rate", rate, devices=64, warm_up=WARM_UP)
        readings = service.run(f"x{round(share * 10)}", "reading", SECONDS, "--rate", f"{peak * share:.0f}", devices=DEVICES, warm_up=WARM_UP)
        rows[share] = (readings, service.result(beats, beats_out))
        # A machine is not equally fast for minutes: the peak is that of just before and just after.
        before, peak = peak, closed(best)
        peaks.append(peak)
        goodput[share] = readings["good_per_second"] / ((before + peak) / 2)
    for share in (2.0, 5.0):
        ends = dict(rows[share][0]["all"]["ends"])
        if not ends.get("503") or ends.get("not sent", 0) > 0.01 * rows[share][0]["all"]["due"]:
            raise SystemExit(f"at {share} of the peak the generator held back what the service should have refused: {ends}")
    base = quantile(rows[0.8][0]["all"])
    after = service.run("after", "reading", SECONDS, "--rate", f"{peak * 0.8:.0f}", devices=DEVICES, warm_up=WARM_UP)
    seconds = [quantile(second) for second in after["seconds"][:SECONDS]]
    back = next((n for n in range(len(seconds)) if all(p <= 1.2 * base for p in seconds[n : n + 3])), None)
    return {
        "peak": median(peaks),
        "base p99 ms": base,
        "goodput at 2 ÷ peak": goodput[2.0],
        "goodput at 5 ÷ peak": goodput[5.0],
        "heartbeats answered well at 2": success(rows[2.0][1]),
        "heartbeats answered well at 5": success(rows[5.0][1]),
        "accepted p99 at 2 ÷ at 0.8": quantile(rows[2.0][0]["all"]) / max(base, 0.001),
        "seconds to 1.2 × base p99": SECONDS if back is None else back,
    }


def idle():
    """Memory of a replica for each of many connections that are open and do nothing, in KiB, with all else that it has by
    then and had not at its start: what it remembers of the devices, and of how they were enrolled."""
    service = Service(PROGRAM, DIR, "idle", PORT + 20)
    try:
        before = service.resident_kib()
        process, out = service.start("idle", "heartbeat", 60, "--rate", str(IDLE // 50), devices=IDLE)
        most, opened = 0, 0
        while process.poll() is None:
            most = max(most, service.resident_kib())
            opened = max(opened, len(os.listdir(f"/proc/{service.replica}/fd")))
            time.sleep(0.5)
        service.result(process, out)
    finally:
        service.stop()
    if opened < IDLE:
        raise SystemExit(f"only {opened} files were open at once")
    return (most - before) / IDLE


GOALS = {
    "goodput at 2 ÷ peak": (0.90, True),
    "goodput at 5 ÷ peak": (0.75, True),
    "heartbeats answered well at 2": (0.999, True),
    "accepted p99 at 2 ÷ at 0.8": (2, False),
    "seconds to 1.2 × base p99": (5, False),
    "KiB for an idle connection (10,000 of them)": (40, False),
}


def main():
    DIR.mkdir(parents=True, exist_ok=True)
    all_files()
    service, rounds = Service(PROGRAM, DIR, "overload", PORT), []
    try:
        for n in range(ROUNDS):
            one = phases(service)
            if n == 0:
                one["KiB for an idle connection (10,000 of them)"] = idle()
            rounds.append(one)
            print(f"round {n + 1}:", json.dumps({key: round(value, 3) for key, value in one.items()}, ensure_ascii=False))
    finally:
        service.stop()
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
    about = f"{date}, {os.cpu_count()} cores for everything, {DEVICES} devices, medians of {ROUNDS} rounds; of each run {SECONDS - WARM_UP} s after {WARM_UP} s.\n\n"
    table = about + "\n".join(lines) + "\n"
    print("\n" + table)
    write_between(PAGE, "bench-overload", table)


main()
