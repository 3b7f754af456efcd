"""Gathers the figures that have a goal from the tables that the other commands have written, as script/bench-all runs it at
its end, and writes them to the top of docs/performance.md. With --check, as script/lint runs it, it writes nothing, and
fails where the summary says something else than the tables."""
import re
import sys
from pathlib import Path

from service import write_between

PERFORMANCE, CAPACITY, CHECKS = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["--check"]
SOURCES = {"bench-peers": PERFORMANCE, "bench-compose": PERFORMANCE, "bench-overload": PERFORMANCE, "bench-costs": CAPACITY}
# In a row of a table, or in a sentence: name, median, least to most, goal.
ROW = re.compile(r"^\| (?P<name>[^|]+) \| (?P<median>[^|]+) \| (?P<spread>[^|]+) \| (?P<goal>[^|]*\d[^|]*) \|$", re.M)
SENTENCE = re.compile(r"^(?P<name>[^|\n]+): (?P<median>[^,\n]+), (?P<spread>[^\n(]+) \(goal (?P<goal>[^)]+)\)", re.M)


def written(script, page):
    """What stands between the marks of a command."""
    mark = f"<!-- {{}}: written by ./script/{script} -->"
    return page.read_text().split(mark.format("begin"), 1)[1].split(mark.format("end"), 1)[0]


def main():
    lines = ["| | median | least to most | goal | measured |", "|---|---|---|---|---|"]
    found, missed = 0, 0
    for script, page in SOURCES.items():
        text = written(script, page)
        date = re.search(r"\d{4}-\d{2}-\d{2}", text)
        for row in [*ROW.finditer(text), *SENTENCE.finditer(text)]:
            found, missed = found + 1, missed + ("missed" in row["goal"])
            cells = [row[part].strip() for part in ("name", "median", "spread", "goal")]
            lines.append("| " + " | ".join([*cells, f"`./script/{script}`, {date[0] if date else 'never'}"]) + " |")
    if not found:
        raise SystemExit("summary: none of the tables has a goal")
    text = f"{found} figures have a goal, {found - missed} reach it.\n\n" + "\n".join(lines) + "\n"
    if not CHECKS:
        print(text)
        write_between(PERFORMANCE, "bench-all", text)
    elif written("bench-all", PERFORMANCE).strip() != text.strip():
        raise SystemExit("summary: docs/performance.md says something else than its tables; run ./script/bench-all summary")


main()
