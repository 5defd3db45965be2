# @title Setup: run this cell first
# It finds the course's files, installs small packages that are missing, and describes this machine.
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/gpt2-from-the-inside"
PLACES = (Path.cwd(), Path("/content"), Path("/content/drive/MyDrive"))  # this folder, Google Colab, Google Drive
MARK = "helpers/machine/runtime.py"  # the course is the folder with this file
LARGEST = 2e9  # bytes: a zip file that unpacks to more is not the course alone

def find_course():
    around = (folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / MARK).is_file())
    below = (marker.parents[2] for place in PLACES for level in ("", "*/", "*/*/")
             for marker in sorted(place.glob(level + MARK), key=os.path.getmtime, reverse=True))  # the newest copy
    return next(around, None) or next(below, None)

def unpack_course(archive):  # all of it or, where something is wrong, nothing
    with zipfile.ZipFile(archive) as file, tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        if any(MARK in (name, name.partition("/")[2]) for name in file.namelist()):
            if sum(part.file_size for part in file.infolist()) > LARGEST:
                raise OSError(f"It unpacks to more than {LARGEST / 1e9:.0f} GB. Zip the course without .venv and runs.")
            file.extractall(Path(folder, "course"))
            target = archive.with_suffix("")
            return Path(folder, "course").rename(archive.with_suffix(".course") if target.exists() else target)

def fetch_course():
    archives = {path for place in PLACES for path in place.glob("*.zip")}
    for archive in sorted(archives, key=os.path.getmtime, reverse=True):
        try:
            if unpack_course(archive):
                return None
        except Exception as error:
            print(f"{archive} is not used: {error}")
    if "/OWNER/" in REPOSITORY:
        raise OSError("This copy of the course has not been published yet (`make publish` does that).")
    git = subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "course"], stderr=subprocess.PIPE, text=True,
                         env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    if git.returncode:
        raise OSError(f"{git.stderr}Is there an internet connection?")

try:  # fetch the course only if it is not on this machine yet
    ROOT = find_course() or fetch_course() or find_course()
except Exception as error:
    raise SystemExit(f"This notebook cannot find the course's files. {error}\nUpload the course's folder, or a zip "
                     "file of it, to the folder of this notebook, and run this cell again.")
sys.path.insert(0, str(ROOT))
if [*getattr(sys.modules.get("helpers"), "__path__", [])] != [str(ROOT / "helpers")]:  # another package of that name
    for name in [name for name in sys.modules if name.partition(".")[0] == "helpers"]:
        del sys.modules[name]

def missing(*packages):
    return [name for name in packages if importlib.util.find_spec(name) is None]

if large := missing("torch", "numpy", "transformers"):  # large, and often built for this machine: never installed here
    raise SystemExit(f"Not installed: {', '.join(large)}. Open a terminal in {ROOT} and run:\n"
                     "pip install -r requirements.txt -c constraints.txt\n"
                     "(PyTorch for a GPU: https://pytorch.org/get-started/locally). Then restart the kernel.")
if small := missing("tiktoken", "torchinfo", "pooch", "pandas", "jinja2", "seaborn", "tqdm", "safetensors"):
    if subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *small]).returncode:
        print(f"pip could not install {', '.join(small)}. Cells that need it will stop with an error. "
              "Connect to the internet, then run this cell again.")
    importlib.invalidate_caches()

from helpers.machine import runtime

runtime.describe()
