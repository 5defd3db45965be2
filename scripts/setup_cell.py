# @title Setup: run this cell first
# It finds the course's files, installs the few small packages that are missing, and says what this machine is.
import importlib.util, os, subprocess, sys, zipfile
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/gpt2-from-the-inside"
PLACES = (Path.cwd(), Path("/content"), Path("/content/drive/MyDrive"))  # here, Google Colab, a mounted Drive
MARK = "helpers/model.py"  # the folder that holds this file is the course

def find_course():
    around = (folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / MARK).is_file())
    below = (found.parents[1] for place in PLACES for level in ("", "*/", "*/*/")
             for found in sorted(place.glob(level + MARK)))
    return next(around, None) or next(below, None)

def fetch_course():
    for archive in filter(zipfile.is_zipfile, [path for place in PLACES for path in place.glob("*.zip")]):
        with zipfile.ZipFile(archive) as file:
            if any(MARK in (name, name.partition("/")[2]) for name in file.namelist()) and file.testzip() is None:
                return file.extractall(archive.with_suffix(""))
    if "/OWNER/" in REPOSITORY:
        raise OSError("This copy of the course has not been published yet (scripts/publish.py does that).")
    git = subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "course"], stderr=subprocess.PIPE, text=True,
                         env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    if git.returncode:
        raise OSError(f"{git.stderr}No internet connection?")

try:  # fetch only what is not here yet
    ROOT = find_course() or fetch_course() or find_course()
except Exception as error:
    raise SystemExit(f"The course's files are not here. {error}\nUpload the course folder, or a zip of it, "
                     "beside this notebook, and run this cell again.")
sys.path.insert(0, str(ROOT))

def missing(*packages):
    return [name for name in packages if importlib.util.find_spec(name) is None]

if large := missing("torch", "numpy", "transformers"):  # their builds fit this machine: never replaced from here
    raise SystemExit(f"Not installed: {', '.join(large)}. In a terminal, in {ROOT}, run:\n"
                     "pip install -r requirements.txt -c constraints.txt\n"
                     "(PyTorch for a GPU: https://pytorch.org/get-started/locally), then restart the kernel.")
if small := missing("tiktoken", "torchinfo", "pooch", "seaborn", "tqdm", "safetensors"):
    if subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *small]).returncode:
        print(f"pip could not install {', '.join(small)}: cells that need it stop. Connect, then run this again.")
    importlib.invalidate_caches()

from helpers import runtime
runtime.describe()
