"""CHANGELOG.md says when each verdict and exercise changed, and ERRATA.md what was wrong: both follow the course."""

import datetime
import re

import pytest

from helpers.course.claims import VERDICTS
from helpers.course.progress import exercises
from helpers.machine import assets
from scripts.claims_table import stored_claims

PAGES = {name: (assets.ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "ERRATA.md")}
CLAIM = re.compile(r"- Claims ([\d, ]+): ([a-z ]+) → ([a-z ]+)\.")
EXERCISE = re.compile(r"- Exercises (nb\d\d): ([+−]) ([\w, ]+)\.")


def lines(text):
    """The entries of a changelog, the oldest first."""
    return [line for line in reversed(text.splitlines()) if line.startswith("- ")]


def verdicts_of(text):
    """{claim: verdict} after all entries of a changelog. An entry must begin where the one before it has ended."""
    current = {}
    for line in lines(text):
        if not (found := CLAIM.match(line)):
            continue
        for number in map(int, found[1].split(",")):
            assert current.get(number, "new") == found[2], f"claim {number} was not “{found[2]}” before: {line}"
            assert found[3] in VERDICTS and found[3] != found[2], line
            current[number] = found[3]
    return current


def exercises_of(text):
    """The exercises after all entries of a changelog. What is added must be new, and what is removed must be there."""
    current = set()
    for line in lines(text):
        if found := EXERCISE.match(line):
            names = {f"{found[1]}.{name.strip()}" for name in found[3].split(",")}
            assert names.isdisjoint(current) if found[2] == "+" else names <= current, line
            current ^= names
    return current


def test_the_changelog_ends_with_the_verdicts_of_today():
    stored = {row["number"]: row["verdict"] for _, row in stored_claims(assets.ROOT)}
    listed = verdicts_of(PAGES["CHANGELOG.md"])
    flipped = {number: f"{listed.get(number, 'new')} → {stored.get(number, 'gone')}"
               for number in sorted(stored | listed) if stored.get(number) != listed.get(number)}
    assert not flipped, f"Add a line “- Claims N: old → new. Why.” to CHANGELOG.md for {flipped}"


def test_the_changelog_ends_with_the_exercises_of_today():
    today = {name for own in exercises().values() for name in own}
    wrong = today ^ exercises_of(PAGES["CHANGELOG.md"])
    assert not wrong, f"Add a line “- Exercises nbNN: + name. Why.” (or −) to CHANGELOG.md for {sorted(wrong)}"


def test_every_entry_about_a_verdict_or_an_exercise_has_the_form_that_is_compared():
    for line in lines(PAGES["CHANGELOG.md"]):
        is_plain = "→" not in line and " + " not in line and "−" not in line
        assert is_plain or CLAIM.match(line) or EXERCISE.match(line), line


@pytest.mark.parametrize("old, new", [
    ("- Claims 30: holds → does not hold.", "- Claims 30: holds → depends."),  # another verdict
    ("- Claims 7: unmeasured here → holds.", "- Claim seven holds now."),  # no entry
    ("- Claims 31: depends → does not hold.", "- Claims 31: holds → does not hold."),  # a gap in its history
    ("- Exercises nb03: + lever.", "- A new exercise."),
    ("- Exercises nb04: − previous.", "- An exercise less."),
])
def test_a_flip_without_its_line_is_noticed(monkeypatch, old, new):
    assert old in PAGES["CHANGELOG.md"]
    monkeypatch.setitem(PAGES, "CHANGELOG.md", PAGES["CHANGELOG.md"].replace(old, new, 1))
    with pytest.raises(AssertionError):
        test_the_changelog_ends_with_the_verdicts_of_today()
        test_the_changelog_ends_with_the_exercises_of_today()


def test_dates_run_backwards_and_the_pages_stay_short():
    for name, text in PAGES.items():
        days = [datetime.datetime.strptime(day, "%d %B %Y") for day in re.findall(r"(?m)^## (.*)$", text)]
        assert days and days == sorted(set(days), reverse=True), name
        assert len(text.splitlines()) <= 130, f"{name}: a page that nobody reads to its end"


def test_every_erratum_says_when_what_and_for_whom():
    rows = re.findall(r"(?m)^\| (?!corrected in|---)(.*) \|$", PAGES["ERRATA.md"])
    assert 25 <= len(rows) <= 60
    for row in rows:
        corrected, since, what, whom = re.split(r" \| ", row)
        assert re.fullmatch(r"`[0-9a-f]{7}`|this edition", corrected), row
        assert re.fullmatch(r"`[0-9a-f]{7}`( to `[0-9a-f]{7}`)?|several", since), row
        assert what.endswith(".") and len(whom) > 10, row
