"""Any input gives a result or a ValueError: the corpus cleaner, the arguments of generate, checkpoints."""

import time

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers import corpus, training
from helpers.generation import generate
from helpers.machine.checkpoints import CHECKPOINT
from helpers.model import GPT
from tests.small import TINY, train

# Every run has the same inputs and no deadline, so that a slow machine causes no failure.
settings.register_profile("course", derandomize=True, deadline=None, database=None, max_examples=100,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("course")

COURSE = corpus.load_tokenizer("course")
STARS = [
    "*** START OF", "***START OF THE", "***", "*** END OF", "End of Project Gutenberg's X", "start of", "***\n\n",
    "End of the Project Gutenberg EBook", "\r\n", "\r", "\ufeff", "’", " ", "\t", "A book.", "<|endoftext|>", "\ud83d",
]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(STARS), max_size=12).map("".join))


@given(TEXTS)
@example("*** START OF X ***\n*** END OF X ***")
@example("*** START OF *** START OF *** END OF")
def test_any_text_is_cleaned_or_refused(text):
    try:
        cleaned = corpus.strip_gutenberg(text)
    except ValueError as error:
        assert "END marker" in str(error) and corpus.START_MARKER.search(text)
        return
    assert cleaned in text and cleaned == cleaned.strip()
    if corpus.START_MARKER.search(text) is None:
        assert cleaned == text.strip()


BYTES = st.one_of(st.binary(max_size=200), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
                  TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass")))


@given(BYTES)
@example(b"\xef\xbb\xbf")
@example(b"\t\xef\xbb\xbf")
@example(b"\xff\xfeA\x00")
@example(b"")
def test_any_file_becomes_a_corpus_or_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    try:
        loaded = corpus.load_text(path, COURSE)
    except ValueError as error:
        assert any(message in str(error) for message in ("not UTF-8", "END marker", "contains no text"))
        return
    text = content.decode().removeprefix("\ufeff")  # a byte order mark only at the beginning of a file
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    assert corpus.read_text(path) == text and "\0" not in text
    assert loaded.text and loaded.text in text
    assert len(loaded.ids) and loaded.tokenizer.decode(loaded.ids) == loaded.text


@pytest.mark.parametrize("piece", ["\n", " ", "\r\n", "*", "*** ", "*** START OF ", "End of Project Gutenberg x\n"])
def test_a_long_repetitive_text_is_cleaned_quickly(piece):
    """Once the time for blank lines grew with the square of their number."""
    start = time.process_time()
    try:
        corpus.strip_gutenberg("*** START OF X ***\n" + piece * 30_000)
    except ValueError:
        pass
    assert time.process_time() - start < 2


# The arguments of generate

torch.manual_seed(0)
MODEL = GPT(TINY)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.complex_numbers(), st.just(10**400),
    st.just([1]), st.just(torch.tensor(0.7)), st.just(torch.ones(2)), st.just(1e-310), st.just(5e-324))
RIGHT_IDS = st.tuples(st.integers(1, 2), st.integers(1, 20)).map(
    lambda shape: torch.randint(TINY.vocab_size, shape, generator=torch.Generator().manual_seed(0)))
WRONG = [
    torch.zeros(2, 0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), torch.zeros((), dtype=torch.int64),
    torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int32),
    torch.zeros(1, 3, dtype=torch.bool), torch.full((1, 3), -1), torch.full((1, 3), TINY.vocab_size),
    torch.full((1, 3), 2**62), torch.zeros(1, 3, dtype=torch.int64, device="meta"), [[1, 2]], "text", None]
WRONG_IDS = st.one_of(ODD, st.sampled_from(WRONG), st.just(torch.zeros(0, 4, dtype=torch.int64)))
SETTINGS = {
    "max_new_tokens": (st.integers(0, 4), ODD),
    "temperature": (st.floats(0.01, 100), ODD),
    "top_k": (st.one_of(st.none(), st.integers(1, 10**9)), ODD),
    "top_p": (st.one_of(st.none(), st.floats(0.01, 1)), ODD),
    "generator": (st.one_of(st.none(), st.integers(0, 99).map(lambda seed: torch.Generator().manual_seed(seed))), ODD),
    "use_cache": (st.booleans(), st.booleans()),
}


@st.composite
def arguments(draw):
    """Arguments of generate, at most two of them odd."""
    odd = draw(st.sets(st.sampled_from(["ids", *SETTINGS]), max_size=2))
    chosen = {name: draw(strange if name in odd else usual) for name, (usual, strange) in SETTINGS.items()}
    return {"ids": draw(WRONG_IDS if "ids" in odd else RIGHT_IDS), **chosen}


@pytest.mark.parametrize("ids", WRONG, ids=str)
def test_ids_of_every_wrong_kind_are_refused(ids):
    with pytest.raises(ValueError, match="^ids"):
        generate(MODEL, ids, 3)


@settings(max_examples=200)
@given(arguments())
def test_any_arguments_generate_or_are_refused(given_arguments):
    try:
        ids = generate(MODEL, **given_arguments)
    except ValueError as error:
        names = ("ids", *SETTINGS)
        assert str(error).startswith(names), str(error)
        return
    before, new = given_arguments["ids"], int(given_arguments["max_new_tokens"])
    assert ids.shape == (len(before), before.shape[1] + new) and torch.equal(ids[:, : before.shape[1]], before)
    assert not ids.numel() or (0 <= ids.min() and ids.max() < TINY.vocab_size)


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    train(out=folder)
    return folder, (folder / CHECKPOINT).read_bytes(), training.load_checkpoint(folder)["model"]


@settings(max_examples=60)
@given(st.data())
def test_an_altered_checkpoint_is_refused_or_holds_the_same_weights(checkpoint, data):
    folder, content, weights = checkpoint
    changed, end = bytearray(content), len(content) - 1
    places = st.one_of(st.integers(0, end), st.integers(end - 3000, end))  # the table of contents is at the end
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        changed[place] ^= data.draw(st.integers(1, 255))
    (folder / CHECKPOINT).write_bytes(changed[: data.draw(st.sampled_from([end + 1, end]))])
    try:
        loaded = training.load_checkpoint(folder)["model"]
    except ValueError as error:
        assert "is damaged" in str(error)
        return
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
