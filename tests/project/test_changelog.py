"""CHANGELOG.md says when each verdict and exercise changed, and ERRATA.md what was wrong: both follow the course."""

import datetime
import re
import subprocess

import pytest

from helpers.course.claims import STATEMENTS, VERDICTS
from helpers.course.progress import exercises
from helpers.machine import assets
from scripts.claims_table import stored_claims

PAGES = {name: (assets.ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "ERRATA.md")}
NAMED = re.compile(r"\[(\d+)\]\(CLAIMS\.md#claim-(\d+)\) “([^”]+)”")  # a claim: its number and words of its statement
CLAIM = re.compile(rf"- Claims ({NAMED.pattern}(?:, {NAMED.pattern})*): ([a-z ]+) → ([a-z ]+)\.")
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
        *_, old, new = found.groups()
        for number in (int(number) for number, _, _ in NAMED.findall(found[1])):
            assert current.get(number, "new") == old, f"claim {number} was not “{old}” before: {line}"
            assert new in VERDICTS and new != old, line
            current[number] = new
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
    line = "- Claims [N](CLAIMS.md#claim-N) “words of its statement”: old → new. Why."
    assert not flipped, f"Add the line {line} to CHANGELOG.md for {flipped}"


def test_the_changelog_ends_with_the_exercises_of_today():
    today = {name for own in exercises().values() for name in own}
    wrong = today ^ exercises_of(PAGES["CHANGELOG.md"])
    assert not wrong, f"Add a line “- Exercises nbNN: + name. Why.” (or −) to CHANGELOG.md for {sorted(wrong)}"


def test_every_entry_about_a_verdict_or_an_exercise_has_the_form_that_is_compared():
    for line in lines(PAGES["CHANGELOG.md"]):
        is_plain = "→" not in line and " + " not in line and "−" not in line
        assert is_plain or CLAIM.match(line) or EXERCISE.match(line), line


def test_a_claim_of_the_changelog_is_named_by_words_of_its_statement():
    for line in lines(PAGES["CHANGELOG.md"]):
        if line.startswith("- Claim"):
            named = NAMED.findall(line)
            subject = NAMED.sub("", line).partition(":")[0].partition(" has ")[0].partition(" keep ")[0]
            assert named and not re.search(r"\d", subject), line
            for number, anchor, words in named:
                assert number == anchor and words in STATEMENTS[int(number)] and 3 <= len(words.split()) <= 6, line


@pytest.mark.parametrize("old, new", [
    ("is harmless”: holds → does not hold.", "is harmless”: holds → depends."),  # another verdict
    ("construct the model”: unmeasured here → holds.", "construct the model” holds now."),  # no entry
    ("twice as fast”: depends → does not hold.", "twice as fast”: holds → does not hold."),  # a gap in its history
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
        days = [datetime.datetime.strptime(day, "%d %B %Y") for day in re.findall(r"(?m)^## (\d.*)$", text)]
        assert days and days == sorted(set(days), reverse=True), name
        assert len(text.splitlines()) <= 130, f"{name}: a page that nobody reads to its end"


def errata():
    """The rows of ERRATA.md: [corrected in, since, what was wrong, who would notice]."""
    return [row.split(" | ") for row in re.findall(r"(?m)^\| (?!corrected in|---)(.*) \|$", PAGES["ERRATA.md"])]


def test_every_erratum_says_when_what_and_for_whom():
    assert 25 <= len(errata()) <= 60
    commit = r"\d{4}-\d\d-\d\d \(`[0-9a-f]{7}`\)"
    for corrected, since, what, whom in errata():
        assert re.fullmatch(commit, corrected) and re.fullmatch(rf"{commit}( to {commit})?", since), (corrected, since)
        assert since[:10] <= corrected[:10] and what.endswith(".") and len(whom) > 10, what


def test_the_dates_of_the_errata_are_those_of_their_commits():
    known = 0
    for date, commit in re.findall(r"([\d-]{10}) \(`([0-9a-f]{7})`\)", PAGES["ERRATA.md"]):
        command = ["git", "-C", str(assets.ROOT), "log", "-1", "--format=%cs", commit]
        git = subprocess.run(command, capture_output=True, text=True)
        known += git.returncode == 0
        assert git.returncode or git.stdout.strip() == date, commit
    if not known:
        pytest.skip("this copy has no history")


def test_the_edition_is_not_older_than_the_newest_entry():
    (edition,) = re.findall(r"edition of (\d+ \w+ \d{4})", (assets.ROOT / "README.md").read_text(encoding="utf-8"))
    edition = datetime.datetime.strptime(edition, "%d %B %Y")
    assert max(row[0][:10] for row in errata()) <= f"{edition:%Y-%m-%d}"
    for text in PAGES.values():
        newest = re.findall(r"(?m)^## (\d.*)$", text)[0]
        assert datetime.datetime.strptime(newest, "%d %B %Y") <= edition, newest
