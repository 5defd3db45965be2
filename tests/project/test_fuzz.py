"""Any input gives the result of a plain reference, or a ValueError: texts, generate, caches, settings, checkpoints."""

import copy
import dataclasses
import io
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from helpers import corpus, training
from helpers.cache import KeyValueCache
from helpers.generation import generate
from helpers.machine.checkpoints import CHECKPOINT
from helpers.model import GPT, GPTConfig
from helpers.parameters import meta_model
from helpers.training import TrainConfig
from tests.plain import assert_close, plain_logits
from tests.small import CONFIG, TINY, train
from tests.small import MODEL as MODEL_SHAPE

# Every run has the same inputs and no deadline, so that a slow machine causes no failure.
settings.register_profile("course", derandomize=True, deadline=None, database=None, max_examples=100,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("course")

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.complex_numbers(), st.just(10**400),
    st.just([1]), st.just(torch.tensor(0.7)), st.just(torch.ones(2)), st.just(1e-310), st.just(5e-324))

COURSE = corpus.load_tokenizer("course")
STARS = [
    "*** START OF", "***START OF THE", "***", "*** END OF", "End of Project Gutenberg's X", "start of", "***\n\n",
    "End of the Project Gutenberg EBook", "\r\n", "\r", "\ufeff", "’", " ", "\t", "A book.", "<|endoftext|>", "\ud83d",
]
LINES = ["*** START OF A ***", "***Start of B,\n by C***", "*** END OF A ***", "\t***end of B", "A book.", "",
         "End of Project Gutenberg's A, by C", "It says *** START OF A ***.", "It says *** END OF A ***.", "* * *"]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(STARS), max_size=12).map("".join),
                  st.lists(st.sampled_from(LINES), max_size=12).map("\n".join))


def plainly_stripped(text):
    """What is left of a text, found line by line. None where a marker has no partner."""
    lines, marks, i = text.split("\n"), [], 0  # marks: (kind, first line that it covers, the text after it)
    while i < len(lines):
        bare = lines[i].lstrip(" \t\ufeff")
        words = bare[3:].lstrip(" \t").upper() if bare.startswith("***") else ""
        if words.startswith("START OF"):
            end, rest = i, bare[3:].lstrip(" \t")[8:]
            while "***" not in rest and end + 1 < len(lines) and not is_barrier(lines[end + 1]):
                end, rest = end + 1, lines[end + 1]
            if "***" in rest:
                marks.append(("START", i, end, rest.partition("***")[2]))
                i = end
        elif words.startswith("END OF") and lines[i].lstrip(" \t") == bare:  # no byte order mark before it
            marks.append(("END", i, i, ""))
        i += 1
    kinds = [kind for kind, *_ in marks]
    if "START" not in kinds:
        return text.strip()
    if kinds != ["START", "END"] * (len(kinds) // 2):
        return None
    bodies = []
    for (_, _, start, rest), (_, end, _, _) in zip(marks[::2], marks[1::2]):
        body = [rest, *lines[start + 1 : end]]
        while len(body) > 1 and not body[-1].strip():
            body.pop()
        if len(body) > 1 and is_closing_line(body[-1]):
            body.pop()
        bodies.append("\n".join(body).strip())
    return "\n\n".join(bodies).strip()


def is_barrier(line):
    """Whether a marker of several lines cannot go on in this one: it is blank or begins with stars."""
    return not line.strip(" \t\r") or line.lstrip(" \t\r").startswith("***")


def is_closing_line(line):
    """Whether a line says, before the END marker, whose book has ended."""
    words = line.lstrip(" \t").lower()
    starts = [f"end of {the}project gutenberg{of} " for the in ("", "the ") for of in ("", "'s", "’s")]
    return words.startswith(tuple(starts))


@settings(max_examples=200)
@given(TEXTS)
@example("*** START OF X ***\n*** END OF X ***")
@example("*** START OF *** START OF *** END OF")
@example("*** START OF A ***\nA book.\n*** END OF A ***\n*** START OF B ***\nAnother.\n*** END OF B ***\nA licence.")
def test_any_text_is_cleaned_as_a_plain_reference_does_it_or_refused(text):
    expected = plainly_stripped(text)
    try:
        cleaned = corpus.strip_gutenberg(text)
    except ValueError as error:
        assert "END marker" in str(error) and expected is None
        return
    assert cleaned == expected


BYTES = st.one_of(st.binary(max_size=200), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
                  TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass")))


@settings(max_examples=200)
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
    assert loaded.text == plainly_stripped(text) != ""
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
BATCH_SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 20))
WRONG = [
    torch.zeros(2, 0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), torch.zeros((), dtype=torch.int64),
    torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int32),
    torch.zeros(1, 3, dtype=torch.bool), torch.full((1, 3), -1), torch.full((1, 3), TINY.vocab_size),
    torch.full((1, 3), 2**62), torch.zeros(1, 3, dtype=torch.int64, device="meta"), [[1, 2]], "text", None]
