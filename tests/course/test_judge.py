"""The judge is not fooled by mutants of a solution, is fair to correct attempts of every style, and harms nothing."""

import asyncio
import builtins
import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import itertools
import math
import os
import pkgutil
import random
import signal
import sys
import tempfile
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.course import judge
from helpers.course.checking import Exercise, NotYet, as_floats, as_number, as_numbers, describe, same
from tests.course import exercise_cases, mutants
from tests.course.test_exercises import ALL

CASES = {(module.name, name): case for module in pkgutil.iter_modules(exercise_cases.__path__)
         for name, case in importlib.import_module(f"{exercise_cases.__name__}.{module.name}").CASES.items()}
FEWEST_STYLES, REJECTED, SEEDS = 5, 0.95, 4


def ids(names):
    return [".".join(name) for name in names]


# --- fair ------------------------------------------------------------------------------------------------------------


def test_every_exercise_has_a_case_with_enough_styles():
    assert set(CASES) == set(ALL)
    few = [name for name, case in CASES.items() if len(case.styles) < FEWEST_STYLES]
    assert not few, f"fewer than {FEWEST_STYLES} correct styles"
    assert all(ALL[name].solution not in case.styles for name, case in CASES.items())


@pytest.mark.parametrize("name", CASES, ids=ids(CASES))
def test_correct_attempts_of_every_style_are_accepted(name):
    for number, attempt in enumerate(CASES[name].styles):
        verdict = ALL[name].judge(attempt)
        assert verdict.solved, f"style {number} of {name}: {verdict.text}"


# --- not fooled ------------------------------------------------------------------------------------------------------


def comparable(result):
    """A result as nested tuples of numbers, texts and arrays."""
    if isinstance(result, torch.Tensor):
        return result.detach().cpu().double().numpy()
    if isinstance(result, (list, tuple)):
        return tuple(comparable(part) for part in result)
    if isinstance(result, dict):
        return tuple((key, comparable(value)) for key, value in result.items())
    return result


def are_equal(a, b):
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(are_equal, a, b))
    try:
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True)
    except (TypeError, ValueError):
        return type(a) is type(b) and a == b


def results(attempt, case, given):
    """The results of an attempt for all arguments; an error counts as a result."""
    found = []
    for arguments in given:
        torch.manual_seed(0)
        try:
            with judge.settings_restored(), judge.limited_time(2):
                found.append(comparable(case.run(attempt, *copy.deepcopy(arguments))))
        except Exception as error:
            found.append(type(error).__name__)
    return tuple(found)


def survivors(exercise, case):
    """The sources of the mutants that change the results and that the check accepts, and the number of those tried."""
    solution = exercise.solution
    sources = mutants.mutated_sources(solution, lambda: exercise.test(solution))
    if len(sources) > case.most:
        sources = random.Random(0).sample(sources, case.most)
    given = [case.inputs(seed) for seed in range(SEEDS)]
    right, exercise = results(solution, case, given), dataclasses.replace(exercise, seconds=1)
    accepted, tried = [], 0
    for source in sources:
        mutant = mutants.build(solution, source)
        if not are_equal(results(mutant, case, given), right):
            tried += 1
            if exercise.judge(mutant).solved:
                accepted.append(source)
    return accepted, tried


@pytest.mark.parametrize("name", CASES, ids=ids(CASES))
def test_mutants_of_the_solution_are_rejected(name):
    accepted, tried = survivors(ALL[name], CASES[name])
    assert tried >= 4, f"only {tried} mutants change a result: are the arguments of the case too simple?"
    assert len(accepted) <= (1 - REJECTED) * tried, f"{len(accepted)} of {tried} accepted:\n" + "\n\n".join(accepted)


def test_a_check_with_one_fixed_case_would_let_mutants_survive():
    """The mutant test itself can fail: a check of one shape accepts constants that fit this shape."""
    def check(attempt):
        if not same(as_floats(attempt(torch.arange(6.0).view(2, 3))), row_sums(torch.arange(6.0).view(2, 3))):
            raise NotYet("The sums are wrong.")
        return "The sums are right."

    def inputs(seed):
        return (torch.rand(seed + 3, seed + 4),)

    exercise = Exercise("Sums", 1, 1, (), check, row_sums)
    accepted, tried = survivors(exercise, exercise_cases.Case([], inputs))
    assert tried > 5 and any("range(2)" in source for source in accepted)


