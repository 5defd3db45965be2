"""Byte-pair merges: a solution, typical mistakes, and the texts of the check (notebook 07's exercise `merges`)."""


def merge_pairs(piece, ranks):
    """bytes, {bytes: rank} -> list of bytes: merges the neighbours of the lowest rank until no pair has a rank."""
    parts = [piece[i : i + 1] for i in range(len(piece))]  # one byte each
    for _ in range(len(piece) - 1):  # each merge leaves one part less
        pairs = [left + right for left, right in zip(parts, parts[1:])]
        ranked = [(ranks[pair], i) for i, pair in enumerate(pairs) if pair in ranks]
        if not ranked:
            break
        _, i = min(ranked)  # the lowest rank; of equal ones the leftmost
        parts[i : i + 2] = [pairs[i]]
    return parts


def merge_with(piece, ranks, mistake):
    """merge_pairs with one typical mistake, so that the check can recognise it."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    if mistake == "longest":
        parts, start = [], 0
        while start < len(piece):
            end = next(end for end in range(len(piece), start, -1) if piece[start:end] in ranks or end == start + 1)
            parts, start = [*parts, piece[start:end]], end
        return parts
    choose = {"first": lambda pair: pair[1], "highest": lambda pair: (-pair[0], pair[1]),
              "rightmost": lambda pair: (pair[0], -pair[1])}.get(mistake)
    merged = 0
    while ranked := [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]:
        if mistake == "once" and merged or mistake == "none":
            break
        _, i = min(ranked, key=choose)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merged += 1
    return parts


MERGE_MISTAKES = {
    "none": "Nothing is merged. Look up left + right of each two neighbours in ranks.",
    "once": "Only one pair is merged. Repeat until no two neighbours have a rank.",
    "first": "You merge the first pair that has a rank. Merge the pair with the lowest rank, wherever it stands.",
    "highest": "You merge the pair with the highest rank. A low rank was learned early, so it comes first.",
    "longest": "You cut off the longest token that fits. A token is reached only by merging pairs, lowest rank first.",
    "rightmost": "Where one pair stands several times, merge the leftmost first.",
}

# Small tables of ranks, in which a token's rank is higher than those of the two tokens that it was merged from.
FRUIT = {b"a": 0, b"b": 1, b"n": 2, b"an": 3, b"ana": 4, b"ban": 5}
CHAIN = {b"b": 7, b"c": 8, b"a": 9, b"d": 11, b"bc": 12, b"ab": 15, b"bcd": 20, b"abcd": 31}
REPEATED = {b"o": 2, b"oo": 5, b"h": 6, b"ho": 40}
ACCENT = "é".encode()  # two bytes
LETTERS = {ACCENT[:1]: 0, ACCENT[1:]: 1, b"t": 2, ACCENT: 9, b"t" + ACCENT: 10}

SMALL_CASES = [(b"banana", FRUIT), (b"abc", CHAIN), (b"abcdabd", CHAIN), (b"hooo", REPEATED), (b"oxooooh", REPEATED),
               (ACCENT + b"t" + ACCENT, LETTERS), (b"n", FRUIT)]
WORDS = (" Houyhnhnms", " astonishment", "veracity", " Brobdingnag", "didn", "“—")  # for the course's tokenizer
