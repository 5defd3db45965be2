"""Text and tokens: the book as the course uses it, other files, batches, and the n-gram baselines."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch

from helpers import corpus, ngrams, training
from helpers.machine import assets
from tests import small

pytestmark = pytest.mark.offline

BODY = "CHAPTER I.\n\nMy father had a small estate.\n\nEnd of my story."


def gutenberg(start, end, newline="\n"):
    return newline.join(["The header.", "", start, "", BODY.replace("\n", newline), "", end, "", "The licence."])


@pytest.mark.parametrize(
    "start, end",
    [
        ("***START OF THE PROJECT GUTENBERG EBOOK X***", "***END OF THE PROJECT GUTENBERG EBOOK X***"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK X ***", "*** END OF THIS PROJECT GUTENBERG EBOOK X ***"),
        ("*** Start of the Project Gutenberg EBook X,\nby Y ***", "*** End of the Project Gutenberg EBook X ***"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK X ***",
         "End of the Project Gutenberg EBook of X, by Y\n\n*** END OF THE PROJECT GUTENBERG EBOOK X ***"),
        ("*** START OF THIS PROJECT GUTENBERG EBOOK X ***",
         "End of Project Gutenberg's X, by Y\n\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_header_and_licence_are_cut_however_they_are_spelled(tmp_path, start, end, newline):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + gutenberg(start, end, newline).encode())
    assert corpus.strip_gutenberg(corpus.read_text(path)) == BODY


def test_other_texts_stay_as_they_are():
    assert corpus.strip_gutenberg("\n A text with *** in it. \n") == "A text with *** in it."


def test_an_incomplete_book_is_refused():
    with pytest.raises(ValueError, match="no END marker"):
        corpus.strip_gutenberg("*** START OF THE PROJECT GUTENBERG EBOOK X ***\nCHAPTER I.")


def library_of(number):
    """Books as Project Gutenberg delivers them: [(file, body)]."""
    licence = "Updated editions replace the old ones.\n\nProject Gutenberg sends news of new eBooks.\n"
    spelled = [("*** START OF THE PROJECT GUTENBERG EBOOK {} ***", "*** END OF THE PROJECT GUTENBERG EBOOK {} ***"),
               ("***START OF THE PROJECT GUTENBERG EBOOK {},\nA TALE***", "***END OF THIS EBOOK {}***"),
               ("*** Start of this Project Gutenberg Ebook {} ***",
                "End of Project Gutenberg's {}, by Nobody\n\n\n*** End of this Project Gutenberg Ebook {} ***")]
    found = []
    for n in range(number):
        body, (start, end) = f"CHAPTER {n}.\n\nA ship *** left the port.\n\nThe end of book {n}.", spelled[n % 3]
        found.append(("\n".join([f"The Project Gutenberg EBook of {n}\n", start.replace("{}", str(n)), "", body, "",
                                 end.replace("{}", str(n)), licence]), body))
    return found


@pytest.mark.parametrize("number", [1, 2, 3, 7])
@pytest.mark.parametrize("between", ["", "\n", "\ufeff", "\n\n\ufeff"])
def test_every_book_of_a_file_is_kept_in_order(tmp_path, capsys, number, between):
    """cat a.txt b.txt > all.txt; each file may begin with a byte order mark."""
    files, bodies = zip(*library_of(number))
    (tmp_path / "all.txt").write_bytes(between.join(files).replace("\n", "\r\n").encode())
    loaded = corpus.load_text(tmp_path / "all.txt", "course")
    assert loaded.text == "\n\n".join(bodies) == "\n\n".join(map(corpus.strip_gutenberg, files))
    output = capsys.readouterr().out  # of one book, only header and licence are cut, which needs no line
    cut = len(between.join(files)) - sum(map(len, bodies))
    assert output == "" if number == 1 else output.count("\n") == 1 and f"of {number} books" in output
    assert number == 1 or abs(int(output.split()[2].replace(",", "")) - cut) <= 4 * number, "not all that is cut"


def test_text_that_a_learner_adds_around_a_book_is_not_cut_silently(capsys):
    (book, body), = library_of(1)
    for text in (f"My notes.\n\n{book}", f"{book}\n\nMy notes.", f"On Project Gutenberg:\n{book}\n\nGutenberg!"):
        assert corpus.strip_gutenberg(text) == body
        assert "characters outside of the START and END markers of 1 book; " in capsys.readouterr().out


@pytest.mark.parametrize("text", [
    'Its files begin with "*** START OF THE PROJECT GUTENBERG EBOOK X ***" and\nend with "*** END OF ...". My notes.',
    "My notes.\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\nMore notes.",
    "My notes.\n*** START OF\n\n*** the next part\nMore notes.",
    "A scene.\n***\nSTART OF ALL\n***\nEND OF ALL"])
def test_a_text_that_quotes_a_marker_is_kept_whole(text):
    assert corpus.strip_gutenberg(text) == text


@pytest.mark.parametrize("order, message", [
    ("SSE", "START in line 1, START in line 3, END in line 5"),
    ("SEE", "START in line 1, END in line 3, END in line 5"),
    ("ESE", "END in line 1, START in line 3, END in line 5"),
    ("SES", "START in line 1, END in line 3, START in line 5"),
])
def test_markers_without_their_partners_are_refused(order, message):
    lines = {"S": "*** START OF THE PROJECT GUTENBERG EBOOK X ***\nA book.", "E": "*** END OF IT ***\nA licence."}
    with pytest.raises(ValueError, match=f"{message}.*fetch it again.*word before a marker"):
        corpus.strip_gutenberg("\n".join(lines[kind] for kind in order))


def test_gulliver_has_the_known_number_of_tokens(real_files):
    gulliver = corpus.load_gulliver()
    assert not gulliver.is_stand_in
    assert len(gulliver.ids) == 144_937 and gulliver.tokenizer.vocab_size == 50_257
    assert len(gulliver.ids.unique()) == 9_780
    assert "\r" not in gulliver.text and "\ufeff" not in gulliver.text and "Gutenberg License" not in gulliver.text
    train, test = gulliver.split()
    assert (len(train), len(test)) == (130_443, 14_494)
    assert gulliver.tokenizer.decode(gulliver.ids) == gulliver.text


def test_ngram_baselines_on_gulliver(real_files):
    gulliver = corpus.load_gulliver()
    losses = corpus.ngram_losses(*gulliver.split(), gulliver.tokenizer.vocab_size)
    assert losses["unigram"] == pytest.approx(6.61, abs=0.05)
    assert losses["bigram"] == pytest.approx(5.37, abs=0.05)


def test_offline_a_line_names_each_stand_in(offline, capsys):
    corpus.load_tokenizer.cache_clear()
    voyage = corpus.load_gulliver()
    corpus.load_tokenizer.cache_clear()
    assert voyage.is_stand_in and "Brass Yard" in voyage.title and voyage.tokenizer.vocab_size == 4096
    output = capsys.readouterr().out
    assert output.count("Stand-in") == 2 and "Gulliver" in output and "50,257" in output
    assert len(voyage.text.split()) > 8_000


def test_course_tokenizer_is_lossless_on_any_text():
    course = corpus.load_tokenizer("course")
    for text in ("", "The Brass Yard", "naïve — “quotes” 北京 🚢\n\n\ttabs  ", "<|endoftext|>"):
        assert course.decode(course.encode(text)) == text
    assert course.vocab_size == 4096 and course.end_of_text == 4095
    assert course.end_of_text not in course.encode("<|endoftext|>")
    assert "".join(course.pieces("some words")) == "some words"
    with pytest.raises(ValueError, match="knows 0 to 4095"):
        course.decode([4096])
    with pytest.raises(ValueError, match='"library" or "course"'):
        corpus.load_tokenizer("llama")


def test_a_learners_own_text_is_loaded_in_the_same_way(tmp_path):
    own = tmp_path / "my letters.txt"
    own.write_text("Dear friend,\r\nhow are you?\r\n" * 50, encoding="utf-8", newline="")
    letters = corpus.load_text(own, "course")
    assert letters.title == "my letters" and "\r" not in letters.text and letters.ids.dtype == torch.int64
    (tmp_path / "empty.txt").write_text(" \n ")
    with pytest.raises(ValueError, match="contains no text"):
        corpus.load_text(tmp_path / "empty.txt", "course")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        corpus.load_text(tmp_path / "latin.txt", "course")
    with pytest.raises(FileNotFoundError, match="nothing.txt"):
        corpus.load_text(tmp_path / "nothing.txt", "course")


def test_utf16_and_zero_bytes_are_refused(tmp_path):
    """Windows' editors call UTF-16 "Unicode". Without its mark it is valid UTF-8 with a zero byte after each letter."""
    for name, content in {"mark": "A ship.".encode("utf-16"), "bare": "A ship.".encode("utf-16-le"),
                          "code page": "naïve".encode("cp1252"), "binary": b"PK\x03\x04\0\0"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is not UTF-8 text \(byte \d+\). Save it as UTF-8"):
            corpus.read_text(tmp_path / name)


def test_the_split_keeps_order_and_loses_nothing():
    voyage = corpus.load_text(assets.DATA / "voyage.txt", "course")
    train, test = voyage.split(0.25)
    assert torch.equal(torch.cat([train, test]), voyage.ids)
    assert len(test) / len(voyage.ids) == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(ValueError, match="test_share=1.5"):
        voyage.split(1.5)


def test_the_validation_set_is_the_last_tenth_of_the_training_set():
    train, validation = corpus.split_validation(torch.arange(100))
    assert train.tolist() == list(range(90)) and validation.tolist() == list(range(90, 100))
    with pytest.raises(ValueError, match="share=1"):
        corpus.split_validation(torch.arange(100), 1)
    with pytest.raises(ValueError, match="1 tokens are too few"):
        corpus.split_validation(torch.arange(1))


def test_bits_per_byte_of_a_uniform_guess():
    voyage = corpus.load_text(assets.DATA / "voyage.txt", "course")
    expected = 12 * len(voyage.ids) / len(voyage.text.encode())  # 4,096 equal chances are 12 bits per token
    assert voyage.bits_per_byte(math.log(4096), voyage.ids) == pytest.approx(expected)


def test_targets_are_inputs_shifted_by_one():
    ids = torch.arange(1000)
    x, y = corpus.random_batch(ids, 64, 20, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (64, 20) and x.dtype == torch.int64
    assert torch.equal(y, x + 1) and torch.equal(x - x[:, :1], torch.arange(20).expand(64, 20))
    again, _ = corpus.random_batch(ids, 64, 20, torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    assert corpus.random_batch(ids, 2, 5, device="meta")[0].device.type == "meta"


def test_every_window_can_be_drawn_and_none_beyond_the_end():
    x, y = corpus.random_batch(torch.arange(12), 3000, 8, torch.Generator().manual_seed(0))
    assert sorted(x[:, 0].unique().tolist()) == [0, 1, 2, 3] and y.max() == 11
    x, y = corpus.random_batch(torch.arange(9), 2, 8)  # the shortest text that is long enough
    assert torch.equal(y[0], torch.arange(1, 9))


@pytest.mark.parametrize("N, T", [(12, 8), (9, 8), (30, 4), (20, 1), (12, 10)])
def test_windows_with_a_token_are_counted(N, T):
    """Against every window, written out: there are N - T, and the last token of a text is only ever a target."""
    windows = [range(start, start + T) for start in range(N - T)]
    counts = [corpus.windows_with(i, N, T) for i in range(N)]
    assert counts == [sum(i in window for window in windows) for i in range(N)]
    assert counts[-1] == 0 and sum(counts) == T * len(windows)


def test_the_expected_coverage_is_that_of_random_batches():
    N, T, draws, rounds = 40, 8, 5, 2000
    generator = torch.Generator().manual_seed(0)
    x, _ = corpus.random_batch(torch.arange(N), draws * rounds, T, generator)
    drawn = torch.zeros(rounds, N).scatter_(1, x.reshape(rounds, draws * T), 1)  # 1 where a round has drawn the token
    shares = drawn.mean(dim=1)
    standard_error = (shares.std() / rounds**0.5).item()
    assert corpus.expected_coverage(N, T, draws) == pytest.approx(shares.mean().item(), abs=4 * standard_error)
    assert standard_error < 0.003
    assert corpus.expected_coverage(N, T, 0) == 0
    assert corpus.expected_coverage(N, T, 10_000) == pytest.approx((N - 1) / N)  # the last token is never an input
    assert corpus.expected_coverage(N, T, 1) == pytest.approx(T / N)


@pytest.mark.parametrize("length", [0, 5, 8])
def test_a_text_shorter_than_a_sequence_is_named(length):
    with pytest.raises(ValueError, match=f"has {length} tokens; sequences of 8 .* need at least 9"):
        corpus.random_batch(torch.zeros(length, dtype=torch.int64), 4, 8)


def test_ngram_losses_of_sequences_with_a_known_entropy():
    rng = np.random.default_rng(0)
    independent = torch.tensor(rng.choice(4, p=[0.5, 0.25, 0.125, 0.125], size=20_000))
    losses = corpus.ngram_losses(independent[:15_000], independent[15_000:], 4)
    entropy = 1.75 * math.log(2)
    assert losses["unigram"] == pytest.approx(entropy, abs=0.02)
    assert losses["bigram"] == pytest.approx(entropy, abs=0.02)
    cycle = torch.arange(20_000) % 4
    losses = corpus.ngram_losses(cycle[:15_000], cycle[15_000:], 4)
    assert losses["unigram"] == pytest.approx(math.log(4), abs=0.01) and losses["bigram"] < 0.1
    assert corpus.ngram_losses(cycle[:100], torch.tensor([9, 0]), 10)["bigram"] == pytest.approx(
        corpus.ngram_losses(cycle[:100], torch.tensor([9, 0]), 10)["unigram"]
    )  # after a token never seen, the bigram is the unigram: its probabilities add up to 1
    with pytest.raises(ValueError, match="at least 20 and 2"):
        corpus.ngram_losses(cycle[:5], cycle[:5], 4)


def test_baselines_are_not_fitted_to_the_test_set():
    """The two constants come from the training set, so the loss of two test texts is the mean of their losses."""
    ids = torch.randint(50, (3000,), generator=torch.Generator().manual_seed(0))
    ids[1::2] = (ids[0::2] + 1) % 50
    train, first, second = ids[:2000], torch.arange(401) % 50, ids[2500:2901]
    losses = [corpus.ngram_losses(train, text, 50)["bigram"] for text in (first, second)]
    joined = corpus.ngram_losses(train, torch.cat([first, second]), 50)["bigram"]
    bridge = corpus.ngram_losses(train, torch.stack([first[-1], second[0]]), 50)["bigram"]
    assert joined * 801 == pytest.approx(losses[0] * 400 + losses[1] * 400 + bridge)


def test_an_altered_tokenizer_is_noticed(monkeypatch, tmp_path):
    for name in ("SHA256SUMS", "course.tiktoken"):
        (tmp_path / name).write_bytes((assets.DATA / name).read_bytes())
    monkeypatch.setattr(assets, "DATA", tmp_path)
    corpus.load_tokenizer.cache_clear()
    assert corpus.load_tokenizer("course").vocab_size == 4096
    corpus.load_tokenizer.cache_clear()
    lines = (tmp_path / "course.tiktoken").read_bytes().splitlines(keepends=True)
    (tmp_path / "course.tiktoken").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(assets.AssetDamaged, match="git checkout data/course.tiktoken"):
        corpus.load_tokenizer("course")
    corpus.load_tokenizer.cache_clear()


def test_an_epoch_draws_each_window_once():
    ids, B, T = torch.arange(1000), 4, 10
    per_epoch = (1000 - T) // T // B
    for epoch in range(3):
        batches = [corpus.epoch_batch(ids, B, T, epoch * per_epoch + i, seed=5) for i in range(per_epoch)]
        inputs = torch.cat([x for x, _ in batches])
        assert inputs.shape == (per_epoch * B, T)
        assert len(inputs.unique()) == inputs.numel()  # the ids are their own places: none is drawn twice
        assert all(torch.equal(x + 1, y) for x, y in batches)
        assert len((inputs[:, 0] % T).unique()) == 1  # laid end to end
    orders = [corpus.epoch_batch(ids, B, T, step, seed)[0] for step, seed in ((0, 0), (per_epoch, 0), (0, 1))]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(orders, 2))
    assert torch.equal(orders[0], corpus.epoch_batch(ids, B, T, 0, 0)[0])


def test_the_windows_of_an_epoch_begin_everywhere_and_never_leave_the_text():
    ids = torch.arange(64)
    seen = {int(corpus.epoch_batch(ids, 1, 8, step)[1].max()) for step in range(2000)}
    assert max(seen) == 63
    starts = {int(corpus.epoch_batch(ids, 1, 8, step)[0].min()) for step in range(2000)}
    assert min(starts) == 0 and {start % 8 for start in starts} == set(range(8))


def test_a_text_too_short_for_an_epoch_is_named():
    with pytest.raises(ValueError, match="needs at least 50"):
        corpus.epoch_batch(torch.arange(49), 4, 10, 0)
    assert corpus.epoch_batch(torch.arange(50), 4, 10, 0)[0].shape == (4, 10)


def test_a_share_of_the_tokens_is_replaced():
    torch.manual_seed(0)
    ids = torch.full((200, 50), 7)
    noisy = corpus.replace_some(ids, 0.2, 1000)
    assert 0.17 < (noisy != ids).float().mean() < 0.23 and 0 <= noisy.min() and noisy.max() < 1000
    assert noisy[noisy != 7].unique().numel() > 500  # not one and the same token
    assert torch.equal(corpus.replace_some(ids, 0.0, 1000), ids)


@pytest.mark.parametrize("wrong, message", [
    ({"ids": [1, 2, 3]}, "ids are a list .* a tensor"), ({"ids": np.arange(99)}, "ids are a ndarray of the shape .99"),
    ({"ids": torch.zeros(9, 99, dtype=torch.int64)}, "shape .9, 99.; expected one sequence"),
    ({"batch_size": 0}, "batch_size=0"), ({"batch_size": -1}, "batch_size=-1"), ({"batch_size": 2.5}, "batch_size=2.5"),
    ({"context": 0}, "context=0"), ({"context": 2.0}, "context=2.0"), ({"context": True}, "context=True"),
])
@pytest.mark.parametrize("function", [corpus.random_batch, functools.partial(training.evaluate, small.new_model())],
                         ids=["draw", "evaluate"])
def test_ids_and_sizes_of_batches_that_make_no_sense_are_named(function, wrong, message):
    with pytest.raises(ValueError, match=message):
        function(**{"ids": torch.arange(99) % 64, "batch_size": 2, "context": 4, **wrong})


@pytest.mark.parametrize("ids", [torch.zeros(1, 3, dtype=torch.int64), [1.5], "abc", torch.tensor([0.5]), 7], ids=str)
def test_what_is_no_sequence_of_ids_is_not_decoded(ids):
    with pytest.raises(ValueError, match=r"expects ids.* take one sequence: ids\[0\]"):
        corpus.load_tokenizer("course").decode(ids)


def test_several_texts_are_not_encoded_as_one():
    with pytest.raises(ValueError, match="given a list. Of several texts, encode each"):
        corpus.load_tokenizer("course").encode(["one", "two"])


def test_how_much_is_left_of_a_text_that_quotes_two_markers_is_said(capsys):
    text = "My notes on books.\n\n*** START OF X ***\nand\n*** END OF X ***\n\nThese markers surround each book.\n"
    assert corpus.strip_gutenberg(text) == "and"
    printed = capsys.readouterr().out
    assert "of 1 book; 5 are kept. If you only quote these markers, put a word before them." in printed


@pytest.mark.parametrize("ids", [torch.tensor([8, 9] * 50), torch.tensor([-1, 2] * 50)])
def test_counting_refuses_ids_that_the_vocabulary_does_not_have(ids):
    for losses in (corpus.ngram_losses, ngrams.kneser_ney_losses):
        with pytest.raises(ValueError, match="vocab_size=5 knows 0 to 4"):
            losses(ids, ids, 5)