WRONG_IDS = st.one_of(ODD, st.sampled_from(WRONG), st.just(torch.zeros(0, 4, dtype=torch.int64)))
SETTINGS = {
    "max_new_tokens": (st.integers(0, 6), ODD),
    "temperature": (st.floats(0.01, 100), ODD),
    "top_k": (st.one_of(st.none(), st.just(1), st.integers(1, 10**9)), ODD),
    "top_p": (st.one_of(st.none(), st.floats(0.01, 1)), ODD),
    "use_cache": (st.booleans(), st.booleans()),
    "attention_mask": (st.none(), st.one_of(ODD, st.just(torch.zeros(1, 3)))),
}


def random_ids(shape):
    return torch.randint(TINY.vocab_size, shape, generator=torch.Generator().manual_seed(0))


@st.composite
def arguments(draw):
    """Arguments of generate, at most two of them odd, and often with prompts that are padded on the left."""
    odd = draw(st.sets(st.sampled_from(["ids", "generator", *SETTINGS]), max_size=2))
    ids = random_ids(draw(BATCH_SHAPES))
    chosen = {name: draw(strange if name in odd else usual) for name, (usual, strange) in SETTINGS.items()}
    if "attention_mask" not in odd and draw(st.booleans()):
        lengths = [draw(st.integers(1, ids.shape[1])) for _ in ids]
        chosen["attention_mask"] = (torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor(lengths)[:, None]).long()
    seed = draw(st.integers(0, 99))
    generator = draw(ODD) if "generator" in odd else torch.Generator().manual_seed(seed)
    return {"ids": draw(WRONG_IDS) if "ids" in odd else ids, "generator": generator, **chosen}, seed


def plainly_generated(ids, max_new_tokens, temperature, top_k, top_p, generator):
    """What generate() does, token by token, from raw tensors."""
    for _ in range(int(max_new_tokens)):
        logits = plain_logits(MODEL, ids[:, -TINY.n_positions :])[:, -1].double() / float(temperature)
        order = logits.argsort(dim=-1, descending=True)
        probabilities = logits.softmax(dim=-1)
        if top_k is not None:
            probabilities = probabilities.scatter(-1, order[:, int(top_k) :], 0.0) if top_k < TINY.vocab_size else (
                probabilities)
            probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        if top_p is not None:
            before = probabilities.gather(-1, order).cumsum(dim=-1) - probabilities.gather(-1, order)
            kept = torch.zeros_like(probabilities).scatter(-1, order, (before < float(top_p)).double())
            probabilities = probabilities * kept
        drawn = torch.multinomial(probabilities.float(), 1, generator=generator)
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True) if top_k == 1 else drawn], dim=1)
    return ids


@pytest.mark.parametrize("ids", WRONG, ids=str)
def test_ids_of_every_wrong_kind_are_refused(ids):
    with pytest.raises(ValueError, match="^ids"):
        generate(MODEL, ids, 3)


