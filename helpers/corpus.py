"""From text to batches: tokenizers, Gulliver's Travels verified and cleaned, the split, random batches, and n-gram
baselines (notebook 07)."""

import base64
import functools
import math
import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken
import torch

from helpers.machine import assets
from helpers.machine.settings import is_whole

END_OF_TEXT = "<|endoftext|>"
# How GPT-2 splits a text before it merges bytes: contractions, words with their leading space, numbers, other
# characters.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
OWN = {"library": "the library's tokenizer", "course": "the course's tokenizer"}  # those that ship with the course
# The lines around a book of Project Gutenberg; a title may go on for some lines. A marker inside a line is a quotation.
START_MARKER = re.compile(r"^[ \t\ufeff]*\*\*\*[ \t]*START OF(?:[^\n]|\n(?![ \t\r]*(?:\n|\*\*\*))){0,400}?\*\*\*",
                          re.IGNORECASE | re.MULTILINE)
END_MARKER = re.compile(r"(^[ \t]*End of (the )?Project Gutenberg('s|’s)? [^\n]*\s*)?^[ \t]*\*\*\*[ \t]*END OF",
                        re.IGNORECASE | re.MULTILINE)


class Tokenizer:
    """Text to token ids and back: a thin wrapper around a tiktoken encoding.

    name: what to call it in a caption; vocab_size: V; end_of_text: the id of <|endoftext|>.
    """

    def __init__(self, encoding, name):
        self.encoding, self.name = encoding, name
        self.vocab_size, self.end_of_text = encoding.n_vocab, encoding.eot_token

    def encode(self, text):
        """Text -> ids (T,) int64. The characters "<|endoftext|>" in a text are encoded as plain text."""
        if not isinstance(text, str):
            raise ValueError(f"encode() expects one text, a string, and was given a {type(text).__name__}. Of several "
                             "texts, encode each: [tokenizer.encode(text) for text in texts].")
        return torch.tensor(self.encoding.encode_ordinary(text), dtype=torch.int64)

    def decode(self, ids, unknown=None):
        """ids, a list or a 1-D tensor -> text. Bytes that do not form complete characters become U+FFFD.

        unknown: what to write for ids from vocab_size on; without it they raise ValueError, as negative ids do.
        """
        given = f"{type(ids).__name__} of the shape {tuple(getattr(ids, 'shape', ()))}"
        try:
            ids = [operator.index(i) for i in (ids.tolist() if isinstance(ids, torch.Tensor) else ids)]
        except TypeError:
            raise ValueError("decode() expects ids, whole numbers in a list or a 1-D tensor, and was given a "
                             f"{given}. Of a batch, take one sequence: ids[0].") from None
        if unknown is not None and ids and min(ids) >= 0:
            pieces = {i: unknown.encode() for i in ids if i >= self.vocab_size}
            pieces |= {i: self.encoding.decode_single_token_bytes(i) for i in {*ids} - {*pieces}}
            return b"".join(pieces[i] for i in ids).decode("utf-8", "replace")
        if ids and not (0 <= min(ids) and max(ids) < self.vocab_size):
            raise ValueError(f"ids run from {min(ids)} to {max(ids)}; {self.name} knows 0 to {self.vocab_size - 1}.")
        return self.encoding.decode(ids)

    def pieces(self, text):
        """The tokens of a text as strings, for a reader."""
        return [self.encoding.decode([i]) for i in self.encoding.encode_ordinary(text)]

    def bits_per_byte(self, loss, ids):
        """A mean loss in nats per token of ids -> bits per byte of their text, which compares models of different
        tokenizers."""
        text_bytes = sum(len(piece) for piece in self.encoding.decode_tokens_bytes(ids.tolist()))
        return loss * len(ids) / text_bytes / math.log(2)


@functools.cache
def load_tokenizer(name="gpt2"):
    """A tokenizer: "gpt2", OpenAI's with 50,257 tokens; "library", that of the course's GPT-2, with 8,192; or "course",
    with 4,096, for small models that learn a single book (data/README.md).

    When GPT-2's files are not available, "gpt2" returns the course's, with a visible line. Raises ValueError for any
    other name.
    """
    if name == "gpt2":
        try:
            folder = assets.gpt2_encoding_folder()
        except assets.AssetUnavailable as unavailable:
            course = load_tokenizer("course")
            assets.stand_in(Path("course.tiktoken"), course.name, "GPT-2's (50,257 tokens)", unavailable.reason)
            return course
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)  # its files exist and are verified: tiktoken downloads nothing
        try:
            return Tokenizer(tiktoken.get_encoding("gpt2"), "GPT-2's tokenizer (50,257 tokens)")
        finally:
            os.environ.pop("TIKTOKEN_CACHE_DIR")
            if before is not None:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    if name in OWN:
        lines = assets.bundled(f"{name}.tiktoken").read_text(encoding="ascii").splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, lines)}
        encoding = tiktoken.Encoding(
            name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
        )
        return Tokenizer(encoding, f"{OWN[name]} ({encoding.n_vocab:,} tokens)")
    raise ValueError(f'load_tokenizer({name!r}): expected "gpt2", "library" or "course".')


