"""Exercises that check themselves: what an exercise is, and the comparisons that its check is made of."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Number

import numpy as np
import torch

from helpers.course import judge, progress
from helpers.course.display import show_source

LONGEST = 2000  # characters of a verdict
TOLERANCES = {torch.float16: 5e-3, torch.bfloat16: 4e-2}  # for answers of low precision; 1e-4 for all others


class NotYet(Exception):
    """Raised by a test: the attempt is not right yet, and the message says what to look at."""


class NotBegun(NotYet):
    """Raised by a test: the attempt is still the notebook's empty stub."""


@dataclass(frozen=True)
class Verdict:
    """What a check found, and the sentence for the learner. A solution is right and, where asked, written by hand."""

    solved: bool
    text: str
    begun: bool = True
    right: bool = False


@dataclass(frozen=True)
class Exercise:
    """One exercise. test(attempt) returns praise for a right attempt, and raises NotYet with a helpful sentence for
    any other.

    hints go from a nudge to nearly the whole answer; solution is a function that passes the test; difficulty goes from
    1 to 3; minutes is how long to try before looking at the solution. by_hand: names of functions that the exercise
    asks to write, such as "scaled_dot_product_attention" or "torch.optim"; a right answer that calls one of them is not
    counted as solved. seconds: the time limit of a check.
    """

    title: str
    difficulty: int
    minutes: int
    hints: tuple
    test: Callable
    solution: Callable
    by_hand: tuple = ()
    seconds: float = 20.0

    def check(self, attempt):
        """Prints whether the attempt is right. It never raises, so an unsolved exercise does not stop "Run all"."""
        verdict = self.judge(attempt)
        print(verdict.text)
        if verdict.begun and attempt is not self.solution:
            progress.record(self.name, verdict.solved)

    def judge(self, attempt):
        """The Verdict on an attempt. The learner's code runs in limited time and changes no setting of the process;
        what it prints is shown, but not more than the first lines."""
        prints, calls, run = judge.Prints(), {}, _Attempt(attempt)
        try:
            with judge.settings_restored(), contextlib.redirect_stdout(prints), contextlib.redirect_stderr(prints), \
                    judge.calls_watched(self.by_hand) as calls, judge.limited_time(self.seconds):
                verdict = Verdict(True, f"correct. {self.test(run.callable)}", right=True)
        except NotBegun as reason:
            is_begun = not judge.is_stub(attempt)
            text = "Your function returns None. Does it end with return and a result?" if is_begun else reason
            verdict = Verdict(False, f"not yet. {text}", begun=is_begun)
        except NotYet as reason:
            verdict = Verdict(False, f"not yet. {reason}")
        except judge.OutOfTime:
            verdict = Verdict(False, f"not yet. Your code was stopped after {self.seconds:g} seconds. Does each of its "
                                     "loops end? (The menu's Kernel, Interrupt stops any cell.)")
        except SystemExit:
            verdict = Verdict(False, "not yet. Your code ends the program, with sys.exit() or exit(). Use return.")
        except KeyboardInterrupt:  # the learner pressed the stop button
            raise
        except BaseException as error:  # anything that a learner's code, or an answer of an unexpected kind, may raise
            verdict = Verdict(False, f"not yet. {run.explain(error)}")
        if verdict.right and attempt is not self.solution and (taken := self._taken(attempt, calls)):
            text = verdict.text.replace("correct.", "correct, but not by hand.", 1)
            verdict = Verdict(False, f"{text} Your code uses {taken[0]}, which you are asked to write.", right=True)
        return self._with_prints(verdict, prints.shown())

    def _with_prints(self, verdict, printed):
        """The verdict with the exercise's title and, before it, what the learner's code has printed."""
        text = verdict.text if len(verdict.text) <= LONGEST else f"{verdict.text[:LONGEST]} ..."
        text = f"{printed}\n{self.title}: {text}".lstrip("\n").encode("utf-8", "backslashreplace").decode()
        return replace(verdict, text=text)

    def _taken(self, attempt, calls):
        """The functions that the exercise asks to write and that the attempt calls, or is, or inherits from."""
        bases = attempt.__mro__[:-1] if isinstance(attempt, type) else [attempt]
        own = [name for name in map(judge.library_name, bases) if not name.startswith("helpers.course.exercises.")]
        return [name for name in own for pattern in self.by_hand if judge.is_called(name, pattern)] + list(calls)

    @property
    def name(self):
        """The exercise's name in a notebook: nb01.causal, for example."""
        module = sys.modules[self.test.__module__]
        names = (f"{module.__name__.split('.')[-1]}.{name}" for name, value in vars(module).items() if value is self)
        return next(names, self.title)

    def hint(self, number=1):
        """Prints one hint. Each gives away more than the one before: first hint(), then hint(2), and so on."""
        if number not in range(1, len(self.hints) + 1):
            print(f"{self.title} has hints 1 to {len(self.hints)}. After those, use {self.name}.show_solution().")
            return
        after = f"{self.name}.hint({number + 1})" if number < len(self.hints) else f"{self.name}.show_solution()"
        print(f"Hint {number} of {len(self.hints)}: {self.hints[number - 1]} (Next: {after})")

    def show_solution(self):
        """Shows the source of a solution. It is tested code."""
        show_source(self.solution)


