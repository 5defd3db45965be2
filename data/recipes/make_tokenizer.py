"""Trains the course's byte-level byte-pair encoding on Gulliver's Travels and data/voyage.txt: data/course.tiktoken.

    python data/recipes/make_tokenizer.py

The file has tiktoken's form: one token per line, its bytes in base64 and its rank. Needs the real Gulliver.
"""

import base64
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from helpers import assets, corpus  # noqa: E402

MERGEABLE = 4095  # and <|endoftext|> makes 4,096
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_of_letter():
    """GPT-2 writes each byte as one visible letter: printable ones as themselves, the others from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def main():
    gulliver = assets.gulliver()
    if gulliver.is_stand_in:
        raise SystemExit("This recipe needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    texts = [corpus.strip_gutenberg(corpus.read_text(path)) for path in (gulliver.path, assets.DATA / "voyage.txt")]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MERGEABLE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)

    letters = byte_of_letter()
    by_rank = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    lines = [
        f"{base64.b64encode(bytes(letters[letter] for letter in token)).decode()} {rank}\n"
        for rank, token in enumerate(by_rank)
    ]
    target = assets.DATA / "course.tiktoken"
    assets.write_atomically(target, lambda path: path.write_text("".join(lines), encoding="ascii", newline="\n"))
    corpus.load_tokenizer.cache_clear()
    course = corpus.load_tokenizer("course")
    for text in texts:
        assert course.decode(course.encode(text)) == text
        assert course.encode(text).tolist() == tokenizer.encode(text).ids, "tiktoken and tokenizers disagree"
        print(f"{len(text):,} characters -> {len(course.encode(text)):,} tokens of {course.vocab_size:,}")


if __name__ == "__main__":
    main()