def tokenizer_for(vocab_size):
    """The tokenizer that a model with this vocabulary was trained with. Raises ValueError if the course has none."""
    for name in ("gpt2", *OWN) if vocab_size > 50_000 else OWN:
        if load_tokenizer(name).vocab_size == vocab_size:
            return load_tokenizer(name)
    raise ValueError(f"No available tokenizer has {vocab_size:,} tokens, as the model expects.")


@dataclass(frozen=True)
class Corpus:
    """A cleaned text and its tokens. ids is one long sequence, (N,) int64."""

    title: str
    text: str
    ids: torch.Tensor
    tokenizer: Tokenizer
    is_stand_in: bool = False

    def split(self, test_share=0.1):
        """The training set (the beginning) and the test set (the end), two sequences of ids. Raises ValueError if one
        is empty."""
        if not 0 < test_share < 1:
            raise ValueError(f"test_share={test_share}: expected a share between 0 and 1, such as 0.1.")
        end_of_training = int(len(self.ids) * (1 - test_share))
        if not 0 < end_of_training < len(self.ids):
            raise ValueError(f"{self.title}: {len(self.ids)} tokens are too few to split with test_share={test_share}.")
        return self.ids[:end_of_training], self.ids[end_of_training:]

    def bits_per_byte(self, loss, ids):
        """A mean loss in nats per token of ids -> bits per byte of their text, which compares models of different
        tokenizers."""
        return self.tokenizer.bits_per_byte(loss, ids)


def split_validation(train_ids, share=0.1):
    """A training set without its last part, and that part, the validation set, on which every choice is made: two
    sequences of ids. Raises ValueError if one is empty."""
    if not 0 < share < 1:
        raise ValueError(f"share={share}: expected a share between 0 and 1, such as 0.1.")
    end = int(len(train_ids) * (1 - share))
    if not 0 < end < len(train_ids):
        raise ValueError(f"{len(train_ids)} tokens are too few to cut a validation set with share={share}.")
    return train_ids[:end], train_ids[end:]


