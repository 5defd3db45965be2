"""What a learner has solved: one small file, a map of it, and an instructor's table of a whole class.

In a notebook: progress() shows the map, progress.reset("nb01.causal") forgets one exercise. An instructor collects the
files of a class in one folder and runs: python -m helpers.course.progress FOLDER
"""

import argparse
import functools
import importlib
import json
import sys
from pathlib import Path

from helpers.course.display import show_table
from helpers.machine import assets, locks
from helpers.machine.variables import setting

DRIVE = Path("/content/drive/MyDrive")  # Google Drive, where Colab has mounted it
FILE = "gpt2-from-the-inside-progress.json"
SOLVED, TRIED = "solved", "tried"
SYMBOLS = {SOLVED: "●", TRIED: "◐", None: "○"}


def path():
    """The learner's file: COURSE_PROGRESS, or on Google Drive if it is mounted, or in the course's folder."""
    if chosen := setting("COURSE_PROGRESS"):
        return Path(chosen).expanduser()
    return (DRIVE if DRIVE.is_dir() else assets.ROOT) / FILE


def read(file):
    """A progress file as {exercise: "solved" or "tried"}; {} if there is none. Raises ValueError for a damaged one."""
    file = Path(file)
    if not file.exists():
        return {}
    try:
        states = json.loads(file.read_text(encoding="utf-8"))
        if all(state in (SOLVED, TRIED) for state in states.values()):
            return states
    except (ValueError, AttributeError, TypeError, RecursionError):  # no JSON, or not a dictionary of states
        pass
    raise ValueError(f"{file} is not a progress file of this course; expected {{exercise: \"solved\" or \"tried\"}}. "
                     "Move it away or delete it; the next check begins a new one.")


def write(states):
    """Replaces the learner's file as a whole."""
    text = json.dumps(dict(sorted(states.items())), indent=1) + "\n"
    assets.write_atomically(path(), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def record(exercise, is_solved):
    """Remembers that an exercise was solved or tried; what was solved once stays solved. Returns whether it is saved.

    A check must never stop a notebook: if the file cannot be read or written, one line says so."""
    try:
        with locks.changing(path()):  # two notebooks may record at the same time
            states = read(path())
            state = SOLVED if is_solved or states.get(exercise) == SOLVED else TRIED
            if states.get(exercise) != state:
                write({**states, exercise: state})
    except (OSError, ValueError) as error:
        _say_once(f"Your progress was not saved. {error} COURSE_PROGRESS may name another file.")
        return False
    return True


@functools.cache
def _say_once(line):
    print(assets.printable(line))


def exercises():
    """All exercises of the course as {notebook: {name: Exercise}}, such as {"01": {"nb01.causal": ...}}, in order."""
    found = {}
    for file in sorted((assets.ROOT / "helpers" / "course" / "exercises").glob("nb[0-9][0-9].py")):
        module = importlib.import_module(f"helpers.course.exercises.{file.stem}")
        found[file.stem[2:]] = {f"{file.stem}.{name}": value for name, value in vars(module).items()
                                if hasattr(value, "show_solution") and not isinstance(value, type)}
    return found


def title_of(notebook):
    """A notebook's number and name, such as "01 attention theory"."""
    return next((assets.ROOT / "notebooks").glob(f"{notebook}_*.ipynb")).stem.replace("_", " ")


def progress():
    """Shows the map of all notebooks and exercises: ● solved, ◐ tried, ○ not begun."""
    rows, solved = [], 0
    try:
        states = read(path())
    except (OSError, ValueError) as error:
        print(assets.printable(f"Your progress cannot be read. {error}"))
        states = {}
    for notebook, own in exercises().items():
        done = sum(states.get(name) == SOLVED for name in own)
        solved += done
        listed = "   ".join(f"{SYMBOLS[states.get(name)]} {name.partition('.')[2]}" for name in own)
        rows.append({"notebook": title_of(notebook), "solved": f"{done} of {len(own)}", "exercises": listed})
    total = sum(map(len, exercises().values()))
    show_table(rows, caption=f"{solved} of {total} exercises solved (● solved, ◐ tried, ○ not begun). "
                             f"The file: {path().name}")


def reset(exercise):
    """Forgets one exercise, such as "nb01.causal". Raises ValueError for a name that the course does not have."""
    names = [name for own in exercises().values() for name in own]
    states = read(path())
    if len(short := [name for name in names if name.endswith(f".{exercise}")]) == 1:
        exercise = short[0]
    if exercise not in names and exercise not in states:
        raise ValueError(f"reset({exercise!r}): there is no such exercise. Write {names[1]!r}, for example: nb, the "
                         "number of the notebook, a dot, and the name that progress() shows.")
    states.pop(exercise, None)
    write(states)


progress.reset = reset


def class_table(all_states):
    """Rows for an instructor, one per exercise, from the states of all learners. No row says who they are."""
    return [{"exercise": name, "title": exercise.title,
             "solved": sum(states.get(name) == SOLVED for states in all_states),
             "tried": sum(states.get(name) == TRIED for states in all_states),
             "not begun": sum(name not in states for states in all_states)}
            for own in exercises().values() for name, exercise in own.items()]


def main(arguments=None):
    """The instructor's command: merges the progress files of a folder into a table of the class."""
    parser = argparse.ArgumentParser(prog="python -m helpers.course.progress", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a folder with the learners' progress files (.json)")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        print(f"{folder} is not a folder. Give the folder that holds the learners' progress files.", file=sys.stderr)
        return 1
    all_states, unread, known = [], 0, {name for own in exercises().values() for name in own}
    for file in sorted(folder.rglob("*.json")):
        try:
            all_states.append({name: state for name, state in read(file).items() if name in known})
        except ValueError:
            unread += 1
    if not all_states:
        print(f"{folder} holds no progress file. Expected one .json file for each learner, {FILE} of their course.",
              file=sys.stderr)
        return 1
    solved = sorted((sum(state == SOLVED for state in states.values()) for states in all_states), reverse=True)
    print(f"{len(all_states)} learners; exercises solved by each, without names: {', '.join(map(str, solved))}",
          file=sys.stderr)
    print("exercise,solved,tried,not begun,title")
    for row in class_table(all_states):
        print(f"{row['exercise']},{row['solved']},{row['tried']},{row['not begun']},\"{row['title']}\"")
    if unread:
        files = "1 other file" if unread == 1 else f"{unread} other files"
        print(f"{files} in the folder left out: not a progress file of this course.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
