# @title Setup: run this cell first
# It finds the course's files, installs small packages that are missing, and describes this machine.
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/gpt2-from-the-inside"
PLACES = (Path.cwd(), Path("/content"), Path("/content/drive/MyDrive"))  # this folder, Google Colab, Google Drive
MARK = "helpers/model.py"  # the course is the folder with this file

def find_course():
    around = (folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / MARK).is_file())
    below = (marker.parents[1] for place in PLACES for level in ("", "*/", "*/*/")
             for marker in sorted(place.glob(level + MARK)))
    return next(around, None) or next(below, None)

def fetch_course():
    for archive in filter(zipfile.is_zipfile, [path for place in PLACES for path in place.glob("*.zip")]):
        with zipfile.ZipFile(archive) as file:
            if any(MARK in (name, name.partition("/")[2]) for name in file.namelist()) and file.testzip() is None:
                return file.extractall(archive.with_suffix(""))
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
