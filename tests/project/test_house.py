"""How the code is built: imports run downwards, files and functions are short, and no file does what is unsafe."""

import ast
import graphlib
from collections import defaultdict

import nbformat
import pytest

from helpers.machine import assets

ROOT = assets.ROOT
FOLDERS = ("benchmarks", "data/recipes", "helpers", "scripts", "tests")
PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
FILES = {path.relative_to(ROOT).as_posix(): path for path in PATHS}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))

# Which wings a wing may import. helpers.course is around the lessons, helpers.machine below them.
BELOW = {"course": {"course", "lessons", "machine"}, "lessons": {"lessons", "machine"}, "machine": {"machine"}}
# What `python -m helpers.training` runs; not imported when helpers.training is.
COMMAND_LINE = ("helpers.training", "helpers.course.command_line")
LONGEST = {"helpers/model.py": 200, "helpers/training.py": 280, "helpers/generation.py": 150}  # files, in lines
LONGEST_FUNCTION = 40


def code_cells(path):
    """A notebook's cells of code as (id, tree), without the lines for IPython."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!"))]
            yield cell.id, ast.parse("\n".join(lines))


# The wings


def module_of(name):
    """helpers/machine/assets.py -> helpers.machine.assets; helpers/machine/__init__.py -> helpers.machine."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(name): tree for name, tree in TREES.items() if name.startswith("helpers/")}


def wing_of(module):
    """The wing of a module in helpers: "machine", "course", or "lessons" for the top level."""
    part = module.removeprefix("helpers").lstrip(".").split(".")[0]
    return part if part in BELOW else "lessons"


def imports_in(tree):
    """The modules that some code imports anywhere: at the top or in a function."""
    for node in ast.walk(tree):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: {ast.unparse(node)}"
            names = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys() or {node.module}
        yield from names


def imports_of(module):
    """The modules that a module of helpers imports, apart from its command line."""
    return [name for name in imports_in(MODULES[module]) if (module, name) != COMMAND_LINE]


def test_nothing_in_helpers_imports_a_script_a_test_or_a_notebook():
    for module in MODULES:
        packages = {name.split(".")[0] for name in imports_of(module)}
        assert not packages & {"benchmarks", "notebooks", "scripts", "tests"}, module


def test_imports_run_downwards_between_the_wings():
    upwards = [f"{module} imports {name}" for module in MODULES for name in imports_of(module)
               if name.split(".")[0] == "helpers" and wing_of(name) not in BELOW[wing_of(module)]]
    assert not upwards


def test_no_modules_import_each_other():
    graph = {module: {name for name in imports_of(module) if name in MODULES} for module in MODULES}
    assert sum(map(len, graph.values())) > 50, "the graph is almost empty: this test shows nothing"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", ["helpers", "helpers.machine"])
def test_a_package_that_must_start_without_other_packages_imports_nothing(package):
    assert ast.get_docstring(MODULES[package]) and len(MODULES[package].body) == 1


# Length


@pytest.mark.parametrize("name, limit", LONGEST.items())
def test_the_files_that_learners_read_are_short(name, limit):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= limit, f"{name} has {lines} lines"


def test_functions_are_short():
    long = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION:
                    long.add(f"{name}: {node.name}")
    assert not long, f"functions of more than {LONGEST_FUNCTION} lines"


# Names and paths


def test_sizes_has_one_meaning():
    homes = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    homes[ast.unparse(target)].append(name)
    assert homes["SIZES"] == ["helpers/model.py"]


def changes_of_the_path(tree):
    """The calls of a file that change where Python looks for modules."""
    methods = ("sys.path.insert", "sys.path.append", "sys.path.extend")
    return [ast.unparse(node) for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in methods]


def test_only_the_setup_cell_changes_the_path():
    changed = {name: changes for name, tree in TREES.items() if (changes := changes_of_the_path(tree))}
    for path in NOTEBOOKS:
        changed |= {f"{path.name}, {cell}": changes for cell, tree in code_cells(path)
                    if (changes := changes_of_the_path(tree)) and cell != "setup"}
    assert changed == {"scripts/setup_cell.py": ["sys.path.insert(0, str(ROOT))"]}


# Safety


CODE = {name: [tree] for name, tree in TREES.items() if not name.startswith("tests/")}
CODE |= {path.name: [tree for _, tree in code_cells(path)] for path in NOTEBOOKS}


def calls(trees):
    """All calls: (dotted name of the function, node)."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node


def test_nothing_is_unpickled():
    """Unpickling a file runs whatever code its author has put into it."""
    unsafe = []
    for name, trees in CODE.items():
        imported = {module.split(".")[0] for tree in trees for module in imports_in(tree)}
        unsafe += [f"{name} imports {module}" for module in imported & {"pickle", "joblib", "dill"}]
        for function, node in calls(trees):
            settings = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            if settings.get("allow_pickle") or (function.endswith("torch.load") and not settings.get("weights_only")):
                unsafe.append(f"{name}: {ast.unparse(node)}")
    assert not unsafe


def test_every_text_file_is_opened_with_its_encoding():
    """Without one Windows uses its code page, which lacks some of the course's characters."""
    without = []
    for name, trees in CODE.items():
        for function, node in calls(trees) if name.endswith(".py") else ():
            method = function.rpartition(".")[2]
            has_encoding = any(word.arg == "encoding" for word in node.keywords)
            has_encoding |= len(node.args) > {"read_text": 0, "write_text": 1}.get(method, 99)
            is_binary = function == "open" and any("b" in str(getattr(mode, "value", "")) for mode in node.args[1:2])
            if (function == "open" or method in ("read_text", "write_text")) and not (has_encoding or is_binary):
                without.append(f"{name}: {ast.unparse(node)}")
    assert not without
