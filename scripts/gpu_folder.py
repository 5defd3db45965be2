"""The folder that a machine without a network needs to run the course: packages as wheels, the book, the tokenizer.

`python -m scripts.gpu --pack FOLDER` makes it, and `--bring FOLDER` installs from it. install() imports nothing but
Python's standard library.
"""
import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the steps of make gpu do not use: JupyterLab, slides, the website, browser tests, and running tests in parallel.
NOT_NEEDED = {"jupyter", "sphinx-revealjs", "sphinx", "docutils", "myst-nb", "furo", "selenium", "nbmake",
              "pytest-xdist"}
LINUX = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 26, 24, 17, 12, 5)]
PLATFORMS = [*LINUX, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def canonical(name):
    """A package's name as the registry compares names: lower case, with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- on the machine without a network --------------------------------------------------------------------------------


def install(folder, site):
    """Installs the wheels of a folder into the folder `site`, without a network. Returns `site`, for PYTHONPATH."""
    wheels = sorted(map(str, (folder / "wheels").glob("*.whl")))
    if not (folder / "assets").is_dir():
        raise SystemExit(f"gpu: {folder} holds no assets/. Make it on a machine with a network: "
                         f"python -m scripts.gpu --pack {folder}")
    shutil.rmtree(site, ignore_errors=True)  # it may come from another folder, or be unfinished
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target",
                   str(site), *wheels]
        if subprocess.run(command).returncode:
            version = ".".join(map(str, sys.version_info[:3]))
            raise SystemExit(f"gpu: the packages in {folder} cannot be installed here (see above). Were they collected "
                             f"for this Python? python -m scripts.gpu --pack FOLDER --python {version}")
    return site


# --- on a machine with a network -------------------------------------------------------------------------------------


def listed(text):
    """The names in what `pip list` or `pip freeze` prints, or in any list of names separated by commas or lines."""
    lines = [line for line in re.split(r"[,\n]", text) if line.strip() and not line.startswith(("Package ", "---"))]
    return {canonical(re.match(r"\s*([\w.-]+)", line)[1]) for line in lines if re.match(r"\s*[\w.-]+", line)}


def missing(python, present):
    """The packages, as NAME==VERSION, that the steps need and that the other machine lacks.

    python: its version, such as "3.12.3". present: names of packages that it has; it also has all that these require.
    The versions are those that are installed on this machine.
    """
    from importlib import metadata

    from packaging.requirements import Requirement

    environment = {"python_version": ".".join(python.split(".")[:2]), "python_full_version": python,
                   "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
                   "os_name": "posix", "implementation_name": "cpython",
                   "platform_python_implementation": "CPython"}

    def required_by(lines, extras):
        for requirement in map(Requirement, lines):
            for extra in ("", *extras):
                if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}):
                    yield canonical(requirement.name), tuple(sorted(requirement.extras))

    def with_dependencies(wanted):
        found, done = {}, set()
        while wanted := set(wanted) - done:
            name, extras = wanted.pop()
            done.add((name, extras))
            with contextlib.suppress(metadata.PackageNotFoundError):  # CUDA's libraries, which a CPU build lacks
                package = metadata.distribution(name)
                found[name] = f"{name}=={package.version}"
                wanted |= set(required_by(package.requires or [], extras))
        return found

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = required_by(filter(None, (line.partition("#")[0].strip() for line in lines)), ())
    has = with_dependencies((name, ()) for name in ("torch", *present))
    packages = with_dependencies(pair for pair in needed if pair[0] not in NOT_NEEDED)
    return sorted(pin for name, pin in packages.items() if name not in has)


def pack(folder, python, installed):
    """Collects wheels for Linux on x86-64 with this version of Python, the book and GPT-2's tokenizer.

    installed: a file with the names of the packages that the other machine has besides torch, or None.
    Returns the exit status. Raises SystemExit where a file or a wheel cannot be fetched.
    """
    from helpers.machine import assets

    book = assets.gulliver()
    if book.is_stand_in:
        raise SystemExit("gpu: Gulliver's Travels could not be fetched. --pack needs a network, or COURSE_ASSETS.")
    try:
        tokenizer = assets.gpt2_encoding_folder()
    except assets.AssetUnavailable as error:
        raise SystemExit(f"gpu: GPT-2's tokenizer could not be fetched ({error.reason}).") from None
    for source, name in ((book.path.parent, "gulliver"), (tokenizer, "tiktoken")):
        shutil.copytree(source, folder / "assets" / name, dirs_exist_ok=True)
    shutil.rmtree(folder / "wheels", ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    pins = missing(python, listed(installed.read_text(encoding="utf-8")) if installed else set())
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version",
               python, "--implementation", "cp", *platforms, "-d", str(folder / "wheels"), *pins]
    if pins and subprocess.run(command).returncode:
        raise SystemExit(f"gpu: not all of these wheels could be fetched: {', '.join(pins)}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {len(pins)} packages, the book and the tokenizer, {size / 2**20:.1f} MiB. On the other machine: "
          f"python3 -m scripts.gpu --bring {folder}")
    return 0
