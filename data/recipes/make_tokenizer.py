"""Train the course's two byte-level byte-pair encodings.

    COURSE_ASSETS=folder python -m data.recipes.make_tokenizer library    data/library.tiktoken, for the course's GPT-2
    python -m data.recipes.make_tokenizer course                          data/course.tiktoken, for a single book

library.tiktoken has 8,192 tokens and is trained on the training books of the library (library.py): it has seen no
validation or test text, and no Swift. The same encoding is written for transformers into data/gpt2-course.
course.tiktoken has 4,096 tokens and is trained on Gulliver's Travels and data/voyage.txt.

A .tiktoken file has one token per line, with its bytes in base64 and its rank.
"""

import base64
import json
import sys

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer

from data.recipes import library
from helpers import corpus
from helpers.machine import assets

TOKENS = {"library": 8192, "course": 4096}  # the last one is <|endoftext|>
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_of_letter():
    """{letter: byte}. GPT-2 writes each byte as one visible letter: a printable byte as itself, any other from U+0100
    on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def trained(texts, tokens):
    """A tokenizers.Tokenizer with so many tokens, <|endoftext|> included but not in it, trained on the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=tokens - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def in_tiktoken_format(tokenizer):
    """The tokens in the order of their ranks, one per line."""
    letters, ranks = byte_of_letter(), tokenizer.get_vocab()
    token_bytes = [bytes(letters[letter] for letter in token) for token in sorted(ranks, key=ranks.get)]
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(token_bytes))


def for_transformers(tokenizer, folder):
    """Saves the encoding as transformers' tokenizer of a GPT-2."""
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = {**model["vocab"], corpus.END_OF_TEXT: len(model["vocab"])}
    GPT2Tokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in model["merges"]]).save_pretrained(folder)


def texts_for(name):
    """The texts that an encoding is trained on."""
    if name == "library":
        return [book.training_text() for book in library.split("train")]
    gulliver = assets.gulliver()
    if gulliver.is_stand_in:
        raise SystemExit("This recipe needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    return [corpus.strip_gutenberg(corpus.read_text(path)) for path in (gulliver.path, assets.DATA / "voyage.txt")]


def main(name):
    if name not in TOKENS:
        raise SystemExit(f"make_tokenizer {name}: expected library or course.")
    texts = texts_for(name)
    tokenizer = trained(texts, TOKENS[name])
    content, target = in_tiktoken_format(tokenizer), assets.DATA / f"{name}.tiktoken"
    assets.write_atomically(target, lambda path: path.write_text(content, encoding="ascii", newline="\n"))
    if name == "library":
        for_transformers(tokenizer, assets.DATA / "gpt2-course")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [""])
