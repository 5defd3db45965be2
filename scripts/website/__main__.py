"""Build the course as a website from the notebooks' stored outputs: pages with search, slides and views in build/site/.

    python -m scripts.website                    to build/site/, whose first page is index.html
    python -m scripts.website --build FOLDER     to another folder

Nothing is executed. The pages read nothing from the network. They work on a server and, apart from the excerpts in the
results of a search, also when index.html is opened from the disk. A warning of Sphinx, as for a link that leads
nowhere, is an error.
"""
import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

from scripts import slides
from scripts.notebooks import ROOT, chosen

CONFIGURATION = Path(__file__).parent


def build(target: Path) -> int:
    """Makes the website in the folder `target`, which is replaced. Returns 0, or Sphinx's exit status if it failed."""
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "pages", "site")  # MyST-NB makes a folder of its own beside it
        status = build_main(["-b", "html", "-q", "-W", "--keep-going", "-j", "auto", "-c", str(CONFIGURATION),
                             "-d", str(Path(scratch, "read")), str(ROOT), str(made)])
        if status:
            return status
        shutil.copytree(made, target)
    shutil.copy(target / "README.html", target / "index.html")
    for path in chosen([]):
        shutil.copy(path, target / "notebooks")
    for name in ("objects.inv", ".buildinfo"):
        (target / name).unlink(missing_ok=True)
    if (ROOT / "docs" / "views").is_dir():
        shutil.copytree(ROOT / "docs" / "views", target / "docs" / "views")
    (target / ".nojekyll").touch()  # GitHub Pages would otherwise leave out folders that begin with an underscore
    return slides.main(["--build", str(target / "slides")])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "site", help="folder (default: build/site)")
    target = parser.parse_args(arguments).build
    status = build(target)
    if not status:
        print(f"website: {target / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
