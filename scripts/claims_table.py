"""Write CLAIMS.md, and the claims shown in README.md, from the results that are stored in the notebooks.

    python -m scripts.claims_table            renew both files
    python -m scripts.claims_table --check    change nothing; exit status 1 if a file and the notebooks disagree
    python -m scripts.claims_table --record   measure what needs GPT-2's real weights, into data/measurements

Each notebook stores the rows of its ledger as they were measured; nothing is typed in here. --record runs notebooks 04
and 06 and downloads the weights (548 MB) if necessary. In Colab, put an exclamation mark before the command.
"""
import argparse
import datetime
import json
import re
import sys
from collections import Counter
from pathlib import Path

import nbformat

from helpers.course.claims import MIME, RECORD, VERDICTS
from helpers.machine import assets
from scripts import generated_pages, run_notebooks

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m scripts.claims_table"
# A row of README.md's table of claims begins with a link to the claim.
README_ROW = re.compile(r"(?m)^\| \[(\d+)\]\(CLAIMS\.md#claim-\d+\) \|.*$")

INTRODUCTION = """\
Notebooks 01 to 09 end with a ledger. It lists what you will often read about GPT-2, what a cell of that notebook has
just measured, and the verdict. This page collects the ledgers from the outputs that are stored in the notebooks.

**Would you rather predict first?** Then work through a notebook before you read its section.

How to read a verdict:

- **holds** and **does not hold**: the measurement settles the claim. If a condition follows, it is part of the verdict.
- **depends**: the claim holds in some cases and not in others. The condition that separates them was measured, too.
- **inconclusive**: it was measured, but an effect of the size that matters could not be told from chance or from none.
- **unmeasured here**: no measurement that was recorded for this copy settles the claim. It may need a GPU, or OpenAI's
  weights. A stand-in or a much smaller model never settles a claim about GPT-2.
"""


def rows_of(notebook: nbformat.NotebookNode) -> list[dict]:
    """The rows of a notebook's ledger, from its stored outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [row for output in outputs for row in output.get("data", {}).get(MIME, {}).get("claims", [])]


def stored_ledgers(root: Path) -> list[tuple[Path, str, list[dict]]]:
    """Path, title and ledger rows of every notebook that has a ledger, in the order of the notebooks."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    notebooks = [(path, nbformat.read(path, as_version=4)) for path in paths]
    ledgers = [(path, notebook.cells[0].source.splitlines()[0].removeprefix("# "), rows_of(notebook))
               for path, notebook in notebooks if notebook.cells]
    return [(path, title, sorted(rows, key=lambda row: row["number"])) for path, title, rows in ledgers if rows]


def stored_claims(root: Path) -> list[tuple[Path, dict]]:
    """Every row of every notebook's ledger, with the notebook it is from, in the order of the claims' numbers."""
    claims = [(path, row) for path, _, rows in stored_ledgers(root) for row in rows]
    return sorted(claims, key=lambda claim: claim[1]["number"])


def markdown(text: str) -> str:
    """A stored text as one line of Markdown, in which nothing is read as markup."""
    return re.sub(r"([*|<\\])", r"\\\1", text).replace("\n", " ")


def verdict(row: dict) -> str:
    """The verdict in bold, with its condition if there is one."""
    return f"**{row['verdict']}**" + (f": {markdown(row['condition'])}" if row["condition"] else "")


def overview(claims: list[tuple[Path, dict]]) -> str:
    """All claims as a compact table."""
    lines = ["| # | You will often read that | Verdict | Notebook |", "|---|---|---|---|"]
    for path, row in claims:
        number, link = row["number"], f"[{path.stem[:2]}](notebooks/{path.name})"
        lines.append(f"| [{number}](#claim-{number}) | {markdown(row['statement'])} | {row['verdict']} | {link} |")
    return "\n".join(lines) + "\n"


def section(path: Path, title: str, rows: list[dict]) -> str:
    """The claims of one notebook, with every field."""
    parts = [f"## {title}\n\nMeasured in [{path.name}](notebooks/{path.name}).\n"]
    for row in rows:
        parts.append(f"### Claim {row['number']}\n\n> {markdown(row['statement'])}\n\n"
                     f"- Verdict: {verdict(row)}\n"
                     f"- Measured: {markdown(row['measured'])}\n"
                     f"- Measured on: {markdown(row['measured_on'])}\n")
    return "\n".join(parts)


def claims_page(root: Path) -> str:
    """The text of CLAIMS.md."""
    claims = stored_claims(root)
    numbers = Counter(row["verdict"] for _, row in claims)
    counts = "; ".join(f"{name}: {numbers[name]}" for name in VERDICTS if numbers[name])
    parts = [INTRODUCTION, f"## All {len(claims)} claims\n\n{counts}.\n", overview(claims)]
    parts += [section(*ledger) for ledger in stored_ledgers(root)]
    return generated_pages.with_note("Claims, measurements and verdicts", COMMAND, "\n".join(parts))


def readme_with_claims(root: Path) -> str:
    """The text of README.md, in which each claim's row is as the notebooks' ledgers have it now."""
    claims = {row["number"]: (path, row) for path, row in stored_claims(root)}

    def row_of(match: re.Match) -> str:
        number = int(match[1])
        if number not in claims:
            raise SystemExit(f"claims_table: README.md shows claim {number}, which no notebook's ledger has")
        path, row = claims[number]
        cells = (f"[{number}](CLAIMS.md#claim-{number})", markdown(row["statement"]), markdown(row["measured"]),
                 verdict(row), f"[{path.stem[:2]}](notebooks/{path.name})")
        return f"| {' | '.join(cells)} |"

    return README_ROW.sub(row_of, (root / "README.md").read_text(encoding="utf-8"))


def record(root: Path, target: Path) -> int:
    """Runs the notebooks whose claims need the real weights and writes their settled rows. Returns the exit status."""
    if assets.gpt2_weights().is_stand_in:
        print("claims_table: GPT-2's weights are not available, so nothing was recorded", file=sys.stderr)
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
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a file is out of date")
    parser.add_argument("--record", action="store_true", help="measure what needs GPT-2's real weights")
    options = parser.parse_args(arguments)
    if options.record:
        return record(root, RECORD)
    pages = {"CLAIMS.md": claims_page(root), "README.md": readme_with_claims(root)}
    outdated = [name for name, text in pages.items() if not generated_pages.renew(root / name, text, options.check)]
    for name in outdated:
        print(f"claims_table: {name} {f'is out of date; run {COMMAND}' if options.check else 'was renewed'}")
    return 1 if options.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