def row_sums(x):
    """The sum of each row, with loops."""
    total = torch.zeros(x.shape[0])
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total[i] += x[i, j]
    return total


def _check_in_a_file_of_the_course():
    """A check that cannot read any answer, and whose code counts as the course's, as that of all real checks does."""
    namespace = {"torch": torch}
    source = "def check(attempt):\n    return attempt(torch.ones(2)).no_such_attribute"
    exec(compile(source, f"{judge.HELPERS}/course/exercises/nb99.py", "exec"), namespace)
    return namespace["check"]


UNREADING = _check_in_a_file_of_the_course()


# --- does no harm ----------------------------------------------------------------------------------------------------


def doubled(x):
    return 2 * x


def test_doubled(attempt):
    for x in (torch.arange(4.0), torch.ones(2, 3)):
        if not same(as_floats(attempt(x.clone()), x.shape), doubled(x)):
            raise NotYet("Not twice as large.")
    return "Twice as large."


test_doubled.__test__ = False  # the check of an exercise, not a test for pytest
EXERCISE = Exercise("Double", 1, 1, ("Twice.",), test_doubled, doubled, by_hand=("torch.mul", "torch.optim", "dropout"))


def text_of(attempt, **changes):
    return dataclasses.replace(EXERCISE, **changes).judge(attempt).text


def test_a_loop_without_end_is_stopped_with_advice():
    def forever(x):
        while True:
            pass

    def stubborn(x):
        while True:
            try:
                sum(range(1000))
            except BaseException:
                pass

    def asleep(x):
        time.sleep(100)

    before = signal.getsignal(signal.SIGINT)
    for attempt in (forever, stubborn, asleep):
        start = time.perf_counter()
        said = text_of(attempt, seconds=0.5)
        assert "stopped after 0.5 seconds" in said and "Interrupt" in said
        assert time.perf_counter() - start < 60
    assert signal.getsignal(signal.SIGINT) is before
    time.sleep(0.5)  # a late interrupt would stop this test


def test_a_learner_may_still_interrupt_a_check():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EXERCISE.judge(interrupted)


def test_a_program_that_ends_does_not_end_the_notebook():
    def ends(x):
        sys.exit(3)

    assert "sys.exit()" in text_of(ends)


def test_exit_in_a_kernel_does_not_end_it(monkeypatch):
    class Shell:
        """Stands for IPython: exit() raises nothing there, it calls this method."""

        def ask_exit(self):
            raise AssertionError("the kernel ends")

    shell = Shell()
    monkeypatch.setattr(judge, "get_ipython", lambda: shell)
    assert "sys.exit()" in text_of(lambda x: shell.ask_exit())
    with pytest.raises(AssertionError, match="the kernel ends"):
        shell.ask_exit()


def test_no_error_leaves_a_check():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    def raises(error):
        def attempt(x):
            raise error
        return attempt

    for error in (Unprintable(), GeneratorExit(), asyncio.CancelledError(), RecursionError("deep")):
        assert f"Your code stopped with {type(error).__name__}" in text_of(raises(error))
    assert "The check cannot use" in text_of(lambda x: torch.nn.Module.__new__(torch.nn.Module), test=UNREADING)
    assert "Give the check the function itself" in text_of(torch.ones(2), test=UNREADING)
    assert "\\ud800" in text_of(lambda x: print("\ud800"))


def test_long_messages_and_warnings_are_shortened(capsys):
    def long(x):
        for i in range(3000):
            sys.stderr.write(f"warning {i}\n")
        raise ValueError("line\n" * 5000)

    assert len(text_of(long)) < 5000 and "warning 0" in text_of(long) and not capsys.readouterr().err


@contextlib.contextmanager
def removed_folder():
    with tempfile.TemporaryDirectory() as outer, contextlib.chdir(outer):
        folder = tempfile.mkdtemp(dir=outer)
        os.chdir(folder)
        os.rmdir(folder)
        yield


