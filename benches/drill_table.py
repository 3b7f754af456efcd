"""The worst of all runs of each scenario of the drill, as script/drill-table runs it. Takes the runs of reports into
docs/drill-runs.jsonl, one line each, and writes the table of docs/drill.md from all of them. A run that broke a promise
stays there for good; once what it found is mended, "mended" says by what, and the table no longer counts it. How many
standbys were synchronous stands beside each run: a scenario that was run RUNS_WANTED times as the deployment is now, or
once where no figure has a bound, is judged by these runs alone."""
import json
import sys
from pathlib import Path

from service import write_between

RUNS, PAGE, REPORTS = Path("docs/drill-runs.jsonl"), Path("docs/drill.md"), [Path(name) for name in sys.argv[1:]]
SYNCHRONOUS_NOW, RUNS_WANTED = 2, 5
FIGURES = ["write_gap", "takeover", "leader_after_writes", "error_window", "failed_after_one_retry"]


def taken(report, known):
    """The runs of a report that are not known yet. One is known by its date, scenario and seed."""
    for scenario in report["scenarios"]:
        for run in scenario["runs"]:
            line = {"date": report["date"], "scenario": scenario["name"], "seed": run["seed"]}
            if tuple(line.values()) in known:
                continue
            verdicts = {one["invariant"]: one for one in run["verdicts"]}
            line["synchronous_standbys"] = run["synchronous_standbys"]
            line["broken"] = [name for name, one in verdicts.items() if not one["held"]]
            line["over"] = [one["figure"] for one in run["figure_verdicts"] if not one["held"]]
            line["aborted"] = run["aborted"]
            line["figures"] = run["figures"]["values"]
            line["bounds"] = {one["figure"]: one["bound"] for one in run["figure_verdicts"] if one["bound"] is not None}
            line["readings_judged"] = verdicts["nothing_lost"]["judged"] if "nothing_lost" in verdicts else 0
            yield line


def shown(figure, value):
    """As the drill's own words."""
    if value is None:
        return "–"
    if figure == "failed_after_one_retry":
        return str(value)
    seconds = value / 1e6
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def counted(runs):
    """Those of them that count: as the deployment is now, if there are enough."""
    now = [run for run in runs if run["synchronous_standbys"] == SYNCHRONOUS_NOW]
    return now if len(now) >= (RUNS_WANTED if runs[-1]["bounds"] else 1) else runs


def row(name, runs):
    standbys = sorted({run["synchronous_standbys"] for run in runs})
    cells = [f"`{name}`", str(len(runs)), " or ".join(map(str, standbys))]
    for figure in FIGURES:
        values = [run["figures"][figure] for run in runs if run["figures"].get(figure) is not None]
        bound = runs[-1]["bounds"].get(figure)
        cells.append(shown(figure, max(values, default=None)) + (f" ({shown(figure, bound)})" if bound is not None else ""))
    failed = [run for run in runs if run["broken"] or run["aborted"]]
    over = [run for run in runs if run["over"] and run not in failed]
    words = [f"{len(failed)} failed"] * bool(failed) + [f"{len(over)} over a bound"] * bool(over)
    return "| " + " | ".join([*cells, ", ".join(words) or "pass"]) + " |"


def main():
    runs = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    for report in REPORTS:
        known = {(run["date"], run["scenario"], run["seed"]) for run in runs}
        runs += taken(json.loads(report.read_text()), known)
    RUNS.write_text("".join(json.dumps(run) + "\n" for run in runs))
    mended = [run for run in runs if "mended" in run]
    runs = [run for run in runs if run not in mended]
    scenarios = {}
    for run in runs:
        scenarios.setdefault(run["scenario"], []).append(run)
    scenarios = {name: counted(of_it) for name, of_it in scenarios.items()}
    runs = [run for of_it in scenarios.values() for run in of_it]
    head = ["scenario", "runs", "synchronous standbys", "no write acknowledged", "take-over", "leader after writes", "clients saw errors", "failed after one retry", "result"]
    table = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *(row(name, of_it) for name, of_it in scenarios.items())]
    broken = sum(bool(run["broken"] or run["aborted"]) for run in runs)
    over = sum(bool(run["over"]) for run in runs)
    judged = sum(run["readings_judged"] for run in runs)
    days = sorted({run["date"][:10] for run in runs})
    about = f"{len(runs)} runs of {len(scenarios)} scenarios, {days[0]} to {days[-1]}: the worst of each. "
    about += f"{broken} with a broken promise or without a verdict, {over} with a figure over its bound, and beside them {len(mended)} that found what is mended now. "
    about += f"{judged:,} acknowledged readings were looked for in the final databases.\n\n"
    write_between(PAGE, "drill-table", about + "\n".join(table) + "\n")
    print(about + "\n".join(table))


main()
