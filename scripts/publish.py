"""Write the repository's address into every Colab badge, setup cell, README.md and CITATION.cff.

    python -m scripts.publish https://github.com/me/my-copy    publish under this address
    python -m scripts.publish                                  write pyproject.toml's address everywhere again
    python -m scripts.publish --check                          change nothing; exit status 1 if a file disagrees

Change the address only in pyproject.toml (or with this command), and the setup cell only in scripts/setup_cell.py.
"""
import argparse
import json
import re
import sys
from pathlib import Path

from scripts.notebooks import ROOT

PLACEHOLDER = "https://github.com/OWNER/gpt2-from-the-inside"
ADDRESS = re.compile(r"https://github\.com/(?P<owner>[A-Za-z0-9][A-Za-z0-9-]*)/(?P<name>[A-Za-z0-9._-]+)")
IN_PYPROJECT = re.compile(r'(?m)^(Repository = ")([^"]*)(")$')
BADGE = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}.ipynb"


def parse_address(text: str) -> str:
    """`text` as https://github.com/owner/name, without a closing slash or .git; ValueError for anything else."""
    address = text.strip().removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"expected https://github.com/owner/name (Colab opens only GitHub), got {text!r}")
    return address


def recorded_address(root: Path) -> str:
    """The address in pyproject.toml."""
    match = IN_PYPROJECT.search((root / "pyproject.toml").read_text(encoding="utf-8"))
    if not match:
        raise ValueError('pyproject.toml has no line like: Repository = "https://github.com/owner/name"')
    return parse_address(match[2])


def with_address(text: str, address: str, previous: str) -> str:
    """`text` with `address` in its badges, after `git clone`, as `repository-code`, and in place of `previous`."""
    repository = address.removeprefix("https://github.com/")
    text = re.sub(r"(colab\.research\.google\.com/github/)[^/\s]+/[^/\s]+(/blob/main/)", rf"\g<1>{repository}\2", text)
    text = re.sub(r"(git clone )https://github\.com/[^/\s]+/[^/\s`]+", rf"\g<1>{address}", text)
    text = re.sub(r'(repository-code: ")[^"]*', rf"\g<1>{address}", text)
    for old in {previous, PLACEHOLDER}:
        text = re.sub(re.escape(old) + r"(?![\w-])", address, text)
    return text


def with_setup_cell(notebook: str, path: Path, setup: str) -> str:
    """The notebook's JSON text with `setup` as the source of its cell "setup", folded in JupyterLab and Colab."""
    content = json.loads(notebook)
    cells = [cell for cell in content["cells"] if cell.get("id") == "setup"]
    if len(cells) != 1:
        raise ValueError(f'{path.name} needs exactly one cell with the id "setup", but has {len(cells)}')
    cells[0]["source"] = setup.splitlines(keepends=True)
    cells[0]["metadata"] = {"cellView": "form", "jupyter": {"source_hidden": True},
                            "slideshow": {"slide_type": "skip"}}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def plan(root: Path, address: str) -> dict[Path, str]:
    """Every file that carries the address, with the text that it should have under `address`."""
    previous = recorded_address(root)
    pyproject = root / "pyproject.toml"
    texts = {pyproject: IN_PYPROJECT.sub(rf"\g<1>{address}\3", pyproject.read_text(encoding="utf-8"))}
    for path in (root / "README.md", root / "CITATION.cff"):
        texts[path] = with_address(path.read_text(encoding="utf-8"), address, previous)
    setup = (root / "scripts" / "setup_cell.py").read_text(encoding="utf-8").strip().replace(PLACEHOLDER, address)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        text = with_address(path.read_text(encoding="utf-8"), address, previous)
        if BADGE.format(address.removeprefix("https://github.com/"), path.stem) not in text:
            raise ValueError(f"{path.name} lacks its Colab badge, {BADGE.format('OWNER/NAME', path.stem)}")
        texts[path] = with_setup_cell(text, path, setup)
    return texts


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help="https://github.com/owner/name; without it, pyproject.toml's")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a file disagrees")
    options = parser.parse_args(arguments)
    try:
        address = parse_address(options.address) if options.address else recorded_address(root)
        stale = {path: text for path, text in plan(root, address).items() if path.read_text(encoding="utf-8") != text}
    except (OSError, ValueError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    if address == PLACEHOLDER:
        print(f"publish: not published yet: {PLACEHOLDER} is a placeholder. Give the address of your repository.")
    for path, text in stale.items():
        print(f"publish: {path.relative_to(root)} {'disagrees with' if options.check else 'now has'} {address}")
        if not options.check:
            path.write_text(text, encoding="utf-8", newline="\n")
    if not stale:
        print(f"publish: every file has {address}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