@contextlib.contextmanager
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def newer_matmul_setting():
    backend = torch.backends.mkldnn.matmul
    before, backend.fp32_precision = backend.fp32_precision, "bf16"
    try:
        yield
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before


@contextlib.contextmanager
def changed(set_it, value, usual):
    set_it(value)
    try:
        yield
    finally:
        set_it(usual)


@contextlib.contextmanager
def overwritten(*names):
    """Functions of modules, given as (module, name), that fail when they are called."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in names:
            patch.setattr(module, name, lambda *arguments, **options: 1 / 0)
        yield
        assert all(getattr(module, name).__name__ == "<lambda>" for module, name in names)


SETTINGS = {
    "no gradients": lambda: changed(torch.set_grad_enabled, False, True),
    "inference mode": torch.inference_mode,
    "float64": lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: changed(torch.set_default_dtype, torch.half, torch.float32),
    "another device": lambda: changed(torch.set_default_device, "meta", None),
    "inside a device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast everywhere": lambda: changed(functools.partial(torch.set_autocast_enabled, "cpu"), True, False),
    "low precision": lambda: changed(torch.set_float32_matmul_precision, "medium", "highest"),
    "low precision, newer setting": newer_matmul_setting,
    "deterministic": lambda: changed(torch.use_deterministic_algorithms, True, False),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "NumPy's errors": lambda: np.errstate(all="raise"),
    "NumPy's prints": lambda: np.printoptions(legacy="1.13", precision=1),
    "warnings are errors": warnings_are_errors,
    "recursion limit": lambda: changed(sys.setrecursionlimit, len(inspect.stack()) + 45, sys.getrecursionlimit()),
    "a removed folder": removed_folder,
    "overwritten functions": lambda: overwritten((builtins, "sum"), (math, "exp"), (np, "sqrt"), (torch, "softmax"),
                                                 (F, "softmax"), (F, "linear")),
}
SENSITIVE = [("nb00", "shares"), ("nb01", "lookup"), ("nb01", "causal"), ("nb01", "contributions"),
             ("nb02", "attention"), ("nb02", "layer_norm"), ("nb06", "split"), ("nb07", "loop")]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no folder that is in use")
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_notebooks_settings_do_not_make_a_right_answer_wrong(setting):
    attempts = [(name, attempt) for name in SENSITIVE for attempt in (ALL[name].solution, CASES[name].styles[0])]
    for name, attempt in attempts:
        with SETTINGS[setting]():
            verdict = ALL[name].judge(attempt)
        assert verdict.right, (name, verdict.text)


@pytest.mark.parametrize("change", [
    lambda: torch.set_grad_enabled(False), lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.set_default_device("meta"), lambda: torch.set_autocast_enabled("cpu", True)])
def test_what_an_attempt_sets_does_not_reach_the_check(change):
    """Right answers that leave a setting of torch changed, as torch.set_grad_enabled(False) in a function does."""
    for name in (("nb01", "lookup"), ("nb01", "causal"), ("nb01", "contributions"), ("nb06", "split")):
        def attempt(*arguments, right=ALL[name].solution):
            answer = right(*arguments)
            change()
            return answer

        verdict = ALL[name].judge(attempt)
        assert verdict.right, (name, verdict.text)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def fails(*arguments, **options):
    raise ArithmeticError("no words")


@pytest.mark.parametrize("kind", [list, float, torch.Tensor])
def test_an_answer_that_cannot_be_printed_is_read(kind):
    Silent = type("Silent", (kind,), dict.fromkeys(("__repr__", "__str__", "__format__"), fails))
    make = (lambda x: x.as_subclass(Silent)) if kind is torch.Tensor else Silent
    right = {list: [2.0, 4.0], float: 2.0, torch.Tensor: torch.tensor([2.0, 4.0])}[kind]
    answer = as_floats(make(right))
    assert torch.equal(answer.as_subclass(torch.Tensor), torch.as_tensor(right))
    assert describe(make(right)).startswith("a ")


def test_an_attempt_that_can_neither_be_printed_nor_compared_is_judged():
    names = "__repr__", "__str__", "__eq__", "__bool__", "__len__", "__format__"
    own = {"__hash__": object.__hash__, "__call__": lambda self, x: 2 * x}
    Odd = type("Odd", (), dict.fromkeys(names, fails) | own)
    assert EXERCISE.judge(Odd()).right


def test_a_variable_that_hides_a_function_of_python_is_named():
    notebook = {"list": [1, 2], "max": 3}
    exec("def attempt(x):\n    return [2 * value for value in list(x)]\ndef other(x):\n    return x + 'a'", notebook)
    assert "A variable named list hides Python's list(): run `del list`." in text_of(notebook["attempt"])
    assert "hides" not in text_of(notebook["other"])
    del notebook["list"]
    assert text_of(notebook["attempt"]).endswith("correct. Twice as large.")


def test_an_error_without_words_is_named():
    Wordless = type("Wordless", (ValueError,), dict.fromkeys(("__repr__", "__str__"), fails))

    def stops(*arguments):
        raise Wordless("x")

    for name in ALL:
        assert not ALL[name].judge(stops).solved
    assert "Your code stopped with Wordless" in text_of(stops)
    assert "Your code stopped with Wordless" in ALL["nb11", "gpt2"].judge(stops).text


def test_a_subclass_of_what_is_to_be_written_is_not_by_hand():
    class Mine(torch.nn.LayerNorm):
        pass

    verdict = ALL["nb02", "layer_norm"].judge(Mine)
    assert not verdict.solved and "not by hand" in verdict.text


def test_own_code_that_prints_is_used_in_later_cells():
    from helpers.course.exercises import nb02

    class Chatty(nb02.model_parts.MLP):
        def forward(self, x):
            print("x", x.shape)
            return super().forward(x)

    assert nb02.own_or_reference("MLP", Chatty) is Chatty


def test_thousands_of_prints_are_shortened(capsys):
    def prints(x):
        for i in range(20_000):
            print("line", i)
        return 2 * x

    printed = text_of(prints)
    assert printed.startswith("line 0\nline 1\n") and "more lines of your output" in printed
    assert len(printed) < 3000 and printed.endswith("Double: correct. Twice as large.")
    assert not capsys.readouterr().out


def test_a_check_restores_every_setting():
    def changes(x):
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(3)
        torch.set_grad_enabled(False)
        torch.set_float32_matmul_precision("medium")
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        torch.softmax, os.environ["COURSE_SIZE"] = None, "full"
        torch.use_deterministic_algorithms(True), torch.set_anomaly_enabled(True), np.seterr(all="raise")
        os.chdir("/"), sys.setrecursionlimit(500), warnings.simplefilter("error")
        return [2 * value for value in x.tolist()]

    def settings():
        return (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), torch.is_grad_enabled(),
                torch.get_float32_matmul_precision(), torch.get_rng_state().tolist(), random.getstate(),
                [np.asarray(part).tolist() for part in np.random.get_state()], sys.getprofile(), sys.stdout, sys.stderr,
                torch.softmax, dict(os.environ), torch.are_deterministic_algorithms_enabled(), np.geterr(), os.getcwd(),
                torch.is_anomaly_enabled(), sys.getrecursionlimit(), list(warnings.filters))

    before = settings()
    EXERCISE.judge(changes)
    assert settings() == before
    assert EXERCISE.judge(doubled).solved


def test_a_learners_own_precision_by_pytorchs_newer_settings_stops_no_check(monkeypatch):
    """The older setting can then neither be asked nor changed. PyTorch 2.9 also warns of the question."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: pytest.fail("it was changed"))

    def mixed():
        raise RuntimeError("you have used mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    assert EXERCISE.judge(doubled).solved
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: warnings.warn("use the new API") or "highest")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert EXERCISE.judge(doubled).solved
    assert not seen