def read_text(path):
    """A text file as a string: UTF-8 with or without byte order mark, any line ends. Raises ValueError for other
    bytes."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give the path of a text file, relative to {Path.cwd()}.")
    raw = path.read_bytes()
    wrong = raw.find(b"\0")  # UTF-16, which Windows calls Unicode, has zero bytes; UTF-8 text has none
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        raise ValueError(f"{path} is not UTF-8 text (byte {wrong}). Save it as UTF-8 and try again.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def strip_gutenberg(text):
    """Cuts Project Gutenberg's header and licence, however their markers are spelled. The texts of several books in one
    file follow each other. Texts without a START marker only lose surrounding white space.

    A visible line says how much is cut, unless it is one header and one licence. Raises ValueError for a marker without
    its partner: the file is then cut short, and the licence cannot be told from the book.
    """
    marks = sorted([*START_MARKER.finditer(text), *END_MARKER.finditer(text)], key=re.Match.start)
    kinds = ["START" if mark.re is START_MARKER else "END" for mark in marks]
    if "START" not in kinds:
        return text.strip()
    if kinds != ["START", "END"] * (len(kinds) // 2):
        lines = [text.count("\n", 0, mark.end()) + 1 for mark in marks]
        found = ", ".join(f"{kind} in line {line}" for kind, line in list(zip(kinds, lines))[:10])
        raise ValueError(f"The text has Project Gutenberg's markers {found}. A START with no END marker, or an END "
                         "with no START marker, means that a file is incomplete: fetch it again. In your own text, put "
                         "a word before a marker that you quote.")
    starts, ends = marks[::2], marks[1::2]
    before, after = text[: starts[0].start()].strip(), text[ends[-1].end() :].partition("\n")[2].strip()
    is_usual = re.match(r"\W*(The )?Project Gutenberg|$", before) and (not after or "eBooks" in after.split("\n\n")[-1])
    if len(starts) > 1 or not is_usual:
        kept = sum(end.start() - start.end() for start, end in zip(starts, ends))
        print(f"Left out: {len(text) - kept:,} characters outside of the START and END markers of {len(starts)} "
              f"book{'s' * (len(starts) > 1)}; {kept:,} are kept. If you only quote these markers, put a word before "
              "them.")
    return "\n\n".join(text[start.end() : end.start()].strip() for start, end in zip(starts, ends)).strip()


def load_text(path, tokenizer="gpt2", title=None, is_stand_in=False):
    """Any text file as a Corpus. tokenizer: a name for load_tokenizer, or a Tokenizer.

    Raises FileNotFoundError, and ValueError for an empty text or one that is not UTF-8.
    """
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    text = strip_gutenberg(read_text(path))
    if not text:
        raise ValueError(f"{path} contains no text. Give a file with at least a few thousand words.")
    return Corpus(title or Path(path).stem, text, tokenizer.encode(text), tokenizer, is_stand_in)


def load_gulliver(tokenizer="gpt2"):
    """Gulliver's Travels, downloaded, verified, cleaned and encoded: a Corpus. Offline it is the course's own voyage,
    and a visible line says so."""
    asset = assets.gulliver()
    return load_text(asset.path, tokenizer, asset.title, asset.is_stand_in)


def random_batch(ids, batch_size, context, generator=None, device=None):
    """A random batch: inputs X and targets Y, both (B, T) int64, with Y equal to X shifted by one.

    ids (N,) int64; context is T. Every start from 0 to N - T - 1 is equally likely, and no data set is built: by
    broadcasting, a column of starts plus a row of offsets gives all positions. device: where X and Y go (default: where
    ids are).
    Raises ValueError when the text is empty or too short for one sequence and its targets.
    """
    check_length(ids, context, batch_size)
    starts = torch.randint(len(ids) - context, (batch_size, 1), generator=generator)  # (B, 1)
    positions = (starts + torch.arange(context)).to(ids.device)  # (B, 1) + (T,) -> (B, T)
    return ids[positions].to(device), ids[positions + 1].to(device)


def epoch_batch(ids, batch_size, context, step, seed=0):
    """The batch of a step, counted from 0, when no window is drawn twice before all have been drawn once: inputs X and
    targets Y, both (B, T) int64, with Y equal to X shifted by one.

    An epoch cuts ids (N,) into windows laid end to end and shuffles them. Each epoch begins its first window at another
    random token, so that windows of different epochs differ. The same seed and step give the same batch, so a run that
    was stopped goes on with the batches of an uninterrupted run. Raises ValueError when ids have too few windows.
    """
    check_counts(batch_size=batch_size, context=context)
    per_epoch = (len(ids) - context) // context // batch_size  # batches; the windows left over are not used
    if per_epoch < 1:
        raise ValueError(f"The text has {len(ids)} tokens; a batch of {batch_size} windows of {context} tokens laid "
                         f"end to end needs at least {(batch_size + 1) * context}. Use a smaller batch or a shorter "
                         "context.")
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed((seed * 100_003 + epoch) % 2**63)
    first = torch.randint(context, (), generator=generator)
    order = torch.randperm(per_epoch * batch_size, generator=generator)[place * batch_size :][:batch_size]
    positions = (first + context * order[:, None] + torch.arange(context)).to(ids.device)  # (B, 1) + (T,) -> (B, T)
    return ids[positions], ids[positions + 1]


def replace_some(ids, share, vocab_size, generator=None):
    """ids (B, T) int64, in which random tokens replace a share of all. The targets stay: the model must predict the
    next token even where what it reads is partly wrong, so it cannot learn the text by heart."""
    random_ids = torch.randint(vocab_size, ids.shape, generator=generator)
    return torch.where(torch.rand(ids.shape, generator=generator) < share, random_ids, ids)


def draw_batch(ids, step, config, vocab_size, generator):
    """The batch of a training step, as config.sampling and config.noise of a TrainConfig ask for: inputs X and targets
    Y, both (B, T) int64.

    generator draws the random windows. Epochs and noise depend on config.seed and step alone, so that they are the same
    in a resumed run, and in any number of processes.
    """
    if config.sampling == "epochs":
        x, y = epoch_batch(ids, config.batch_size, config.context, step, config.seed)
    else:
        x, y = random_batch(ids, config.batch_size, config.context, generator)
    if config.noise:
        own = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
        x = replace_some(x, config.noise, vocab_size, own)
    return x, y


def windows_with(i, N, T):
    """How many of the N - T possible windows of T tokens contain token i (notebook 07)."""
    first_start = max(0, i - T + 1)
    last_start = min(i, N - T - 1)
    return max(0, last_start - first_start + 1)


def expected_coverage(N, T, draws):
    """The expected share of N tokens that are an input in at least one of `draws` random windows of T tokens
    (notebook 09)."""
    tokens = torch.arange(N)
    first, last = (tokens - T + 1).clamp(min=0), tokens.clamp(max=N - T - 1)
    containing = (last - first + 1).clamp(min=0).double()  # (N,), how many windows contain each token
    missed = (1 - containing / (N - T)) ** draws
    return (1 - missed).mean().item()


def check_length(ids, context, batch_size=1):
    """Raises ValueError unless ids are one sequence (N,), into which `context` tokens and their targets fit."""
    if not isinstance(ids, torch.Tensor) or ids.ndim != 1:
        raise ValueError(f"ids are a {type(ids).__name__} of the shape {tuple(getattr(ids, 'shape', ()))}; expected "
                         "one sequence, a tensor (N,): torch.tensor(ids).")
    check_counts(context=context, batch_size=batch_size)
    if len(ids) <= context:
        raise ValueError(
            f"The text has {len(ids)} tokens; sequences of {context} tokens and their targets need at least "
            f"{context + 1}. Use a longer text or a shorter context."
        )


def check_vocabulary(ids, vocab_size):
    """Raises ValueError unless all ids, an array, are in the vocabulary."""
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"The ids run from {ids.min()} to {ids.max()}; vocab_size={vocab_size} knows 0 to "
                         f"{vocab_size - 1}. Give the tokenizer's vocab_size.")


def check_counts(**counts):
    """Raises ValueError unless all arguments are whole numbers of at least 1."""
    for name, value in counts.items():
        if not is_whole(value) or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1.")


def check_training_data(train_ids, validation_ids, shape, config, processes=1):
    """Raises ValueError unless a model of this shape (a GPTConfig) can be trained and measured on these ids by config
    (a TrainConfig) in so many processes."""
    parts = processes * config.accumulate
    if config.batch_size % parts:
        raise ValueError(f"batch_size={config.batch_size} cannot be divided into {processes} (processes) x "
                         f"{config.accumulate} (accumulate) equal parts. Use a multiple of {parts}.")
    for name, ids, context in (("train_ids", train_ids, config.context), ("validation_ids", validation_ids, 1)):
        check_length(ids, context)
        if ids.dtype != torch.int64 or ids.device.type != "cpu":
            raise ValueError(f"{name}: {tuple(ids.shape)}, {ids.dtype}, on {ids.device}; expected one sequence (N,) of "
                             "torch.int64 on the CPU.")
        if ids.min() < 0 or ids.max() >= shape.vocab_size:
            raise ValueError(f"{name} run from {ids.min()} to {ids.max()}; the model knows 0 to "
                             f"{shape.vocab_size - 1}. Give GPTConfig the tokenizer's vocab_size.")
    if config.context > shape.n_positions:
        raise ValueError(f"context={config.context}: the model reads at most {shape.n_positions} (n_positions).")


def ngram_losses(train_ids, test_ids, vocab_size):
    """What counting alone achieves: the test loss in nats per token of a unigram and an interpolated bigram model.

    Unigram: how often each token occurs, with alpha added to every count. Bigram: lambda times how often a token
    followed the one before it, plus 1 - lambda times the unigram (the unigram alone after a token never seen). alpha
    and lambda are chosen on the last tenth of the training set, never on the test set.
    Returns {"unigram": ..., "bigram": ...}. Source: Jelinek and Mercer, 1980.
    """
    train, test = np.asarray(train_ids), np.asarray(test_ids)
    if len(train) < 20 or len(test) < 2:
        raise ValueError(f"{len(train)} training and {len(test)} test tokens: expected at least 20 and 2.")
    check_vocabulary(np.concatenate([train, test]), vocab_size)

    def token_probabilities(seen, new):  # for each alpha, of each new token but the first
        counts = np.bincount(seen, minlength=vocab_size)
        return {
            alpha: (counts[new[1:]] + alpha) / (len(seen) + alpha * vocab_size) for alpha in (0.01, 0.03, 0.1, 0.3, 1.0)
        }

    def pair_probabilities(seen, new):  # how often each new pair's second token followed its first; nan: first unseen
        pairs, counts = np.unique(seen[:-1].astype(np.int64) * vocab_size + seen[1:], return_counts=True)
        asked = new[:-1].astype(np.int64) * vocab_size + new[1:]
        place = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
        begun = np.bincount(seen[:-1], minlength=vocab_size)[new[:-1]]
        return np.where(begun > 0, np.where(pairs[place] == asked, counts[place], 0) / begun.clip(min=1), np.nan)

    def mixed(share, pair, unigram):
        return np.where(np.isnan(pair), unigram, share * pair + (1 - share) * unigram)

    def loss(probabilities):
        return float(-np.log(probabilities).mean())

    cut = len(train) * 9 // 10
    fit, held_out = train[:cut], train[cut:]
    unigram, pair = token_probabilities(fit, held_out), pair_probabilities(fit, held_out)
    alpha = min(unigram, key=lambda a: loss(unigram[a]))
    share = min(np.arange(0, 1, 0.05), key=lambda s: loss(mixed(s, pair, unigram[alpha])))

    unigram, pair = token_probabilities(train, test)[alpha], pair_probabilities(train, test)
    return {"unigram": loss(unigram), "bigram": loss(mixed(share, pair, unigram))}
