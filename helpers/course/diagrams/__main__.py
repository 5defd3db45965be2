"""Writes all diagrams to build/diagrams, to look at."""

from helpers.course import diagrams
from helpers.course.diagrams import svg
from helpers.machine import assets

if __name__ == "__main__":
    folder = assets.ROOT / "build" / "diagrams"
    folder.mkdir(parents=True, exist_ok=True)
    for name in diagrams.NAMES:
        drawing = diagrams.draw(name)
        (folder / f"{name}.svg").write_text(drawing.svg(), encoding="utf-8", newline="\n")
        print(f"{folder / name}.svg", *svg.problems(drawing), sep="\n    ")