def test_it_says_who_stopped_and_where():
    def wrong(x):
        return x @ "a"

    said = text_of(wrong)
    assert "Your code stopped with TypeError" in said and '`return x @ "a"`' in said
    assert "Your code stopped with TypeError" in text_of(lambda: None)  # it takes no argument

    said = text_of(lambda x: {"a": 1}, test=UNREADING)
    assert "The check cannot use your answer. You returned a dict: {'a': 1}" in said and "Your code stopped" not in said


@pytest.mark.parametrize("attempt", [
    lambda x: torch.mul(x, 2),
    lambda x: x + F.dropout(x, 0.0),
    lambda x: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0) and 2 * x,
    lambda x: [F.dropout(2 * row, 0.0) for row in x],
], ids=["builtin", "function", "class", "inside a comprehension"])
def test_what_is_to_be_written_by_hand_is_noticed(attempt):
    verdict = EXERCISE.judge(attempt)
    assert not verdict.solved and "correct, but not by hand." in verdict.text and "asked to write" in verdict.text
    assert EXERCISE.judge(lambda x: 2 * x).text == "Double: correct. Twice as large."


def test_a_name_of_ones_own_is_not_what_is_forbidden():
    def dropout(x):
        return 2 * x

    assert EXERCISE.judge(dropout).solved


