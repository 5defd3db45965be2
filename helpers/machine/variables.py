"""Environment variables, read as people write them. CONTRIBUTING.md has a table of the course's own."""

import os

OWN = ("COURSE_SIZE", "COURSE_DEVICE", "COURSE_ASSETS", "COURSE_CACHE", "COURSE_OFFLINE", "COURSE_PROGRESS",
       "COURSE_RECORD", "COURSE_FIGURE_SCALE")


def setting(name):
    """The value of an environment variable, or "" where it is not set.

    Spaces and quotation marks around it are left out: Windows' `set` and Docker's files of variables keep them.
    """
    return os.environ.get(name, "").strip().strip("\"'").strip()


def is_on(name):
    """Whether a variable that is 1 or 0 is on. "false", "no" and "off" are 0 too."""
    return setting(name).lower() not in ("", "0", "false", "no", "off")
