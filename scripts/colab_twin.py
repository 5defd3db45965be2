"""Write for pip what an environment needs that has the packages of a Colab runtime, each in the version that Colab has.

    python -m scripts.colab_twin pip-freeze.txt FOLDER
    python -m pip install -r FOLDER/requirements.txt -c FOLDER/constraints.txt

pip-freeze.txt is the list of a runtime in https://github.com/googlecolab/backend-info. `requirements.txt` names what
the course needs and Colab has. What Colab lacks is left out, so that the setup cell must install it there, too.
`constraints.txt` fixes the versions of everything else that the runtime contains.
"""
import argparse
import re
import sys
from pathlib import Path
from urllib.parse import unquote

from scripts.notebooks import ROOT

ALSO = {"pip"}  # the setup cell calls it
NAME = r"([A-Za-z0-9][\w.-]*)"
PINNED = re.compile(NAME + r"\s*==\s*(\S+)")
WHEEL = re.compile(NAME + r"\s*@\s*\S*/[^-/]+-([^-/]+)-[^/]*\.whl\b")


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(freeze: str) -> dict[str, str]:
    """{name: version} of every line of a pip freeze that pip can install by name and version.

    A wheel's address gives its version. Local version labels are cut: torch==2.9.0+cpu becomes 2.9.0. What was
    installed from a source archive, a repository or a folder is left out.
    """
    found = {}
    for line in map(str.strip, freeze.splitlines()):
        if match := PINNED.fullmatch(line) or WHEEL.match(unquote(line)):
            found[normal(match[1])] = match[2].partition("+")[0]
    return found


def needed(requirements: str) -> list[str]:
    """The names in a requirements file, in their order."""
    return list(dict.fromkeys(map(normal, re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)", requirements))))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("freeze", type=Path, help="the list of packages of a Colab runtime, made by `pip freeze`")
    parser.add_argument("folder", type=Path, help="gets requirements.txt and constraints.txt")
    options = parser.parse_args(arguments)
    colab = versions(options.freeze.read_text(encoding="utf-8"))
    if absent := {"torch", "numpy", "transformers", "ipykernel"} - colab.keys():
        parser.error(f"{options.freeze} has no version of {', '.join(sorted(absent))}: expected what `pip freeze` "
                     "prints in a Colab runtime. Take pip-freeze.txt of https://github.com/googlecolab/backend-info")
    names = needed((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    wanted = [name for name in names if name in colab] + sorted(ALSO & colab.keys())
    options.folder.mkdir(parents=True, exist_ok=True)
    for file, chosen in ("requirements.txt", wanted), ("constraints.txt", colab):
        text = "".join(f"{name}=={colab[name]}\n" for name in chosen)
        (options.folder / file).write_text(text, encoding="utf-8", newline="\n")
    print(f"from Colab: {', '.join(f'{name} {colab[name]}' for name in wanted)}\n"
          f"not in Colab: {', '.join(name for name in names if name not in colab)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
