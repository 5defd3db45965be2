"""Where the course's files come from: finding, downloading and verifying them (for learners: docs/questions.md).

Every file is looked for in the same order: the folder named by COURSE_ASSETS (read only) -> the course's cache
(data/cache, or the folder named by COURSE_CACHE) -> the learner's own cache of the library concerned -> the internet ->
the stand-in that ships in data/, which one visible line announces.
A file whose sha256 is wrong is never used: it is named, removed from the cache and downloaded again. One that cannot
be read is named too, and the next place is tried.
"""

import functools
import hashlib
import logging
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pooch
import requests

from helpers.machine.hosts import HUB, HUB_HOST, PATIENCE, reachable_hosts, why_not
from helpers.machine.variables import setting

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"

GULLIVER_COMMIT = "1298a0284662e9d2d66ef0b1ce30a895cbe5d1d8"
GULLIVER_URL = f"https://raw.githubusercontent.com/GITenberg/Gulliver-s-Travels_829/{GULLIVER_COMMIT}/829-0.txt"
GULLIVER_SHA256 = "37e0bf90ce1c9d254bae3ea75be1b0233771b2e2c0a832dd1f85b8d6bfb86935"
GUTENBERG_URL = "https://www.gutenberg.org/files/829/829-0.txt"  # regenerated from time to time: no stable hash
BOTH_MARKERS = re.compile(r"^\s*\*\*\*[ \t]*START OF.*^\s*\*\*\*[ \t]*END OF", re.I | re.M | re.S)  # as in corpus.py

# GPT-2's byte-pair encoding, under the names that tiktoken gives them: the sha1 of the address it fetches them from.
TIKTOKEN_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
TIKTOKEN_FILES = {
    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee": (
        "vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6": (
        "encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
}

GPT2_REPOSITORY = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
GPT2_FILES = {
    "config.json": "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4",
    "model.safetensors": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
}

STALL = 10  # seconds without a byte after which a download is given up
logging.getLogger("pooch").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Asset:
    """A file or folder that a lesson may use: its path, what to call it in a caption, and whether it stands in for
    another."""

    path: Path
    title: str
    is_stand_in: bool = False


class AssetUnavailable(RuntimeError):
    """A file is neither on this computer nor available for download. The message says where the course has looked and
    what to do; reason is the short form."""

    def __init__(self, name, reason):
        places = f"COURSE_ASSETS ({assets_folder()}) or the cache" if assets_folder() else "the cache"
        super().__init__(
            f"{name} is not in {places} ({cache_folder()}), and could not be downloaded: {reason}. "
            "Connect to the internet and restart the kernel, or set COURSE_ASSETS to a folder that has it."
        )
        self.reason = reason


class AssetDamaged(RuntimeError):
    """A file that ships with the course has been altered."""


def assets_folder():
    """The learner's own folder of files (COURSE_ASSETS), or None. Raises NotADirectoryError if it does not exist."""
    named = setting("COURSE_ASSETS")
    if not named:
        return None
    folder = Path(named).expanduser()
    folder = folder if folder.is_absolute() else (ROOT / folder).resolve()
    if not os.path.isdir(folder):  # also False where this user may not look
        raise NotADirectoryError(f"COURSE_ASSETS={named}: there is no folder {folder} that you may read. "
                                 "Correct it or unset it.")
    return folder


def cache_folder():
    """Where downloads are kept: COURSE_CACHE, or data/cache."""
    folder = Path(setting("COURSE_CACHE") or DATA / "cache").expanduser().resolve()
    if os.path.exists(folder) and not folder.is_dir():
        raise NotADirectoryError(f"The cache {folder} is not a folder. Delete it, or set COURSE_CACHE.")
    return folder


def sha256(path):
    """The sha256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bundled(name):
    """The path of a file that ships in data/. Raises AssetDamaged unless it is the one listed in SHA256SUMS."""
    listed = dict(reversed(line.split()) for line in (DATA / "SHA256SUMS").read_text(encoding="ascii").splitlines())
    path = DATA / name
    if not path.is_file() or sha256(path) != listed[name]:
        raise AssetDamaged(f"data/{name} is missing or altered. Restore it: git checkout data/{name}")
    return path


def printable(line):
    """The line with escapes for characters that the console cannot show: Windows' code pages lack most of them."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _first_line(error):
    return str(error).partition("\n")[0]


def write_atomically(path, write):
    """Calls write(temporary path) and renames the result to path, so that path is complete or untouched.

    Raises OSError that names path when it cannot be written: the disk is full, or the folder is read only.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        if isinstance(error, RuntimeError):  # torch.save raises it, with an obscure message, when the disk is full
            reason = f"{shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free on that disk; PyTorch: {reason}"
        earlier = " An earlier version of it is intact." if path.exists() else ""
        raise OSError(f"{path} could not be written ({reason}).{earlier} "
                      "Make room on the disk, or choose a folder that you may write to.") from error


def _is_sound(path, expected, in_cache):
    """Whether a file exists and has the expected hash. A wrong one is named, and removed from the cache."""
    try:
        if not path.is_file():
            return False
        if sha256(path) == expected:
            return True
    except OSError as error:  # another user's file, or a disk that fails
        print(printable(f"UNREADABLE: {path} ({error.strerror}). It is not used: its owner can make it readable "
                        "(chmod a+r), or COURSE_CACHE may name another folder."))
        return False
    removed = in_cache and _remove(path)
    what_now = "It was removed from the cache." if removed else "It is not used: replace it or delete it."
    print(printable(f"DAMAGED: {path} does not have the expected sha256 {expected[:12]}…. {what_now}"))
    return False


def _text(path):
    """A file's text, or "" where there is no file, it cannot be read or it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _remove(path):
    """Deletes a file, if there is one. Returns False where that is not allowed."""
    try:
        path.unlink(missing_ok=True)
        return True
    except OSError:
        return False


def _download(url, path, expected):
    """Downloads url to path (whole or not at all) and checks its hash. Returns None, or what went wrong in one
    sentence."""
    host = url.split("/")[2]
    if host not in reachable_hosts():
        return why_not(host)
    try:
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=(PATIENCE, STALL))
        pooch.retrieve(url, expected and f"sha256:{expected}", fname=path.name, path=path.parent, downloader=downloader)
        path.chmod(path.parent.stat().st_mode & 0o666)  # pooch's file is its owner's only; now: as the folder
    except requests.RequestException as error:  # these are OSErrors too
        return f"{url}: {_first_line(error)}"
    except ValueError:
        return f"{url}: the download has a wrong hash (cut short, altered, or a login page of this network)"
    except OSError as error:
        return f"{url}: it cannot be kept in {path.parent} ({_first_line(error)}); COURSE_CACHE may name another folder"
    return None


