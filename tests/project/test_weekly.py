"""What the weekly workflow runs: the twin of a Colab runtime, the downloads, and the table of claims by environment."""

import re

import nbformat
import pytest

from helpers.course.claims import MIME, Ledger
from helpers.machine import assets
from scripts import check_downloads, colab_twin, environments_table
from scripts.notebooks import FOLDER, ROOT

WEEKLY = (ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8")
FREEZE = """\
# Do not modify this file directly
-e git+https://github.com/somebody/something@1a2b#egg=something
google-colab @ file:///colabtools/dist/google-colab-1.0.0.tar.gz
ipykernel==6.17.1
jupyter_client==7.4.9
numpy==2.0.2
Pillow==11.3.0
tensorflow==2.19.0
torch @ https://example.org/whl/cu126/torch-2.9.0%2Bcu126-cp312-cp312-linux_x86_64.whl#sha256=a81b-55.whl/4
torchvision==0.24.0+cpu
transformers==4.57.6
pip==24.1.2
"""


# --- the twin of a Colab runtime -------------------------------------------------------------------------------------

def test_the_versions_of_a_runtime_can_be_installed():
    assert colab_twin.versions(FREEZE) == {
        "ipykernel": "6.17.1", "jupyter-client": "7.4.9", "numpy": "2.0.2", "pillow": "11.3.0", "tensorflow": "2.19.0",
        "torch": "2.9.0", "torchvision": "0.24.0", "transformers": "4.57.6", "pip": "24.1.2"}


def test_a_twin_has_what_the_course_needs_and_colab_has(tmp_path, capsys):
    (tmp_path / "freeze.txt").write_text(FREEZE, encoding="utf-8")
    assert colab_twin.main([str(tmp_path / "freeze.txt"), str(tmp_path / "twin")]) == 0
    requirements, constraints = (
        (tmp_path / "twin" / name).read_text(encoding="utf-8").splitlines()
        for name in ("requirements.txt", "constraints.txt"))
    assert requirements == ["torch==2.9.0", "numpy==2.0.2", "transformers==4.57.6", "pillow==11.3.0",
                            "ipykernel==6.17.1", "pip==24.1.2"]
    assert set(requirements) < set(constraints) and "jupyter-client==7.4.9" in constraints
    printed = capsys.readouterr().out
    assert "torch 2.9.0" in printed and "torchinfo" in printed.partition("not in Colab")[2]


def test_a_file_that_is_no_list_of_colabs_packages_is_named(tmp_path, capsys):
    (tmp_path / "freeze.txt").write_text("Package    Version\nnumpy      2.0.2\ntorch==2.9.0\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        colab_twin.main([str(tmp_path / "freeze.txt"), str(tmp_path / "twin")])
    assert "freeze.txt has no version of ipykernel, numpy, transformers: expected" in capsys.readouterr().err
    assert not (tmp_path / "twin").exists()


# --- claims by environment -------------------------------------------------------------------------------------------

def write_environment(folder, verdicts, version="2.13.0", broken=None, report=""):
    """Executed copies of all notebooks: the first has the verdicts {claim: verdict}. broken: one that has stopped."""
    folder.mkdir(parents=True)
    for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb")):
        text = f"Ready: CPU; run size smoke; torch {version}; Python 3.14.0\n{report}"
        ready = nbformat.v4.new_output("stream", text=text)
        cells = [nbformat.v4.new_code_cell("setup", outputs=[ready], execution_count=1),
                 nbformat.v4.new_code_cell("ledger.show()", execution_count=None if path.stem[:2] == broken else 2)]
        if path.stem[:2] == "00":
            ledger = Ledger("00")
            for number, verdict in verdicts.items():
                ledger.add(number, "x", "CPU", verdict, condition="a", smallest="1 nat")
            rows = {MIME: {"claims": [vars(claim) for claim in ledger.claims]}}
            cells[1].outputs = [nbformat.v4.new_output("display_data", rows)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / path.name)


def line_of(page, number):
    (line,) = re.findall(rf"(?m)^\| {number} \|.*$", page)
    return [cell.strip() for cell in line.strip("|").split("|")]


def table(folder, capsys, status, *options):
    assert environments_table.main([str(folder), *options]) == status
    return capsys.readouterr().out


def test_a_flip_is_named_first_and_marked(tmp_path, capsys):
    write_environment(tmp_path / "a", {1: "holds", 2: "holds", 3: "inconclusive", 4: "depends"})
    write_environment(tmp_path / "b", {1: "holds", 2: "does not hold", 3: "holds", 4: "depends"}, "2.14.0")
    page = table(tmp_path, capsys, 1)
    flips, partly = page.partition("| environment |")[0].split("Settled in some environments only:")
    assert "**Verdicts that flip: 1**" in flips and "- claim 2: a: holds; b: does not hold" in flips
    assert [line for line in partly.splitlines() if line] == ["- claim 3: a: inconclusive; b: holds"]
    assert line_of(page, 1)[2:] == ["holds", "holds"] and line_of(page, 4)[2:] == ["depends", "depends"]
    assert line_of(page, 2)[2:] == ["holds", "**does not hold**"]
    assert line_of(page, 36)[2:] == ["no result", "no result"]
    assert re.search(r"\| b \| CPU; run size smoke; torch 2\.14\.0; Python 3\.14\.0 \| 13 \| none \|", page)


def test_a_notebook_that_stopped_or_is_missing_is_named(tmp_path, capsys):
    write_environment(tmp_path / "a", {1: "holds"}, broken="02")
    write_environment(tmp_path / "b", {}, report="ok    torch           2.9.0\nFIX   packages        numpy missing\n")
    (tmp_path / "b" / sorted(FOLDER.glob("05_*.ipynb"))[0].name).unlink()
    page = table(tmp_path, capsys, 1)
    assert page.startswith("# Claims by environment\n\nNo verdict flips.\n")
    assert "| 12 | 02 |" in page and "| 12 | 05 |" in page
    assert re.search(r"\| b \| CPU; [^|]*; FIX +packages +numpy missing \|", page)
    assert line_of(page, 1)[2:] == ["holds", "no result"]


def test_environments_that_agree_end_with_0(tmp_path, capsys):
    write_environment(tmp_path / "a", {1: "holds", 2: "inconclusive"})
    write_environment(tmp_path / "b", {1: "holds", 2: "depends"})  # settled in one only: no flip
    assert "\nNo verdict flips.\n" in table(tmp_path, capsys, 0, "--expect", "a", "b")


def test_an_expected_environment_without_a_result_is_named(tmp_path, capsys):
    write_environment(tmp_path / "a", {1: "holds"})
    write_environment(tmp_path / "b", {1: "holds"})
    (tmp_path / "d").mkdir()  # its notebooks never began
    head = table(tmp_path, capsys, 1, "--expect", "a", "b", "c", "d").partition("| environment |")[0]
    assert "**Environments without a result:**\n\n- c: no result\n- d: no result\n" in head


def test_one_environment_alone_is_not_called_agreement(tmp_path, capsys):
    write_environment(tmp_path / "a", {1: "holds"})
    page = table(tmp_path, capsys, 0)
    assert "\nOnly one environment: nothing to compare.\n" in page and "No verdict flips" not in page


def test_a_cell_that_raised_has_not_run_to_the_end():
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    assert environments_table.ran_to_the_end(nbformat.v4.new_notebook(cells=[cell]))
    cell.outputs = [error]
    assert not environments_table.ran_to_the_end(nbformat.v4.new_notebook(cells=[cell]))


def test_a_folder_without_environments_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        environments_table.main([str(tmp_path)])
    assert "has no executed notebooks: expected FOLDER/NAME/00_" in capsys.readouterr().err


# --- the downloads ---------------------------------------------------------------------------------------------------

def test_a_stand_in_is_a_failed_download(offline, capsys):
    assert check_downloads.main() == 1
    printed = capsys.readouterr().out
    assert "Could not be downloaded: book, book, second source, tokenizer, weights." in printed
    assert not any((offline / "cache").rglob("*.txt"))


@pytest.mark.parametrize("dead", [False, True])
def test_each_source_is_asked(offline, monkeypatch, capsys, dead):
    """dead: the book's first source does not answer, and the course takes the second."""
    book = "*** START OF X ***\n" + "GULLIVER " * 60_000 + "\n*** END OF X ***\n"

    def download(url, path, expected):
        if "invalid" in url or dead and "gulliver" in url.lower():
            return "it does not answer"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(book, encoding="utf-8")

    monkeypatch.setattr(assets, "_download", download)
    monkeypatch.setattr(assets, "gpt2_weights", lambda: assets.Asset(offline, "GPT-2 small"))
    assert check_downloads.main() == dead
    printed = capsys.readouterr().out
    assert re.search(r"ok +book, second source +Gulliver's Travels \(gutenberg.org's current edition\)", printed)
    assert ("Could not be downloaded: book, first source." if dead else "All downloads work.") in printed


# --- the workflow ----------------------------------------------------------------------------------------------------

def test_the_workflow_runs_programs_that_exist():
    called = set(re.findall(r"python -m (scripts\.\w+)", WEEKLY))
    assert called == {"scripts.colab_twin", "scripts.check_downloads", "scripts.run_notebooks",
                      "scripts.environments_table"}
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in called)


def test_the_workflow_expects_each_environment_and_keeps_the_page_of_a_failure():
    names = re.findall(r"\{name: ([\w.-]+),", WEEKLY)
    table = WEEKLY.partition("\n  table:\n")[2]
    (expected,) = re.findall(r"(?s) --expect(.*?) > claims_by_environment\.md", table)
    assert len(names) >= 9 and expected.replace("\\", " ").split() == names
    after = table.partition("> claims_by_environment.md")[2]
    assert all('if: "!cancelled()"' in step for step in re.findall(r"(?ms)^      - (.*?)(?=^      - |\Z)", after))


@pytest.mark.parametrize("name", ["test", "weekly"])
def test_both_workflows_run_every_week(name):
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    assert re.search(r'(?m)^  schedule:\n    - cron: "\d+ \d+ \* \* \d"', text) and "workflow_dispatch:" in text
