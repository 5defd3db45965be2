"""The Markdown pages: links, the README's tree and badges, and the parts generated from the notebooks."""
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from helpers.corpus import load_tokenizer
from helpers.generation import generate
from helpers.machine import assets
from helpers.model import GPT, GPTConfig
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


def answer(question):
    """A section of docs/questions.md and the code in it."""
    text = (assets.ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    text = text.partition(f"### {question}\n")[2].partition("\n##")[0]
    return text, "".join(re.findall(r"(?ms)^```\w+\n(.*?)^```", text))


def test_the_answer_about_several_prompts_continues_each_as_if_alone():
    torch.manual_seed(0)
    tokenizer = load_tokenizer("course")
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    code = answer("How do I continue several prompts at once?")[1].replace(" 20,", " 20, top_k=1,")  # greedy
    found = {"tokenizer": tokenizer, "model": model, "prompts": ["The ship", "It was a very old house by the sea", "A"]}
    exec(code, found)
    assert len(set(map(len, found["ids"]))) == 3
    for prompt, text in zip(found["prompts"], found["texts"]):
        alone = generate(model, tokenizer.encode(prompt)[None], 20, top_k=1)
        assert text == tokenizer.decode(alone[0]) and text.startswith(prompt)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")
def test_a_notebook_finds_the_course_that_is_linked_beside_it(tmp_path):
    assert "ln -s /shared/course course\n" in answer("Several people share one copy of the course")[1]
    (tmp_path / "course").symlink_to(assets.ROOT)
    code = (assets.ROOT / "scripts" / "setup_cell.py").read_text(encoding="utf-8")
    environment = os.environ | {"COURSE_SIZE": "smoke", "COURSE_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", f"{code}\nprint(ROOT)"], cwd=tmp_path, env=environment, text=True,
                          capture_output=True)
    assert done.returncode == 0 and "Ready:" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "course")


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("git"), reason="needs git and a POSIX shell")
def test_the_answer_about_the_newest_edition_updates_a_copy_with_work(tmp_path):
    *steps, last = answer("How do I get the newest edition?")[1].splitlines()
    assert last.startswith("make lab") and "git pull" in steps

    def run(folder, command):
        names = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(command, shell=True, cwd=folder, env=os.environ | names, capture_output=True, text=True)

    origin, copy = tmp_path / "origin", tmp_path / "copy"
    notebook = "notebooks/01_attention_theory.ipynb"
    (origin / "notebooks").mkdir(parents=True)
    for name in (".gitignore", notebook):
        shutil.copy(assets.ROOT / name, origin / name)
    run(origin, "git init -q && git add . && git commit -q -m first")
    run(tmp_path, "git clone -q origin copy")
    (origin / notebook).write_text("new", encoding="utf-8")
    run(origin, "git commit -q -a -m second")
    (copy / notebook).write_text("work", encoding="utf-8")
    (copy / "gpt2-from-the-inside-progress.json").write_text("{}", encoding="utf-8")
    assert run(copy, "git pull").returncode != 0  # the complaint that the answer is for
    done = run(copy, " && ".join(step.partition("#")[0].strip() for step in steps))
    assert done.returncode == 0, done.stderr
    assert (copy / notebook).read_text(encoding="utf-8") == "new"
    assert (copy / "mine" / "01_attention_theory.ipynb").read_text(encoding="utf-8") == "work"
    assert (copy / "gpt2-from-the-inside-progress.json").is_file()
