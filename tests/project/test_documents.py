"""The Markdown pages: links, the README's tree and badges, and the parts generated from the notebooks."""
import re

from helpers.machine import assets
from scripts import pictures

PAGES = [assets.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CLAIMS.md", "ERRATA.md",
                                         "BENCHMARKS.md", "data/README.md", "docs/articles.md", "docs/questions.md",
                                         "docs/teaching.md")]
PAGES += sorted((assets.ROOT / "docs" / "run_sheets").glob("*.md"))


def anchors(text):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), (page.name, target)
            text = file.read_text(encoding="utf-8") if anchor else ""
            if anchor.startswith("cell-id="):
                assert f'"id": "{anchor.removeprefix("cell-id=")}"' in text, (page.name, target)
            else:
                assert not anchor or anchor in anchors(text), (page.name, target)


def test_the_readme_is_short_and_its_tree_lists_every_file_of_helpers():
    text = (assets.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    (tree,) = re.findall(r"(?ms)^```text\n(.*?)^```", text)
    for wing in ("helpers", "helpers/machine", "helpers/course"):
        (block,) = re.findall(rf"(?m)^{wing}/ .*\n((?:  .*\n)*)", tree)
        shown = {name for line in block.splitlines() for name in re.findall(r"^  (\w+\.py)|, (\w+\.py)", line)}
        shown = {first or second for first, second in shown}
        files = {path.name for path in (assets.ROOT / wing).glob("*.py") if not path.name.startswith("__")}
        assert shown == files, wing


def test_every_notebook_has_its_badge_in_the_readme():
    text = (assets.ROOT / "README.md").read_text(encoding="utf-8")
    for path in sorted((assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        assert f"/blob/main/notebooks/{path.name})" in text and f"](notebooks/{path.name})" in text, path.name


def test_the_pictures_are_those_that_the_code_draws(tmp_path, capsys):
    assert pictures.main(["--check"]) == 0
    assert pictures.main(["--check"], root=tmp_path) == 1 and "gpt2.svg is outdated" in capsys.readouterr().out
    assert pictures.main([], root=tmp_path) == 0 == pictures.main(["--check"], root=tmp_path)
