"""Write the README's table of claims from the results that are stored in the notebooks.

    python scripts/claims_table.py            rewrite the table in README.md
    python scripts/claims_table.py --check    change nothing, exit 1 if the table and the notebooks disagree
    python scripts/claims_table.py --record   measure what needs the real weights, into data/measurements

Each ledger stores its rows, as they were measured, in its notebook. Nothing is typed in here. --record runs
notebooks 04 and 06, fetching the weights (548 MB) if need be; in Colab, put an exclamation mark before the command.
"""
import argparse
import datetime
import json
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from helpers import assets
from helpers.claims import MIME, RECORD
from scripts import run_notebooks

BEGIN, END = "<!-- claims: scripts/claims_table.py writes this table -->\n", "<!-- end of claims -->"


def rows_of(notebook: nbformat.NotebookNode) -> list[dict]:
    """The rows of a notebook's ledger, from its stored outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [row for output in outputs for row in output.get("data", {}).get(MIME, {}).get("claims", [])]


def stored_claims(root: Path) -> list[tuple[Path, dict]]:
    """Every row of every notebook's ledger, with the notebook it is from, in the order of the claims' numbers."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    found = [(path, row) for path in paths for row in rows_of(nbformat.read(path, as_version=4))]
    return sorted(found, key=lambda item: item[1]["number"])


def table(root: Path) -> str:
    """The claims as a Markdown table."""
    lines = ["| # | You will often read that | Verdict | Measured | On | In |", "|---|---|---|---|---|---|"]
    for path, row in stored_claims(root):
        verdict = f"**{row['verdict']}**" + (f": {row['condition']}" if row["condition"] else "")
        link = f"[{path.stem[:2]}](notebooks/{path.name})"
        cells = [str(row["number"]), row["statement"], verdict, row["measured"], row["measured_on"], link]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def record(root: Path, target: Path) -> int:
    """Runs the notebooks whose claims need the real weights and writes their settled rows. Returns the exit status."""
    if assets.gpt2_weights().is_stand_in:
        print("claims_table: GPT-2's weights could not be had, so nothing was recorded", file=sys.stderr)
        return 1
    rows = {}
    for path in sorted((root / "notebooks").glob("0[46]_*.ipynb")):
        print(f"running {path.name}", flush=True)
        notebook = nbformat.read(path, as_version=4)
        if failure := run_notebooks.execute(notebook, path.parent):
            print(f"claims_table: {path.name}, {failure}", file=sys.stderr)
            return 1
        settled = [row for row in rows_of(notebook) if row["verdict"] not in ("unmeasured here", "to come")]
        rows |= {str(row["number"]): {**row, "date": datetime.date.today().isoformat()} for row in settled}
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    assets.write_atomically(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"recorded claims {', '.join(rows)} in {target}")
    return 0


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if README.md disagrees")
    parser.add_argument("--record", action="store_true", help="measure what needs GPT-2's real weights")
    given = parser.parse_args(arguments)
    if given.record:
        return record(root, RECORD)
    readme = root / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        print(f"claims_table: README.md needs the lines {BEGIN.strip()} and {END}", file=sys.stderr)
        return 1
    text = before + BEGIN + table(root) + END + after
    if given.check:
        same = text == readme.read_text(encoding="utf-8")
        print("claims_table: README.md", "agrees" if same else "is out of date; run this without --check")
        return 0 if same else 1
    readme.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