def locate(folder, files, elsewhere=()):
    """The folder that holds all files, after downloading what is missing.

    folder: its name in COURSE_ASSETS and in the cache. files: {file name: (address, sha256)}. elsewhere: further
    folders that may hold them, and are only read. Raises AssetUnavailable when they are nowhere and cannot be
    downloaded.
    """
    own_folder = assets_folder()
    for place in [*([own_folder / folder] if own_folder else []), *elsewhere]:
        if all([_is_sound(place / name, expected, in_cache=False) for name, (_, expected) in files.items()]):
            return place
    cached = cache_folder() / folder
    for name, (url, expected) in files.items():
        if not _is_sound(cached / name, expected, in_cache=True):
            problem = _download(url, cached / name, expected)
            if problem:
                raise AssetUnavailable(f"{folder}/{name}", problem)
    return cached


@functools.cache
def _say_once(line):
    print(printable(line))


def stand_in(path, title, instead_of, reason):
    """A bundled file or folder in place of an unavailable one, announced in one visible line."""
    for file in [path / file.name for file in (DATA / path).iterdir()] if (DATA / path).is_dir() else [path]:
        bundled(file.as_posix())
    _say_once(f"Stand-in: {title} is used instead of {instead_of} ({reason}). Results will differ.")
    return Asset(DATA / path, title, is_stand_in=True)


def gulliver():
    """Gulliver's Travels as Project Gutenberg prints it, or this course's own voyage (notebook 07)."""
    title, pinned = "Gulliver's Travels", {"829-0.txt": (GULLIVER_URL, GULLIVER_SHA256)}
    try:
        return Asset(locate("gulliver", pinned) / "829-0.txt", title)
    except AssetUnavailable as unavailable:
        reason = unavailable.reason
    # The second source has no stable hash. The first download is checked by its contents, later ones by its hash.
    path = cache_folder() / "gulliver" / "gutenberg.txt"
    note = path.with_suffix(".sha256")
    if (known := _text(note).strip()) and _is_sound(path, known, in_cache=True):
        return Asset(path, f"{title} (gutenberg.org's current edition)")
    if _download(GUTENBERG_URL, path, None) is None and _is_whole_book(path, 500_000, "GULLIVER"):
        write_atomically(note, lambda temporary: temporary.write_text(sha256(path), "ascii"))
        return Asset(path, f"{title} (gutenberg.org's current edition)")
    _remove(path)
    return stand_in(Path("voyage.txt"), "“The Brass Yard” (data/voyage.txt, written for this course)", title, reason)