ODD = {"a tuple of 2 tensors": (torch.ones(2, 3), torch.ones(4)), "a text": "abc", "an object": object(),
       "a dictionary": {"a": 1}, "a number": 7, "complex numbers": 1j * torch.ones(2, 3), "nothing": [],
       "tensors of different shapes": [torch.ones(2), torch.ones(3)]}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", CASES, ids=ids(CASES))
def test_an_answer_of_a_wrong_kind_is_no_error_of_the_learners_code(name, kind):
    verdict = ALL[name].judge(lambda *arguments, **options: copy.deepcopy(ODD[kind]))
    assert not verdict.solved and "not yet" in verdict.text, verdict.text
    assert "Your code stopped" not in verdict.text and "returns None" not in verdict.text, verdict.text


# --- reading an answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer, words", [
    ((torch.ones(2, 3), torch.ones(4)), "a tuple of 2 tensors of shapes (2, 3) and (4,)"),
    ([1, 2, 3], "a list of 3 numbers"), ([torch.ones(2)], "a list of 1 tensor of shape (2,)"),
    ([1, "a"], "a list of 2 items"), (np.ones(2), "a NumPy array of shape (2,) and type float64"),
    (torch.ones(2, dtype=torch.int64), "a tensor of shape (2,) and type int64"), ("abc", "a str: 'abc'"),
    (6, "an int: 6"), ([], "a list of 0 items"),
])
def test_an_answer_is_described(answer, words):
    assert describe(answer) == words


@pytest.mark.parametrize("convert", [
    torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double, list,
    tuple, torch.Tensor.to_sparse, lambda x: [row.tolist() for row in x], lambda x: [row.numpy() for row in x],
    lambda x: x.flip(0).numpy()[::-1], lambda x: [[torch.nn.Parameter(value) for value in row] for row in x],
])
def test_every_kind_of_array_is_read(convert):
    right = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert same(as_floats(convert(right), (3, 4)), right)
    assert not same(as_floats(convert(right + 0.1)), right)


@pytest.mark.parametrize("answer", [{}, "abc", object(), [torch.ones(2), torch.ones(3)], [[1, 2], [3]],
                                    1j * torch.ones(2)])
def test_what_cannot_be_read_is_described(answer):
    with pytest.raises(NotYet, match="You returned a"):
        as_floats(answer, (2,))


def test_numbers_are_read_or_described():
    assert as_numbers((1, torch.tensor(2.0)), ("a", "b")) == [1.0, 2.0] and as_number(np.float32(3)) == 3.0
    for answer in (6, (1, 2, 3), "12", ("a", "b"), {1: 2, 3: 4}, {1, 2}, (1, 10**400)):
        with pytest.raises(NotYet, match="Return 2 numbers: a, b. You returned an? "):
            as_numbers(answer, ("a", "b"))
    for answer, words in (((1, 2), "a tuple of 2 numbers"), ("5", "a str: '5'"), (10**400, "an int: 1000")):
        with pytest.raises(NotYet, match=f"you returned {words}"):
            as_number(answer)


def test_a_low_precision_forgives_only_what_it_must():
    right = torch.linspace(-2, 2, 50)
    for dtype, step in itertools.product((torch.float16, torch.bfloat16), (0.2, 0.5)):
        assert same(as_floats(right.to(dtype)), right) and not same(as_floats((right + step).to(dtype)), right)
    assert not same(as_floats(right + 1e-3), right) and math.isclose(as_floats(right).tolerance, 1e-4)
