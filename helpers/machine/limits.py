"""How many processors and how much memory this process may use. A container, a batch queue or `docker run --cpus` may
allow it less than the computer has, and PyTorch and psutil do not see that."""

import os
from pathlib import Path

CGROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # Linux tells limits here, others nowhere
NO_LIMIT = 2**60  # version 1 writes "no limit" as a number of bytes above this


def _groups(controller):
    """The folders of this process's control group and of those around it, whose limits hold as well.

    A folder of version 2 is named by the path alone, one of version 1 also by its controller. A container may not see
    the folder of its own group, only what is at its root.
    """
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        inner = root / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _numbers(path):
    """The numbers in a file of a control group, without the word "max". [] if there is no such file."""
    try:
        return [int(word) for word in path.read_text(encoding="utf-8").split() if word.lstrip("-").isdigit()]
    except OSError:
        return []


def cpu_quota():
    """The processor time that this process may use per second of wall-clock time, such as 0.5, or None without a
    quota."""
    quotas = []
    for folder in _groups("cpu"):
        limit = _numbers(folder / "cpu.max")  # version 2: the quota, or the word max, and the period
        if len(limit) != 2:
            limit = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]  # version 1
        if len(limit) == 2 and min(limit) > 0:
            quotas.append(limit[0] / limit[1])
    return min(quotas, default=None)


def pausing_quota(threads):
    """The quota if it is too small for so many busy threads: the system then stops them from time to time, and no clock
    shows how long their work takes. Otherwise None."""
    quota = cpu_quota()
    return quota if quota and quota < threads else None


def processors():
    """How many processors this process may use: those that the scheduler gives it, or the quota if that is less."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(usable, cpu_quota() or usable)


def described():
    """What this process may use of the computer's processors, as the end of a caption: "" if it may use all."""
    usable, all_of_them = processors(), os.cpu_count() or 1
    return f"may use {usable:.3g} of {all_of_them} processors" if usable < all_of_them else ""


def memory():
    """The memory that this process may still take, and all that it may use, in bytes. Raises ImportError without
    psutil."""
    import psutil

    system = psutil.virtual_memory()
    available, total = system.available, system.total
    for folder in _groups("memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limits, uses = _numbers(folder / limit), _numbers(folder / used)
            if limits and uses and limits[0] < min(NO_LIMIT, system.total):
                files = _inactive_files(folder)  # a cache, which the system gives up when memory is needed
                available = min(available, max(0, limits[0] - max(0, uses[0] - files)))
                total = min(total, limits[0])
    return available, total


def _inactive_files(folder):
    try:
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    values = dict(line.split() for line in lines if line.count(" ") == 1)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