@settings(max_examples=200)
@given(arguments())
def test_any_arguments_generate_what_a_plain_loop_does_or_are_refused(given_arguments):
    call, seed = given_arguments
    try:
        ids = generate(MODEL, **call)
    except ValueError as error:
        assert str(error).startswith(("ids", "generator", *SETTINGS)), str(error)
        return
    before, mask = call["ids"], call.pop("attention_mask")
    assert ids.shape == (len(before), before.shape[1] + call["max_new_tokens"])
    assert torch.equal(ids[:, : before.shape[1]], before)
    if call["generator"] is None:
        return  # nobody can repeat this text
    call = {name: value for name, value in call.items() if name != "use_cache"}
    call["generator"].manual_seed(seed)
    lengths = [before.shape[1]] * len(before) if mask is None else mask.sum(dim=1).tolist()
    for length in sorted(set(lengths)):
        rows = [number for number, own in enumerate(lengths) if own == length]
        if rows and len(before):
            expected = plainly_generated(**{**call, "ids": before[rows, -length:]})
            assert torch.equal(ids[rows, before.shape[1] - length :], expected)


# The key/value cache


@settings(max_examples=200)
@given(BATCH_SHAPES, st.one_of(st.none(), ODD, st.integers(1, 16)), st.lists(st.integers(0, 7), max_size=14))
def test_whatever_happens_to_a_cache_its_logits_are_those_of_a_full_pass(shape, capacity, events):
    """Each event is a pass with the next token, but 1 stops it halfway, 2 gives it another batch, 3 two tokens, and 4
    an id that no model has."""
    ids = random_ids((shape[0], TINY.n_positions))
    try:
        cache = KeyValueCache(TINY, capacity)
    except ValueError as error:
        assert str(error).startswith("capacity=")
        return
    done, first = 0, min(shape[1], TINY.n_positions)

    def stop(*_):
        raise KeyboardInterrupt

    for event in events:
        if done == TINY.n_positions:
            break  # the random tokens end here
        end = done + (1 if done else first)
        new = {2: ids[:, done:end].repeat(2, 1), 3: ids[:, done : end + 1], 4: ids[:, done:end] + 10**6}.get(
            event, ids[:, done:end])
        hook = MODEL.transformer.h[1].attn.c_proj.register_forward_hook(stop) if event == 1 else None
        try:
            logits = MODEL(new, cache=cache)
        except KeyboardInterrupt:
            continue
        except ValueError:
            assert done and event in (2, 3) or event == 4 or done + new.shape[1] > cache.capacity
            continue
        finally:
            assert hook is None or hook.remove() is None
        if event == 2:  # the first pass decides which sequences the cache is of
            ids = ids.repeat(2, 1)
        end = done + new.shape[1]
        assert_close(logits, plain_logits(MODEL, ids[:, :end])[:, done:])
        done = end
        assert cache.length == done <= cache.capacity


# Configurations

NUMBERS = st.one_of(
    ODD, st.integers(-3, 70), st.floats(-2, 2), st.sampled_from([math.inf, -math.inf, math.nan, np.float32(0.5)]),
    st.builds(np.int64, st.integers(-3, 70)), st.builds(np.float64, st.floats(-2, 2)), st.just(np.bool_(True)),
    st.sampled_from(["adamw", "muon", "cosine", "linear", "random", "epochs", "auto", "fp32", np.str_("bf16")]))


def drawn_fields(kind):
    names = [field.name for field in dataclasses.fields(kind)]
    return st.dictionaries(st.sampled_from(names), NUMBERS, max_size=4)


