"""Which notebooks a command was given: what all commands on notebooks share."""
import glob
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"


def chosen(names: list[str]) -> list[Path]:
    """The notebooks that were named, or all of the course. SystemExit names those that do not exist."""
    # Windows' shells leave the * of notebooks/02_* to the program.
    paths = [Path(match) for name in names for match in sorted(glob.glob(name)) or [name]]
    absent = [str(path) for path in paths if not path.is_file() or path.suffix != ".ipynb"]
    if absent:
        raise SystemExit(f"no such notebook: {', '.join(absent)}")
    paths = paths or sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise SystemExit(f"no notebook in {FOLDER}")
    return paths
