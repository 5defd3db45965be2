"""Write CLAIMS.md, docs/articles.md and the claims shown in README.md from the results stored in the notebooks.

    python -m scripts.claims_table            renew the three files
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

from helpers.course.claims import OWN, RECORD, SOURCES, VERDICTS
from helpers.machine import assets
from scripts import articles, generated_pages, run_notebooks
from scripts.ledgers import home_of, markdown, rows_of, stored_claims, stored_ledgers, verdict

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
- **depends**: the claim holds in some cases and not in others. The condition that separates them was measured, on both
  its sides.
- **inconclusive**: it was measured, but an effect of the size that matters could not be told from chance. The verdict
  names the smallest effect that would probably have been seen: a smaller one may exist.
- **unmeasured here**: no measurement that was recorded for this copy settles the claim. It may need a GPU, or OpenAI's
  weights. If a part of the claim was measured, the verdict names the part that was not, since one half does not settle
  the whole. Only a measured half that is wrong does: then the claim does not hold, and the verdict still names the half
  that is unmeasured. A stand-in or a much smaller model never settles a claim about GPT-2.

Claims 1 to 30 are statements of five articles, S0 to S4. [docs/articles.md](docs/articles.md) goes through the articles
section by section, and says where the course treats each. Claims 31 to 36 are the course's own. A link to a notebook
opens it at the cell that adds the claim to the ledger; where a program cannot do that, look for the heading.
"""


def sources(number: int) -> str:
    """The article sections of a claim, with links to docs/articles.md."""
    sections = SOURCES.get(number)
    if not sections:
        return OWN
    return ", ".join(f"[{name}](docs/articles.md#{name.split()[0].lower()})" for name in sections)


def overview(claims: list[tuple[Path, dict]]) -> str:
    """All claims as a compact table."""
    lines = ["| # | You will often read that | Article | Verdict | Notebook |", "|---|---|---|---|---|"]
    for path, row in claims:
        number, link = row["number"], f"[{path.stem[:2]}](notebooks/{path.name})"
        lines.append(f"| [{number}](#claim-{number}) | {markdown(row['statement'])} | {sources(number)} "
                     f"| {row['verdict']} | {link} |")
    return "\n".join(lines) + "\n"


def section(root: Path, path: Path, title: str, rows: list[dict]) -> str:
    """The claims of one notebook, with every field."""
    parts = [f"## {title}\n\nMeasured in [{path.name}](notebooks/{path.name}).\n"]
    for row in rows:
        home = home_of(root, row["number"])
        parts.append(f"### Claim {row['number']}\n\n> {markdown(row['statement'])}\n\n"
                     f"- Verdict: {verdict(row)}\n"
                     f"- Measured: {markdown(row['measured'])}\n"
                     f"- Measured on: {markdown(row['measured_on'])}\n"
                     f"- From: {sources(row['number'])}\n"
                     f"- Where: {home.link()}, cell `{home.cell}`\n")
    return "\n".join(parts)


def claims_page(root: Path) -> str:
    """The text of CLAIMS.md."""
    claims = stored_claims(root)
    numbers = Counter(row["verdict"] for _, row in claims)
    counts = "; ".join(f"{name}: {numbers[name]}" for name in VERDICTS if numbers[name])
    parts = [INTRODUCTION, f"## All {len(claims)} claims\n\n{counts}.\n", overview(claims)]
    parts += [section(root, *ledger) for ledger in stored_ledgers(root)]
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
    pages = {"CLAIMS.md": claims_page(root), "README.md": readme_with_claims(root),
             "docs/articles.md": articles.page(root, COMMAND)}
    if not options.check:
        (root / "docs").mkdir(exist_ok=True)
    outdated = [name for name, text in pages.items() if not generated_pages.renew(root / name, text, options.check)]
    for name in outdated:
        print(f"claims_table: {name} {f'is out of date; run {COMMAND}' if options.check else 'was renewed'}")
    return 1 if options.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
