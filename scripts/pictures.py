"""Write the pictures of README.md and docs/, which are drawn by code, to docs/images/.

    python -m scripts.pictures            write them
    python -m scripts.pictures --check    change nothing; exit status 1 if one of them is outdated
"""

import argparse
import sys
from pathlib import Path

from helpers.course import diagrams
from helpers.course.diagrams import board_sketches
from scripts.notebooks import ROOT


def pictures() -> dict[str, str]:
    """{name of a file in docs/images: its content}: GPT-2 for the README, and the sketches of the run sheets."""
    sketches = {f"board_{name}.svg": draw().svg() for name, draw in board_sketches.SKETCHES.items()}
    return {"gpt2.svg": diagrams.draw("gpt2").svg(), **sketches}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a picture is outdated")
    options = parser.parse_args(arguments)
    folder = root / "docs" / "images"
    outdated = {name: text for name, text in pictures().items()
                if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text}
    for name, text in outdated.items():
        print(f"pictures: {name} {'is outdated' if options.check else 'was renewed'}")
        if not options.check:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return int(options.check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
