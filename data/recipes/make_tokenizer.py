"""Train the course's byte-level byte-pair encoding on Gulliver's Travels and data/voyage.txt: data/course.tiktoken.

    python -m data.recipes.make_tokenizer

The file has tiktoken's format: one token per line, with its bytes in base64 and its rank. The recipe needs the real
Gulliver's Travels.
"""

import base64

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from helpers import corpus
from helpers.machine import assets

MERGEABLE = 4095  # <|endoftext|> makes it 4,096
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_of_letter():
    """{letter: byte}. GPT-2 writes each byte as one visible letter: a printable byte as itself, any other from U+0100
    on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def trained(texts):
    """A tokenizers.Tokenizer trained on the texts."""
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
    return tokenizer


def in_tiktoken_format(tokenizer):
    """The tokens in the order of their ranks, one per line."""
    letters, ranks = byte_of_letter(), tokenizer.get_vocab()
    token_bytes = [bytes(letters[letter] for letter in token) for token in sorted(ranks, key=ranks.get)]
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(token_bytes))


def main():
    gulliver = assets.gulliver()
    if gulliver.is_stand_in:
        raise SystemExit("This recipe needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    texts = [corpus.strip_gutenberg(corpus.read_text(path)) for path in (gulliver.path, assets.DATA / "voyage.txt")]
    tokenizer = trained(texts)
    content, target = in_tiktoken_format(tokenizer), assets.DATA / "course.tiktoken"
    assets.write_atomically(target, lambda path: path.write_text(content, encoding="ascii", newline="\n"))
    corpus.load_tokenizer.cache_clear()
    course = corpus.load_tokenizer("course")
    for text in texts:
        assert course.decode(course.encode(text)) == text
        assert course.encode(text).tolist() == tokenizer.encode(text).ids, "tiktoken and tokenizers disagree"
        print(f"{len(text):,} characters -> {len(course.encode(text)):,} tokens of {course.vocab_size:,}")


if __name__ == "__main__":
    main()
