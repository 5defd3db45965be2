"""A learner's progress is kept in one file, shown as a map, and merged into a table of a class without names."""

import csv
import json
import tempfile
import threading
import time

import pytest

from helpers.course import progress as module
from helpers.course.checking import Exercise, NotYet
from helpers.course.exercises import nb00, nb01
from helpers.course.progress import progress
from helpers.machine import locks


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "mine.json"))
    module._say_once.cache_clear()
    return tmp_path / "mine.json"


def states(file):
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_check_records_what_is_tried_and_solved(file, capsys):
    nb00.shares.check(lambda numbers: None)
    assert not file.exists(), "a stub is no attempt"
    nb00.shares.check(lambda numbers: print(numbers))
    assert "returns None. Does it end with return" in capsys.readouterr().out
    assert states(file) == {"nb00.shares": "tried"}
    nb00.shares.check(lambda numbers: [number / sum(numbers) for number in numbers])
    assert states(file) == {"nb00.shares": "solved"}
    nb00.shares.check(lambda numbers: numbers)
    assert states(file) == {"nb00.shares": "solved"}, "what was solved once stays solved"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_notebooks_that_record_at_the_same_time_lose_nothing(file, monkeypatch):
    read, names = module.read, [f"nb00.{letter}" for letter in "abcd"]
    monkeypatch.setattr(module, "read", lambda path: [read(path), time.sleep(0.05)][0])  # others come between
    threads = [threading.Thread(target=module.record, args=(name, True)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(file) == dict.fromkeys(names, "solved")


def test_without_a_folder_for_locks_progress_is_saved_all_the_same(file, monkeypatch):
    def fail():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    assert module.record("nb00.shares", True) and states(file) == {"nb00.shares": "solved"}


def test_a_lock_that_another_process_holds_is_named_and_stops_nothing(file, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with locks.changing(file):
        assert not module.record("nb00.shares", True)
    assert "Your progress was not saved." in capsys.readouterr().out


def test_the_official_solution_is_not_the_learners_progress(file, capsys):
    nb00.shares.check(nb00.shares.solution)
    assert "correct" in capsys.readouterr().out and not file.exists()


def test_a_right_answer_that_is_not_by_hand_counts_as_tried(file, capsys):
    def check(attempt):
        if sorted(attempt([2, 1])) != [1, 2]:
            raise NotYet("Wrong.")
        return "Right."

    exercise = Exercise("Sort", 1, 1, (), check, list, by_hand=("sorted",))
    exercise.check(lambda numbers: sorted(numbers))
    assert "not by hand" in capsys.readouterr().out and set(states(file).values()) == {"tried"}


def test_the_map_shows_all_exercises_and_what_is_solved(file, capsys):
    module.record("nb00.shares", True)
    module.record("nb01.causal", False)
    progress()
    shown = capsys.readouterr().out
    total = sum(map(len, module.exercises().values()))
    assert f"1 of {total} exercises solved" in shown and "01 attention theory" in shown
    assert "● shares" in shown and "◐ causal" in shown and "○ loss" in shown


def test_one_exercise_is_reset(file):
    module.record("nb00.shares", True)
    module.record("nb01.causal", True)
    progress.reset("nb00.shares")
    assert states(file) == {"nb01.causal": "solved"}
    progress.reset("causal")  # no other notebook has an exercise of this name
    assert states(file) == {}
    for name in ("split", "no_such"):  # several have, and none has
        with pytest.raises(ValueError, match=f"reset.'{name}'.: there is no such exercise. Write 'nb01"):
            progress.reset(name)
    assert nb01.causal.name == "nb01.causal"


def test_it_lies_beside_the_course_or_on_a_mounted_drive(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_PROGRESS")
    assert module.path() == module.assets.ROOT / module.FILE
    monkeypatch.setattr(module, "DRIVE", tmp_path)
    assert module.path() == tmp_path / module.FILE


@pytest.mark.parametrize("text", ["{", "[]", '{"nb01.causal": 7}', '{"nb01.causal": ["solved"]}', "null"])
def test_a_damaged_file_is_named_and_kept(file, capsys, text):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="mine.json is not a progress file of this course; expected"):
        module.read(file)
    progress()
    printed = capsys.readouterr().out
    assert "Your progress cannot be read." in printed and "0 of" in printed, "a damaged file must not stop Run all"
    nb00.shares.check(lambda numbers: [number / sum(numbers) for number in numbers])
    printed = capsys.readouterr().out
    assert "correct." in printed and "Your progress was not saved." in printed and "mine.json" in printed
    assert file.read_text(encoding="utf-8") == text


def test_a_folder_that_cannot_be_written_does_not_stop_a_check(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    module._say_once.cache_clear()
    for _ in range(2):
        nb00.shares.check(lambda numbers: [number / sum(numbers) for number in numbers])
    printed = capsys.readouterr().out
    assert printed.count("correct.") == 2 and printed.count("Your progress was not saved.") == 1


def test_an_instructor_merges_a_class_without_names(tmp_path, capsys):
    for name, solved in (("anna", ["nb00.shares", "nb01.causal"]), ("ben", ["nb00.shares"]), ("carla", [])):
        text = json.dumps(dict.fromkeys([*solved, "nb00.of_an_older_course"], "solved") | {"nb01.loss": "tried"})
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    (tmp_path / "other.json").write_text("[1]", encoding="utf-8")
    assert module.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "3 learners; exercises solved by each, without names: 2, 1, 0" in printed.err
    rows = {row["exercise"]: row for row in csv.DictReader(printed.out.splitlines())}
    assert len(rows) == sum(map(len, module.exercises().values()))
    assert [rows["nb00.shares"][key] for key in ("solved", "tried", "not begun")] == ["2", "0", "1"]
    assert [rows["nb01.loss"][key] for key in ("solved", "tried", "not begun")] == ["0", "3", "0"]
    assert "1 other file" in printed.err and not any(name in printed.out + printed.err for name in ("anna", "ben"))


def test_an_empty_folder_and_a_file_are_reported(tmp_path, capsys):
    (tmp_path / "one.txt").touch()
    assert module.main([str(tmp_path / "one.txt")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert module.main([str(tmp_path)]) == 1
    assert "holds no progress file. Expected one .json file for each learner" in capsys.readouterr().err
