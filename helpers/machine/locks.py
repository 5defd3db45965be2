"""Who may write: one run at a time in a folder of results, because a second one would replace what it has saved."""

import contextlib
import os
import platform
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import filelock

from helpers.machine import assets

LOCK, HOLDER = ".lock", ".in-use-by"  # files in the folder, while a run writes into it
PATIENCE = 5  # seconds to wait for another process that changes the same small file


def results_folder(out):
    """The folder of a run's results, or None. Raises ValueError for what is no name of a folder."""
    if out is not None and (not isinstance(out, (str, os.PathLike)) or not str(out)):
        raise ValueError(f"out={out!r}: expected the name of a folder, or None to save nothing.")
    return None if out is None else Path(out)


@contextlib.contextmanager
def only_run(folder):
    """A context in which no other process writes results into a folder, which is made. None: there is no folder.

    The lock ends with the process, however that ends. Raises FileExistsError that names the other process, and OSError
    for a folder that cannot be written to.
    """
    folder = results_folder(folder)
    if folder is None:
        yield
        return
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file. Give a folder.")
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = "another process"
        with contextlib.suppress(OSError):
            holder = (folder / HOLDER).read_text("utf-8")
        raise FileExistsError(f"{folder} is in use: {holder} writes into it. Wait for that run, stop it, or choose "
                              "another folder.") from None
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{folder} cannot be written to ({reason}). Choose a folder that you may write to.") from error
    try:
        who = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%d %B, %H:%M')},"
        assets.write_atomically(folder / HOLDER, lambda temporary: temporary.write_text(who, "utf-8"))
        yield
    finally:
        for name in (HOLDER, LOCK):
            with contextlib.suppress(OSError):  # Windows keeps a locked file
                (folder / name).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def changing(path):
    """A context in which no other process of this user on this computer changes a small file. Raises OSError if one
    does for more than PATIENCE seconds. Where no lock can be made, there is none."""
    name = sha256(str(Path(path).resolve()).encode()).hexdigest()[:16]
    user = getattr(os, "getuid", int)()  # Windows gives each user a folder for temporary files
    with contextlib.ExitStack() as stack:
        try:
            lock = filelock.FileLock(Path(tempfile.gettempdir(), f"gpt2-from-the-inside-{user}-{name}.lock"))
            stack.enter_context(lock.acquire(timeout=PATIENCE))
        except filelock.Timeout:
            raise
        except OSError:
            pass
        yield