def check_stored(config, given_fields):
    """A configuration holds what was given, as plain Python, and a checkpoint gives it back."""
    stored = dataclasses.asdict(config)
    assert all(type(value) in (int, float, bool, str) for value in stored.values())
    assert all(stored[name] == value for name, value in given_fields.items())
    file = io.BytesIO()
    torch.save(stored, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == stored


@settings(max_examples=200)
@given(drawn_fields(TrainConfig), st.integers(0, 400))
def test_any_training_settings_have_a_plain_schedule_or_are_refused(given_fields, step):
    try:
        config = TrainConfig(**given_fields)
    except ValueError as error:
        assert any(str(error).startswith(f"TrainConfig({name}=") for name in given_fields), str(error)
        return
    check_stored(config, given_fields)
    step = min(step, config.steps - 1)
    start = max(config.warmup_steps, round((1 - config.decay_share) * config.steps))
    height = 1.0
    if step < config.warmup_steps:
        expected = config.learning_rate * (step + 1) / config.warmup_steps
    else:
        if step > start:
            share = (step - start) / (config.steps - start)
            height = 1 - share if config.decay == "linear" else (1 + math.cos(math.pi * share)) / 2
        expected = config.learning_rate * (config.final_share + (1 - config.final_share) * height)
    assert config.learning_rate_at(step) == pytest.approx(expected)


@settings(max_examples=200)
@given(drawn_fields(GPTConfig))
def test_any_shape_has_the_parameters_of_its_formula_or_is_refused(given_fields):
    try:
        config = GPTConfig(**{"n_layer": 1, **given_fields})
    except ValueError as error:
        assert str(error).startswith("GPTConfig("), str(error)
        return
    check_stored(config, given_fields)
    if max(config.n_layer, config.vocab_size, config.n_positions, config.n_embd) > 10**6:
        return  # such a model is not made
    V, N, C, L = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
    expected = V * C * (2 - config.tie_word_embeddings) + N * C + L * (12 * C * C + 13 * C) + 2 * C
    assert sum(parameter.numel() for parameter in meta_model(config).parameters()) == expected


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    train(out=folder)
    content, state = (folder / CHECKPOINT).read_bytes(), training.load_checkpoint(folder)
    return lambda: (folder, content, state)  # a function, because its repr is short


@settings(max_examples=200)
@given(st.data())
def test_an_altered_checkpoint_is_refused_or_holds_the_same_weights(checkpoint, data):
    folder, content, state = checkpoint()
    changed, end = bytearray(content), len(content) - 1
    places = st.one_of(st.integers(0, end), st.integers(end - 3000, end))  # the table of contents is at the end
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        changed[place] ^= data.draw(st.integers(1, 255))
    (folder / CHECKPOINT).write_bytes(changed[: data.draw(st.sampled_from([end + 1, end]))])
    try:
        loaded = training.load_checkpoint(folder)["model"]
    except ValueError as error:
        assert "is damaged" in str(error) or "of another kind" in str(error)
        return
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state["model"].items())


ENTRIES = st.one_of(ODD, st.just({}), st.just([]), st.just({"state": {}}), st.just(np.float64(0.5)), st.just((1, "a")))


@settings(max_examples=200)
@given(st.data())
def test_a_checkpoint_with_other_entries_is_refused_or_continues_as_it_should(checkpoint, data):
    folder, content, state = checkpoint()
    changed = copy.deepcopy(state)
    for _ in range(data.draw(st.integers(1, 2))):
        inside = data.draw(st.sampled_from(["", *(name for name, value in changed.items() if isinstance(value, dict))]))
        inner = changed[inside] if inside else changed
        if not inner:
            continue
        name = data.draw(st.sampled_from(list(inner)))
        if data.draw(st.booleans()):
            del inner[name]
        else:
            inner[name] = data.draw(ENTRIES)
    torch.save(changed, folder / CHECKPOINT)
    note(str({name: value for name, value in changed.items() if name not in ("model", "optimizer")}))
    try:
        loaded = training.load_trained(folder)
    except ValueError as error:
        assert str(folder) in str(error) and "elete" not in str(error)
        return
    assert all(torch.equal(tensor, state["model"][name]) for name, tensor in loaded.state_dict().items())
    try:
        _, history = train(dataclasses.replace(CONFIG, steps=13), model=GPT(MODEL_SHAPE), out=folder, resume=True)
    except ValueError as error:
        assert str(folder) in str(error)
        return
    assert len(history.train_loss) == 13 and math.isfinite(history.train_loss[-1])
