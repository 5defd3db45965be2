"""The library from which the course's tokenizer and its GPT-2 learn: 400 public-domain books, split by author.

The books come from the folder library/ of an assets folder (COURSE_ASSETS): library.jsonl.xz, one book per line with
author, title, year and text. library.tsv lists them, with the sha256 of each text and its Project Gutenberg number
where one is known; without the folder, those with a number are downloaded. Swift is not among them.
"""

import csv
import functools
import hashlib
import json
import lzma
import re
import textwrap
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from helpers import corpus
from helpers.course import arms
from helpers.machine import assets

LIST = Path(__file__).with_name("library.tsv")
PAUSE = 2  # seconds between two downloads: Project Gutenberg asks programs to wait
DOWNLOADED = 0.2  # a book that takes longer than this was not in the cache, in seconds
VALIDATION_AUTHORS = ("Wilkie Collins",)  # for choices, such as the tokenizer or the number of steps
TEST_AUTHORS = ("Elizabeth Gaskell", "Joseph Conrad")  # measured once, at the end. Conrad writes of the sea
SET_IN_LINES = 1 / 3  # the chance of a training book to be set in lines, as Project Gutenberg prints its texts


@dataclass(frozen=True)
class Book:
    """One book of the library."""

    author: str
    title: str
    year: int
    text: str

    @property
    def split(self):
        """The split to which the book's author belongs: "train", "validation" or "test"."""
        return {**dict.fromkeys(VALIDATION_AUTHORS, "validation"), **dict.fromkeys(TEST_AUTHORS, "test")}.get(
            self.author, "train")

    def training_text(self):
        """The text as the model reads it in training: about a third of the books are set in lines."""
        digest = hashlib.sha256(f"{self.author}: {self.title}".encode()).digest()
        if digest[0] >= 256 * SET_IN_LINES:
            return self.text
        return in_lines(self.text, width=66 + digest[1] % 9, double_space=digest[2] % 2 == 0)


def in_lines(text, width, double_space):
    """A text as Project Gutenberg prints it: short lines, curly quotes, and often two spaces after a sentence.

    The library has one line per paragraph and straight quotes. Gulliver's Travels, like most texts from Project
    Gutenberg, has lines of about 70 characters. Without this the model would never have met a line break within a
    sentence.
    """
    text = re.sub(r"(^|[\s(\[—-])\"", "\\1“", text, flags=re.MULTILINE).replace('"', "”")
    text = re.sub(r"(^|[\s(\[—“-])'", "\\1‘", text, flags=re.MULTILINE).replace("'", "’")
    if double_space:
        text = re.sub(r"([.!?]”?) +(?=[“A-Z])", r"\1  ", text)
    lines = (textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join(lines)


def listed():
    """The rows of library.tsv: author, title, year, words, gutenberg (a number, or empty), sha256 of the text."""
    with open(LIST, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@functools.cache
def books():
    """All books: from COURSE_ASSETS, or else those with a number from Project Gutenberg, in other editions perhaps.

    Raises ValueError if the file in COURSE_ASSETS does not hold the listed texts.
    """
    path = assets.assets_folder() and assets.assets_folder() / "library" / "library.jsonl.xz"
    if not path or not path.is_file():
        print("There is no library in COURSE_ASSETS: the numbered books come from Project Gutenberg.")
        return from_gutenberg()
    with lzma.open(path, "rt", encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    given = [(entry["title"], hashlib.sha256(entry["text"].encode()).hexdigest()) for entry in entries]
    if wrong := [pair for pair in zip_longest(given, [(row["title"], row["sha256"]) for row in listed()])
                 if pair[0] != pair[1]]:
        raise ValueError(f"{path}: {len(wrong)} books are not those of {LIST.name}; the first is {wrong[0][0]}, but "
                         f"{wrong[0][1]} was expected. Copy the library again.")
    return [Book(entry["author"], entry["title"], int(entry["year"]), entry["text"].strip()) for entry in entries]


def from_gutenberg():
    """The listed books that have a number, downloaded once and kept in the cache, each paragraph on one line."""
    numbered = {int(row["gutenberg"]): row for row in reversed(listed()) if row["gutenberg"]}  # one volume holds two
    found = []
    for number, row in sorted(numbered.items()):
        start = time.monotonic()
        text = corpus.strip_gutenberg(corpus.read_text(assets.gutenberg(number).path))
        found.append(Book(row["author"], row["title"], int(row["year"]), arms.unwrapped(text)))
        if time.monotonic() - start > DOWNLOADED:
            time.sleep(PAUSE)
    return found


def split(name):
    """The books of one split, in the order of the file."""
    return [book for book in books() if book.split == name]


def encoded(texts, tokenizer):
    """Texts as one sequence of ids, (N,) int64, with <|endoftext|> before each."""
    separator = torch.tensor([tokenizer.end_of_text])
    return torch.cat([part for text in texts for part in (separator, tokenizer.encode(text))])
