"""The statistics of a text: layout, words, repetition, copied passages, entropy."""

import pytest
import torch

from helpers.course import text_statistics
from helpers.course.text_statistics import distinct_words, entropy, repeated_ngrams
from helpers.generation import next_token_probabilities


def test_layout_counts_lines_marks_and_words():
    known = {"one", "two", "whole", "line"}
    layout = text_statistics.layout(["half\nwhole line\n\nrest, of", "one, Two.\nxyz\n3"], known)
    assert layout["lines"] == [10, 0, 3]
    assert layout["newlines"] == 5 / 40
    assert layout["marks"][","] == 2000 / 40 and layout["marks"]["?"] == 0
    assert layout["known"] == 4 / 8
    assert text_statistics.layout([""], set())["known"] == 0


def test_words_are_runs_of_letters_in_lower_case():
    assert text_statistics.words_of("The_king’s 3 Houyhnhnms, naïve!") == ["the", "king", "s", "houyhnhnms", "naïve"]


def test_overlap_runs_from_0_to_1():
    assert text_statistics.overlap([1, 2, 3], [10, 20, 30]) == 1
    assert text_statistics.overlap([1, 0], [0, 5]) == 0
    assert text_statistics.overlap([1, 1], [1, 0]) == 0.5
    assert text_statistics.overlap([0, 0], [1, 1]) == 0
    assert text_statistics.line_overlap([3, 70, 71], [1, 72, 73]) == 1
    assert text_statistics.line_overlap([3], [70]) == 0 and text_statistics.line_overlap([], [70]) == 0


def test_the_longest_copied_run_and_its_place():
    trained = text_statistics.letters(torch.tensor([5, 6, 7, 8, 9, 5, 6]))
    assert text_statistics.longest_copy(torch.tensor([9, 9, 6, 7, 8, 4]), trained) == (3, 2)
    assert text_statistics.longest_copy(torch.tensor([1, 2]), trained) == (0, 0)
    assert text_statistics.longest_copy(torch.tensor([5, 6, 7, 8, 9, 5, 6]), trained) == (7, 0)


def test_entropy_of_known_distributions():
    assert entropy(torch.tensor([1.0, 0, 0, 0])).item() == 0
    uniform = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    torch.testing.assert_close(entropy(uniform), torch.log(torch.tensor([4.0, 2.0])))
    probabilities = next_token_probabilities(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(entropy(probabilities), torch.distributions.Categorical(probabilities).entropy())


def test_repeated_ngrams_are_counted():
    assert repeated_ngrams(range(10)) == 0
    assert repeated_ngrams([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)  # the last of 5 repeats the first
    assert repeated_ngrams(torch.zeros(14, dtype=torch.int64)) == pytest.approx(10 / 11)
    assert repeated_ngrams([1, 1, 1], n=1) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="4-gram"):
        repeated_ngrams([1, 2, 3])


def test_the_share_of_distinct_words():
    assert distinct_words("The ship, the SHIP; a sea.") == pytest.approx(4 / 6)
    assert distinct_words("… 42 _") == 0