def gutenberg(number):
    """The text of a Project Gutenberg book, by its number, as an Asset: from the cache or downloaded (notebook 09).

    There is no hash to check it by, so it must begin and end as the project's books do. Raises ValueError for another
    kind of number, AssetUnavailable when the book is not available.
    """
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"gutenberg({number!r}): expected the number of a book, such as 84.")
    name, path = f"pg{number}.txt", cache_folder() / "gutenberg" / f"pg{number}.txt"
    if not _is_whole_book(path):
        _remove(path)
        problem = _download(f"https://www.gutenberg.org/cache/epub/{number}/{name}", path, None)
        if problem or not _is_whole_book(path):
            _remove(path)
            raise AssetUnavailable(f"gutenberg/{name}", problem or "the download is not a complete book")
    return Asset(path, f"Project Gutenberg's book {number}")


def _is_whole_book(path, at_least=0, word=""):
    """Whether a file is UTF-8 text with both markers of Project Gutenberg, and has a word and a length in
    characters."""
    text = _text(path)
    return BOTH_MARKERS.search(text) is not None and len(text) > at_least and word in text


def gpt2_encoding_folder():
    """A folder that tiktoken can read GPT-2's byte-pair encoding from. Raises AssetUnavailable if there is none."""
    files = {name: (TIKTOKEN_URL + original, expected) for name, (original, expected) in TIKTOKEN_FILES.items()}
    caches = filter(None, map(setting, ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")))  # as tiktoken reads them
    return locate("tiktoken", files, map(Path, caches))


def gpt2_weights():
    """A folder with config.json and model.safetensors of GPT-2 small, or of this course's GPT-2 (notebook 04)."""
    title, own_folder, own_cache = "GPT-2 small (124M, OpenAI)", assets_folder(), cache_folder() / "hub"
    # None is the learner's own Hugging Face cache.
    for cache in [*([own_folder / "hub"] if own_folder else []), own_cache, None]:
        for revision in (GPT2_REVISION, "main"):
            if folder := _in_hub_cache(cache, revision, in_cache=cache == own_cache):
                return Asset(folder, title)
    if HUB_HOST in reachable_hosts():
        try:
            fetched = [_fetch_from_hub(name, expected, own_cache) for name, expected in GPT2_FILES.items()]
            return Asset(fetched[0].parent, title)
        except Exception as error:  # each of the hub's transports raises errors of its own kind
            problem = f"{HUB_HOST}: {type(error).__name__}: {_first_line(error)}"
            problem += "; renew HF_TOKEN or unset it" * ("401" in problem)
    else:
        problem = why_not(HUB_HOST)
    return stand_in(Path("gpt2-course"), "the course's GPT-2 (data/gpt2-course)", title, problem)


def _in_hub_cache(cache, revision, in_cache):
    """The folder of GPT-2 small in a cache of the hub's, if both files are there and sound, else None."""
    try:
        paths = [huggingface_hub.try_to_load_from_cache(GPT2_REPOSITORY, name, cache, revision) for name in GPT2_FILES]
    except OSError:  # another user's cache
        return None
    if all(isinstance(path, str) for path in paths):
        checks = zip(map(Path, paths), GPT2_FILES.values())
        if all([_is_sound(path, expected, in_cache) for path, expected in checks]):
            return Path(paths[0]).parent
    return None


def _fetch_from_hub(name, expected, cache):
    """A file of GPT-2 small from the hub. A damaged one is downloaded a second time; then OSError."""
    token = None if setting("HF_ENDPOINT") else False  # huggingface.co refuses an expired token, and needs none here
    for again in (False, True):
        path = huggingface_hub.hf_hub_download(
            GPT2_REPOSITORY, name, revision=GPT2_REVISION, cache_dir=cache, force_download=again, endpoint=HUB,
            token=token,
        )
        if _is_sound(Path(path), expected, in_cache=True):
            return Path(path)
    raise OSError(f"the download of {name} is not the file that the course knows")