class _Attempt:
    """Calls a learner's function, and remembers what it returned or raised, to tell its mistakes from the check's."""

    def __init__(self, attempt):
        self.error, self.returned, self.has_returned, self.callable, self.attempt = None, None, False, attempt, attempt
        if callable(attempt) and not isinstance(attempt, (type, torch.nn.Module)):
            self.callable = functools.update_wrapper(functools.partial(self._call, attempt), attempt)

    def _call(self, attempt, *arguments, **options):
        try:
            with judge.torch_kept():  # the check goes on with its own settings
                self.returned = attempt(*arguments, **options)
        except BaseException as error:
            self.error = error
            raise
        self.has_returned = True
        return self.returned

    def explain(self, error):
        """A sentence on an error: it came from the learner's code, or from an answer that the check cannot read."""
        line, message = judge.learners_line(error), judge.in_words(error, str)
        if line or error is self.error:
            hidden = judge.hidden_function(self.attempt) if isinstance(error, TypeError) else ""
            advice = f". A variable named {hidden} hides Python's {hidden}(): run `del {hidden}`." if hidden else ""
            return f"Your code stopped with {type(error).__name__}: {message}{f' (in {line})' if line else ''}{advice}"
        if not self.has_returned and not callable(self.attempt):
            return f"Give the check the function itself, without calling it; you gave {describe(self.attempt)}."
        given = f" You returned {describe(self.returned)}." if self.has_returned else ""
        return f"The check cannot use your answer.{given} ({type(error).__name__}: {message})"


# --- reading an answer -----------------------------------------------------------------------------------------------


def needs_answer(answer):
    """Returns the answer, and raises NotBegun while it is still None, as it is from an exercise's stub."""
    if answer is None:
        raise NotBegun("Your function returns None so far: write its body, then run the cell again.")
    return answer


def describe(answer):
    """An answer in words: its type, its shape or length, and short values themselves."""
    if isinstance(answer, (torch.Tensor, np.ndarray)):
        kind = "tensor" if isinstance(answer, torch.Tensor) else "NumPy array"
        return f"a {kind} of shape {tuple(answer.shape)} and type {str(answer.dtype).removeprefix('torch.')}"
    if isinstance(answer, (tuple, list)):
        kinds = {"tensor" if isinstance(part, torch.Tensor) else "array" if isinstance(part, np.ndarray) else
                 "number" if isinstance(part, Number) else type(part).__name__ for part in answer}
        plural = "" if len(answer) == 1 else "s"
        parts = f" {kinds.pop()}{plural}" if len(kinds) == 1 else f" item{plural}"
        if parts.startswith((" tensor", " array")):
            parts += f" of shape{plural} {' and '.join(str(tuple(part.shape)) for part in answer[:4])}"
        return f"a {type(answer).__name__} of {len(answer)}{parts}"
    text = judge.in_words(answer)
    article = "an" if type(answer).__name__[0] in "aeiou" else "a"
    return f"{article} {type(answer).__name__}: {text if len(text) <= 60 else text[:57] + '...'}"


def as_floats(answer, shape=None):
    """A learner's answer as a float32 tensor, which knows the precision of the answer (for same).

    Numbers, NumPy arrays, nested lists of numbers, and lists of tensors of one shape are accepted, too. Raises NotYet
    for anything else, and, if a shape is given, for any other shape.
    """
    needs_answer(answer)
    expected = "a tensor" if shape is None else f"a tensor of shape {tuple(shape)}"
    try:
        tensor = _as_tensor(answer)
        if tensor.is_complex():
            raise TypeError
        floats = (tensor.to_dense() if tensor.layout is not torch.strided else tensor).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        raise NotYet(f"You returned {describe(answer)}; expected {expected}.") from None
    if shape is not None and floats.shape != tuple(shape):
        raise NotYet(f"You returned {describe(answer)}; expected {expected}.")
    floats.tolerance = TOLERANCES.get(tensor.dtype, 1e-4)
    return floats


def _as_tensor(answer):
    """A tensor of an answer's values, in its own precision."""
    if isinstance(answer, torch.Tensor):
        return answer
    if isinstance(answer, (list, tuple)) and any(isinstance(part, (torch.Tensor, list, tuple)) for part in answer):
        return torch.stack([_as_tensor(part).detach() for part in answer])
    return torch.as_tensor(np.array(answer))  # a copy: torch reads no array that is reversed or read-only


def as_numbers(answer, names):
    """A learner's answer as a list of floats, one for each of the names. Raises NotYet for anything else."""
    try:
        unordered = isinstance(needs_answer(answer), (str, dict, set))
        numbers = [] if unordered else [float(number) for number in answer]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        numbers = []
    if len(numbers) != len(names):
        raise NotYet(f"Return {len(names)} numbers: {', '.join(names)}. You returned {describe(answer)}.")
    return numbers


def as_number(answer, name="a number"):
    """A learner's answer as a float. Raises NotYet for anything that is not one number."""
    try:
        return float([] if isinstance(needs_answer(answer), str) else answer)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise NotYet(f"Return {name}; you returned {describe(answer)}.") from None


# --- comparing an answer ---------------------------------------------------------------------------------------------


def same(answer, right, tolerance=None):
    """Whether a learner's tensor has the right shape and values, within what its precision allows."""
    tolerance = tolerance or getattr(answer, "tolerance", 1e-4)
    return answer.shape == right.shape and torch.allclose(answer, right.detach().float(), rtol=tolerance,
                                                          atol=tolerance)


def name_the_mistake(answer, mistakes):
    """Raises NotYet with the message whose result the answer equals. mistakes: (message, result) pairs."""
    for message, result in mistakes:
        if same(answer, result):
            raise NotYet(message)


def close(answer, right, tolerance=1e-6):
    """Whether a learner's number (plain, NumPy's or torch's) is the right one."""
    return math.isclose(float(answer), float(right), rel_tol=tolerance, abs_tol=1e-9)
