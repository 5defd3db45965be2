"""Compare the verdicts of several environments: print one Markdown table of claims by environment, flips named first.

    python -m scripts.environments_table FOLDER
    python -m scripts.environments_table FOLDER --expect NAME NAME ...     names those that have left nothing

FOLDER has one folder for each environment, named after it, with the executed copies that `python -m
scripts.run_notebooks --build FOLDER/NAME` has left there. The first in the order of their names is what the others are
compared with. All must have run at the same size, which the first table shows. After the page it ends with the exit
status 1 if a verdict flips, a notebook has stopped, or an expected environment is missing.
"""
import argparse
import re
import sys
from pathlib import Path

import nbformat

from helpers.course.claims import STATEMENTS
from scripts.ledgers import markdown, rows_of
from scripts.notebooks import FOLDER as LESSONS

UNSETTLED = ("unmeasured here", "to come", "inconclusive")
REPORT = re.compile(r"(?m)^(?:Ready: |(?=FIX ))(.+)")  # of the setup cell, and what notebook 00 asks to fix


def ran_to_the_end(notebook: nbformat.NotebookNode) -> bool:
    """Whether every cell of code has run without an error."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    return all(cell.execution_count for cell in cells) and not any(
        output.output_type == "error" for cell in cells for output in cell.outputs)


def read_environment(folder: Path) -> dict:
    """What executed notebooks say: {"report": lines, "failed": [names], "verdicts": {claim: verdict}}."""
    report, failed, verdicts = set(), [], {}
    for path in sorted(LESSONS.glob("[0-9][0-9]_*.ipynb")):
        copy = folder / path.name
        notebook = nbformat.read(copy, as_version=4) if copy.is_file() else None
        if notebook is None or not ran_to_the_end(notebook):
            failed.append(path.stem[:2])
        if notebook:
            outputs = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
            report.update(line for text in outputs for line in REPORT.findall(text))
            verdicts |= {row["number"]: row["verdict"] for row in rows_of(notebook)}
    return {"report": sorted(report), "failed": failed, "verdicts": verdicts}


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def verdicts_of(environments: dict[str, dict], number: int, settled: bool = False) -> dict[str, str]:
    """{environment: verdict} of a claim, where it has one; only where the claim is settled, if `settled`."""
    found = {name: each["verdicts"][number] for name, each in environments.items() if number in each["verdicts"]}
    return {name: verdict for name, verdict in found.items() if not settled or verdict not in UNSETTLED}


def flips(environments: dict[str, dict]) -> set[int]:
    """The claims that have different verdicts where they are settled."""
    return {number for number in STATEMENTS if len(set(verdicts_of(environments, number, settled=True).values())) > 1}


def differences(environments: dict[str, dict], missing: list[str]) -> list[str]:
    """Lines that name the verdicts that flip, what is missing, and the claims that are settled in some
    environments only."""
    flipped, flipping, partly = flips(environments), [], []
    for number in STATEMENTS:
        found = verdicts_of(environments, number)
        text = f"- claim {number}: {'; '.join(f'{name}: {verdict}' for name, verdict in found.items())}"
        if number in flipped:
            flipping.append(text)
        elif len(set(found.values())) > 1:
            partly.append(text)
    heading = f"**Verdicts that flip: {len(flipping)}**" if flipping else "No verdict flips."
    if len(environments) < 2:
        heading = "Only one environment: nothing to compare."
    lines = [heading, *(["", *flipping] if flipping else [])]
    if missing:
        lines += ["", "**Environments without a result:**", "", *(f"- {name}: no result" for name in missing)]
    return [*lines, "", "Settled in some environments only:", "", *partly] if partly else lines


def page(environments: dict[str, dict], missing: list[str]) -> str:
    """The Markdown page. environments: {name: what read_environment returns}; missing: names of others."""
    count = len(list(LESSONS.glob("[0-9][0-9]_*.ipynb")))
    lines = ["# Claims by environment", "", *differences(environments, missing), "",
             row("environment", "what setup cells and notebook 00 report", f"notebooks that ran, of {count}", "failed"),
             "|---|---|---|---|"]
    for name, each in environments.items():
        lines.append(row(name, markdown("; ".join(each["report"])), str(count - len(each["failed"])),
                         ", ".join(each["failed"]) or "none"))
    lines += ["", row("#", "You will often read that", *environments), "|---" * (2 + len(environments)) + "|"]
    for number, statement in STATEMENTS.items():
        found = verdicts_of(environments, number)
        first = next(iter(found.values()), None)
        cells = [found.get(name, "no result") for name in environments]
        lines.append(row(str(number), markdown(statement), *(
            f"**{text}**" if text not in (first, "no result") else text for text in cells)))
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder with one folder of executed notebooks per environment")
    parser.add_argument("--expect", nargs="+", default=[], metavar="NAME", help="environments that must be there")
    options = parser.parse_args(arguments)
    folders = sorted(path.parent for path in options.folder.glob("*/00_*.ipynb"))
    if not folders:
        parser.error(f"{options.folder} has no executed notebooks: expected FOLDER/NAME/00_....ipynb, which `python -m "
                     "scripts.run_notebooks --build FOLDER/NAME` leaves there")
    sys.stdout.reconfigure(encoding="utf-8")
    environments = {folder.name: read_environment(folder) for folder in folders}
    missing = [name for name in options.expect if name not in environments]
    print(page(environments, missing), end="")
    stopped = any(each["failed"] for each in environments.values())
    return int(bool(flips(environments) or stopped or missing))


if __name__ == "__main__":
    sys.exit(main())
