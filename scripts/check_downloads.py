"""Download the book, the tokenizer and GPT-2's weights from their hosts with the course's own code, and say what came.

    python -m scripts.check_downloads

Files go to the course's cache (COURSE_CACHE names another), where the notebooks find them; a file that is there already
is only verified. The book's second source is asked as well, into a temporary folder. The exit status is 1 if anything
could not be downloaded, and the course would use a stand-in.
"""
import os
import sys
import tempfile
from unittest import mock

from helpers.machine import assets, hosts


def second_source() -> assets.Asset:
    """The book from the source that the course takes where the first one is dead."""
    dead = assets.GULLIVER_URL.replace(hosts.HOSTS[0], "does-not-answer.invalid")
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, COURSE_CACHE=folder), \
            mock.patch.object(assets, "GULLIVER_URL", dead):
        return assets.gulliver()


def tokenizer() -> assets.Asset:
    """GPT-2's byte-pair encoding."""
    return assets.Asset(assets.gpt2_encoding_folder(), "GPT-2's byte-pair encoding")


def main() -> int:
    os.environ.pop("COURSE_ASSETS", None)  # a file of the learner's own would be taken before a download
    found = {}
    for name, fetch in {"book": assets.gulliver, "book, second source": second_source, "tokenizer": tokenizer,
                        "weights": assets.gpt2_weights}.items():
        try:
            found[name] = fetch()
        except assets.AssetUnavailable as unavailable:
            print(unavailable)
            found[name] = None
    failed = [name for name, asset in found.items() if asset is None or asset.is_stand_in]
    if (book := found["book"]) and "current edition" in book.title:
        failed.append("book, first source")
    for name, asset in found.items():
        print(f"{'FAILED' if name in failed else 'ok':8}{name:22}{'' if asset is None else asset.title}")
    print(f"Could not be downloaded: {', '.join(failed)}." if failed else "All downloads work.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
