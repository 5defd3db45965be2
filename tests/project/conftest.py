"""The website, which is built once for all tests, also where several processes run them."""

import os
import time
import warnings

import pytest

from scripts.website.__main__ import build

WAIT = 600  # seconds


@pytest.fixture(scope="session")
def website(tmp_path_factory):
    """The folder of the website of the whole course."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent  # of all processes
    folder, state = common / "website", common / "website.txt"
    try:
        with state.open("x", encoding="utf-8"):  # fails if another process builds
            pass
    except FileExistsError:
        ends = time.monotonic() + WAIT
        while not (answer := state.read_text(encoding="utf-8")) and time.monotonic() < ends:
            time.sleep(0.2)
    else:
        answer = "failed"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Sphinx, to those who write extensions
                answer = str(build(folder))
        finally:
            state.write_text(answer, encoding="utf-8")
    assert answer == "0", f"the website could not be built: {answer or 'it took too long'}"
    return folder
