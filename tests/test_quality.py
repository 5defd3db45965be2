"""What a text is like beyond its loss."""

import torch

from helpers import quality


def test_layout_counts_lines_signs_and_words():
    found = quality.layout(["half\nwhole line\n\nrest, of", "one, Two.\nxyz\n3"], {"one", "two", "whole", "line"})
    assert found["lines"] == [10, 0, 3]
    assert found["newlines"] == 5 / 40
    assert found["marks"][","] == 2000 / 40 and found["marks"]["?"] == 0
    assert found["known"] == 4 / 8
    assert quality.layout([""], set())["known"] == 0


def test_words_are_runs_of_letters_in_lower_case():
    assert quality.words_of("The_king’s 3 Houyhnhnms, naïve!") == ["the", "king", "s", "houyhnhnms", "naïve"]


def test_overlap_runs_from_nothing_to_everything():
    assert quality.overlap([1, 2, 3], [10, 20, 30]) == 1
    assert quality.overlap([1, 0], [0, 5]) == 0
    assert quality.overlap([1, 1], [1, 0]) == 0.5
    assert quality.overlap([0, 0], [1, 1]) == 0
    assert quality.line_overlap([3, 70, 71], [1, 72, 73]) == 1
    assert quality.line_overlap([3], [70]) == 0 and quality.line_overlap([], [70]) == 0


def test_the_longest_copy_is_found_where_it_is():
    trained = quality.letters(torch.tensor([5, 6, 7, 8, 9, 5, 6]))
    assert quality.longest_copy(torch.tensor([9, 9, 6, 7, 8, 4]), trained) == (3, 2)
    assert quality.longest_copy(torch.tensor([1, 2]), trained) == (0, 0)
    assert quality.longest_copy(torch.tensor([5, 6, 7, 8, 9, 5, 6]), trained) == (7, 0)
