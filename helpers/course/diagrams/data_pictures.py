"""Pictures of the data's way: from text to logits and a loss, windows and epochs for training, the three sets, two ways
to split passages, and the loop that writes text."""

import torch

from helpers import attention, corpus
from helpers.course.diagrams import sentence
from helpers.course.diagrams.sentence import IDS, TARGETS, TEXT, WORDS, T, V
from helpers.course.diagrams.svg import LARGE, SMALL, Drawing, number
from helpers.generation import next_token_probabilities
from helpers.loss import cross_entropy

# --- from text to logits ---------------------------------------------------------------------------------------------

LEFT, COLUMN, GAP = 212, 108, 14  # the six columns of text-to-logits


def _bars(drawing, left, bottom, height, values, chosen):
    """A small bar chart of probabilities in one column; the chosen bar has another colour."""
    width = COLUMN / V
    for i, value in enumerate(values.tolist()):
        size = max(1.5, height * value)
        drawing.raw(f'<rect x="{left + i * width + 1:.1f}" y="{bottom - size:.1f}" width="{width - 2:.1f}" '
                    f'height="{size:.1f}" rx="2" fill="var(--{"result" if i == chosen else "stream"}-line)"/>')
    drawing.raw(f'<path d="M{left:.1f} {bottom:.1f} h{COLUMN}" stroke="var(--muted)" stroke-width="2"/>')


def _column(drawing, t, x, probabilities):
    """What belongs to token t: its word, id, vector, probabilities and target, with arrows between them."""
    left = LEFT + t * (COLUMN + GAP)
    middle = left + COLUMN / 2
    drawing.box(left, 18, COLUMN, 32, TEXT[t], bold=True)
    drawing.box(left, 66, COLUMN, 30, str(IDS[t].item()), mono=True)
    drawing.grid(left + 14, 162, [[number(value, 2)] for value in x], COLUMN - 28, kind="stream", height=24)
    for top, bottom in ((50, 65), (96, 111), (144, 160), (258, 273), (342, 357), (390, 405), (544, 563)):
        drawing.arrow((middle, top), (middle, bottom), width=2)
    _bars(drawing, left, 472, 62, probabilities, TARGETS[t])
    drawing.text(middle, 531, f"{number(probabilities[TARGETS[t]], 2)}", SMALL, bold=True, colour="result")
    drawing.box(left, 482, COLUMN, 34, WORDS[TARGETS[t]], "result", bold=True)


def _looks_back(drawing, top, bottom):
    """The blocks as a box in which each token takes from itself and earlier ones: the stronger a line, the more."""
    drawing.box(LEFT, top, T * (COLUMN + GAP) - GAP, bottom - top, "", "attention")
    q, k, _ = sentence.head()
    for t, row in enumerate(attention.attention_weights(q, k).tolist()):
        for s, weight in enumerate(row[:t + 1]):
            x1, x2 = (LEFT + i * (COLUMN + GAP) + COLUMN / 2 for i in (s, t))
            drawing.raw(f'<path d="M{x1:.1f} {top + 4} C{x1:.1f} {top + 40} {x2:.1f} {bottom - 40} {x2:.1f} '
                        f'{bottom - 4}" fill="none" stroke="var(--attention-line)" stroke-width="{1 + 6 * weight:.1f}" '
                        f'stroke-opacity="{0.25 + 0.75 * weight:.2f}"/>')


def text_to_logits():
    """From the words of notebook 01's sentence to ids, vectors, logits, probabilities and the loss."""
    logits = sentence.logits()
    loss, probabilities, x = cross_entropy(logits, TARGETS), logits.softmax(dim=-1), sentence.vectors()
    drawing = Drawing(
        "text-to-logits", "From text to logits", f"Six tokens, “{' '.join(TEXT)}”, stand side by side, and each goes "
        f"down its own column. A token becomes an id ({', '.join(map(str, IDS.tolist()))}), of shape (T,); the id "
        "becomes a vector, a row of wte plus a row of wpe, of shape (T, C); the blocks let each vector look back at "
        "earlier ones (here one attention with two heads, no residual sum; the lines are the weights of head 0); and a "
        "product with wte gives logits, one for each word of the vocabulary, of shape (T, V). Softmax turns them into "
        f"probabilities. The targets are the same text shifted by one token: {', '.join(WORDS[i] for i in TARGETS)}. "
        f"The loss is the mean of −ln of the targets' probabilities: {number(loss, 2)}.", 646)
    width = T * COLUMN + (T - 1) * GAP
    for t in range(T):
        _column(drawing, t, x[t], probabilities[t])
    _looks_back(drawing, 275, 342)
    for y, says in ((113, "wte[ids] + wpe"), (359, "@ wte.T")):
        drawing.box(LEFT, y, width, 31, says, "embedding", bold=True, mono=True)
    drawing.box(LEFT, 565, width, 34, f"loss = mean of −ln P(target) = {number(loss, 2)}", "plain", bold=True)
    drawing.text(936, 622, f"bars: {', '.join(WORDS)}", SMALL, "end", colour="muted")
    for y, says, shape in ((34, "text", ""), (81, "ids", "(T,)"), (210, "vectors x", "(T, C)"),
                           (296, "blocks:", "(T, C)"), (322, "lines: attention", ""),
                           (374, "logits", "(T, V)"), (424, "softmax", "(T, V)"), (449, "green: target", ""),
                           (480, "targets:", "(T,)"), (504, "shifted by 1", ""), (532, "P(target)", "")):
        drawing.text(24, y, says, SMALL, "start")
        drawing.text(196, y, shape, SMALL, "end", colour="muted")
    return drawing


# --- windows ---------------------------------------------------------------------------------------------------------

# A stretch of Gulliver's Travels (Jonathan Swift, 1726), a word or a full stop for each token.
TAPE = ["I", "was", "the", "third", "of", "five", "sons", ".", "He", "sent"]
WINDOW, BATCH = 4, 3


def window_starts():
    """The random starts of the three windows, (B, 1), drawn like those of corpus.random_batch."""
    return torch.randint(len(TAPE) - WINDOW, (BATCH, 1), generator=torch.Generator().manual_seed(1))


def _tape(drawing, starts):
    """The text as a tape, and under it each window X and, shifted by one, its targets Y."""
    cell, left = 90, 36
    for i, word in enumerate(TAPE):
        drawing.text(left + (i + 0.5) * cell, 68, str(i), SMALL, colour="muted")
        drawing.box(left + i * cell, 84, cell, 44, word, radius=0)
    for row, start in enumerate(starts):
        y = 148 + 76 * row
        for shift, (name, kind) in enumerate((("X", "attention"), ("Y", "result"))):
            drawing.box(left + (start + shift) * cell + 3, y + 34 * shift, WINDOW * cell - 6, 28, f"{name}[{row}]",
                        kind, SMALL, bold=True)
        drawing.text(left + (start + WINDOW) * cell + 10, y + 14, f"start {start}", SMALL, "start", colour="muted")


def windows():
    """Three random windows over a text: the inputs X, the targets Y shifted by one, and the batch."""
    starts = window_starts().flatten().tolist()
    x = [TAPE[start:start + WINDOW] for start in starts]
    y = [TAPE[start + 1:start + 1 + WINDOW] for start in starts]
    drawing = Drawing(
        "windows", "Windows over a text", "The tokens of a book stand on a tape, numbered from 0: "
        f"“{' '.join(TAPE)}”. Three windows of T = {WINDOW} tokens begin at the random places "
        f"{', '.join(map(str, starts))}. Each window is a row of X (blue), and the same window shifted by one token "
        "is the row of its targets Y (green). Below, the three rows form the batch: X and Y, both of shape (B, T) = "
        f"({BATCH}, {WINDOW}). Where a token stands in X, the one that follows it stands in Y.", 622)
    drawing.text(36, 34, "the text: one long tape of tokens", anchor="start", bold=True)
    drawing.text(936, 34, f"B = {BATCH} random starts, T = {WINDOW}", SMALL, "end", colour="muted")
    _tape(drawing, starts)
    for left, name, rows, kind in ((36, "X (B, T): what the model sees", x, "attention"),
                                   (516, "Y (B, T): one place later", y, "result")):
        drawing.text(left, 414, name, anchor="start", bold=True, colour=kind)
        drawing.grid(left, 440, [[(word, kind) for word in row] for row in rows], 105, size=22,
                     row_names=range(BATCH) if left == 36 else (), height=44)
    drawing.arrow((456, 506), (514, 506))
    drawing.text(936, 596, "column t is predicted from columns 0…t of X", SMALL, "end", colour="result")
    return drawing


# --- the three sets --------------------------------------------------------------------------------------------------

BOOK_LEFT, BOOK_WIDTH = 36, 888  # of the bar that is the book


def set_sizes(tokens=10_000):
    """How many of a book's tokens are in its training, validation and test set, as the course splits by default."""
    train_ids, test_ids = corpus.Corpus("a book", "", torch.arange(tokens), None).split()
    return tuple(map(len, (*corpus.split_validation(train_ids), test_ids)))


def _book(drawing, y, parts):
    """The book as a bar of parts: (share, text, kind), or (share, text, kind, "hatched"). Returns their middles."""
    left, middles = BOOK_LEFT, []
    for share, text, kind, *hatched in parts:
        drawing.grid(left, y, [[(text, kind, *hatched)]], share * BOOK_WIDTH, height=58)
        middles.append(left + share * BOOK_WIDTH / 2)
        left += share * BOOK_WIDTH
    return middles


def three_sets():
    """The book as one bar: training, validation and test set while a recipe is chosen, and in the final measurement."""
    train, validation, test = (size / sum(set_sizes()) for size in set_sizes())
    drawing = Drawing(
        "three-sets", "Training, validation and test set", "Gulliver’s Travels as one bar, from its first token to its "
        f"last. While a recipe is chosen, the first {train:.0%} are the training set, from which the weights are "
        f"learned, the next {validation:.0%} are the validation set, on which every choice is made, and the last "
        f"{test:.0%} are the test set, which nobody looks at (hatched). For the final measurement, training set and "
        f"validation set, together {train + validation:.0%}, train the chosen recipe, and the test set measures it, "
        "once.", 440)
    for y, says in ((34, "1 · Choosing a recipe"), (262, "2 · The final measurement")):
        drawing.text(BOOK_LEFT, y, says, anchor="start", bold=True)
    drawing.text(924, 34, "Gulliver’s Travels, from first to last token", SMALL, "end", colour="muted")
    train_x, validation_x, test_x = _book(drawing, 58, (
        (train, f"training set: {train:.0%}", "mlp"), (validation, f"{validation:.0%}", "k"),
        (test, f"{test:.0%}", "plain", "hatched")))
    drawing.text(train_x, 142, "training: the weights", colour="mlp")
    drawing.arrow((validation_x, 116), (validation_x, 160), head=False, width=2, kind="k")
    drawing.text(validation_x + 40, 176, "validation: every choice", anchor="end", colour="k")
    drawing.arrow((test_x, 116), (test_x, 196), head=False, width=2)
    drawing.text(924, 212, "test: not looked at yet", anchor="end", colour="muted")
    both_x, test_x = _book(drawing, 286, (
        (train + validation, f"training + validation: {train + validation:.0%}", "mlp"),
        (test, f"{test:.0%}", "result")))
    drawing.text(both_x, 370, "training: a new model by the chosen recipe", colour="mlp")
    drawing.arrow((test_x, 344), (test_x, 388), head=False, width=2, kind="result")
    drawing.text(924, 404, "test: looked at once", anchor="end", colour="result")
    return drawing


# --- random windows and shuffled epochs ------------------------------------------------------------------------------

STRIP_WINDOWS, STRIP_T = 12, 4
STRIP = STRIP_T * (STRIP_WINDOWS + 1)  # tokens: an epoch's windows, and T more for its offset and last target
TOKEN = 17  # the width of a token
SEED = 1
# How a token looks that is read so often; the number of a token that is read more often stands on the full shade.
LOOKS = {0: ("", "plain", "hatched"), 1: ("1", "mlp", 0.25), 2: ("2", "mlp", 0.6)}


def strip_starts():
    """The starts of 12 random windows over the strip, and of the windows of its first epoch, in the order in which the
    course draws them."""
    ids = torch.arange(STRIP)
    random = corpus.random_batch(ids, STRIP_WINDOWS, STRIP_T, torch.Generator().manual_seed(SEED))[0]
    epoch = corpus.epoch_batch(ids, STRIP_WINDOWS, STRIP_T, step=0, seed=SEED)[0]
    return random[:, 0].tolist(), epoch[:, 0].tolist()


def times_read(starts):
    """How often each token of the strip is in one of the windows."""
    return [sum(start <= i < start + STRIP_T for start in starts) for i in range(STRIP)]


def _windows_over_strip(drawing, y, starts):
    """The windows with their order numbers, one above the other where they overlap, and under them the strip."""
    rows = []  # of (order number, start)
    for order, start in sorted(enumerate(starts, start=1), key=lambda pair: pair[1]):
        row = next((row for row in rows if row[-1][1] + STRIP_T <= start), None)
        if row is None:
            rows.append(row := [])
        row.append((order, start))
    for i, row in enumerate(rows):
        for order, start in row:
            drawing.box(BOOK_LEFT + TOKEN * start + 1, y + 34 * i, TOKEN * STRIP_T - 2, 28, str(order), "mlp", SMALL)
    bottom = y + 34 * len(rows) + 4
    cells = [LOOKS.get(times, (str(times), "mlp", 1.0)) for times in times_read(starts)]
    drawing.grid(BOOK_LEFT, bottom, [cells], TOKEN, height=36)
    return bottom + 36


def epochs():
    """Random windows against a shuffled epoch: how often each token of a text is read by as many windows."""
    random, shuffled = strip_starts()
    counts, once = times_read(random), times_read(shuffled)
    never, edges, offset = counts.count(0) / STRIP, once.count(0), min(shuffled)
    drawing = Drawing(
        "epochs", "Random windows and shuffled epochs", f"A strip of {STRIP} tokens is read twice, each time by "
        f"{STRIP_WINDOWS} windows of T = {STRIP_T} tokens, numbered in the order in which they are drawn. Above, the "
        f"windows begin at random: some overlap, and between others there are gaps. {never:.0%} of the tokens are "
        f"never read (hatched), {sum(times > 1 for times in counts) / STRIP:.0%} more than once, and none more "
        f"than {max(counts)} times. Below, the windows of one shuffled epoch lie end to end, and only their order is "
        f"random: every token in them is read exactly once. The first window begins at token {offset}, a small random "
        f"offset, which leaves {edges} tokens at the edges of the strip. Each epoch draws its own offset and order.",
        490)
    drawing.text(BOOK_LEFT, 34, f"{STRIP_WINDOWS} random windows", anchor="start", bold=True)
    drawing.text(924, 34, f"never read: {never:.0%} · most often: {max(counts)} times", SMALL, "end", colour="muted")
    bottom = _windows_over_strip(drawing, 60, random)
    drawing.text(BOOK_LEFT, bottom + 50, f"one shuffled epoch of {STRIP_WINDOWS} windows", anchor="start", bold=True)
    drawing.text(924, bottom + 50, f"each token once, but for {edges} at the edges", SMALL, "end", colour="muted")
    bottom = _windows_over_strip(drawing, bottom + 76, shuffled)
    for y, says, colour in (
            (34, f"offset of this epoch: {offset}; each epoch draws its own offset and order", "accent"),
            (68, "boxes: the windows, numbered in the order in which they are drawn", "muted"),
            (98, "strip: how often each token is read; hatched: never", "muted")):
        drawing.text(BOOK_LEFT, bottom + y, says, SMALL, "start", colour=colour)
    return drawing


# --- a split by window leaks -----------------------------------------------------------------------------------------

PASSAGES, PASSAGE_T, PASSAGE_WINDOW, STRIDE = 4, 12, 4, 2  # passages, and the tokens of each, of a window, of a step


def split_windows(by_passage):
    """The windows of the passages, (n, T) numbers of tokens, and which of them are the test set, (n,)."""
    tokens = torch.arange(PASSAGES * PASSAGE_T).view(PASSAGES, PASSAGE_T)
    windows = tokens.unfold(1, PASSAGE_WINDOW, STRIDE).flatten(0, 1)
    if by_passage:
        return windows, windows[:, 0] >= (PASSAGES - 1) * PASSAGE_T
    return windows, torch.randperm(len(windows), generator=torch.Generator().manual_seed(2)) < len(windows) // PASSAGES


def share_trained_on(windows, is_test):
    """The share of the test windows' tokens that a training window contains, too."""
    return torch.isin(windows[is_test], windows[~is_test]).float().mean().item()


def _split(drawing, y, heading, by_passage):
    """The passages side by side, and under each its windows, in two rows because neighbours overlap."""
    windows, is_test = split_windows(by_passage)
    share, cell, gap = share_trained_on(windows, is_test), 17, 24
    drawing.text(BOOK_LEFT, y, heading, anchor="start", bold=True)
    drawing.text(924, y, f"test tokens that are also trained on: {share:.0%}", SMALL, "end",
                 colour="wrong" if share else "result")
    for passage in range(PASSAGES):
        drawing.box(BOOK_LEFT + passage * (PASSAGE_T * cell + gap), y + 24, PASSAGE_T * cell, 34,
                    f"passage {passage + 1}", size=SMALL)
    for (start, *_), tested in zip(windows.tolist(), is_test.tolist()):
        passage, place = divmod(start, PASSAGE_T)
        left = BOOK_LEFT + passage * (PASSAGE_T * cell + gap) + place * cell
        drawing.box(left + 2, y + 66 + 34 * (place // STRIDE % 2), PASSAGE_WINDOW * cell - 4, 28,
                    "test" if tested else "train", "result" if tested else "mlp", SMALL)


def leakage():
    """Overlapping windows of passages, split by window and by passage: how many test tokens are trained on."""
    shares = [share_trained_on(*split_windows(by_passage)) for by_passage in (False, True)]
    drawing = Drawing(
        "leakage", "A split by window and a split by passage", f"{PASSAGES} passages of {PASSAGE_T} tokens stand side "
        f"by side. Each is cut into windows of {PASSAGE_WINDOW} tokens that begin {STRIDE} tokens apart, so neighbours "
        "overlap by half. Above, a quarter of all windows is drawn at random and becomes the test set (green): each "
        f"test window overlaps a training window (violet) of its passage, and {shares[0]:.0%} of the test tokens "
        "are also trained on. Below, all windows of one passage become the test set: the two sets share "
        f"{shares[1]:.0%} of the test tokens.", 366)
    _split(drawing, 34, "split by window: a random quarter", False)
    _split(drawing, 210, "split by passage: all windows of one", True)
    return drawing


# --- the loop that writes text ---------------------------------------------------------------------------------------

TEMPERATURE, TOP_K = 0.8, 3


def next_token():
    """One step of the loop in notebook 01's toy: (logits, logits / temperature, probabilities, id drawn)."""
    last = sentence.logits()[-1]
    probabilities = next_token_probabilities(last[None], TEMPERATURE, TOP_K)[0]
    drawn = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(0)).item()
    return last, last / TEMPERATURE, probabilities, drawn


def _first_row(drawing, drawn):
    """The upper row of generation-loop: text, ids with an a place for the new one, model, logits."""
    drawing.box(24, 66, 150, 68, "the ship was\nold so it", size=SMALL)
    drawing.arrow((174, 100), (274, 100), label="tokenizer")
    drawing.grid(276, 80, [[str(i) for i in IDS.tolist()]], 32, height=40)
    drawing.box(468, 80, 32, 40, str(drawn), "result", SMALL, radius=0, dash=True, bold=True)
    drawing.text(276, 58, "ids (1, T)", SMALL, "start", colour="muted")
    drawing.text(484, 58, "next round", SMALL, colour="result")
    drawing.arrow((500, 100), (560, 100))
    drawing.box(562, 62, 138, 76, "model", "attention", LARGE, bold=True)
    drawing.arrow((700, 100), (745, 100))
    drawing.grid(747, 58, [[("", "stream")] * V] * (T - 1) + [[("", "embedding")] * V], 15, height=15)
    drawing.text(814, 36, "logits (1, T, V)", SMALL, colour="muted")


def _choices(drawing, left, name, values, texts, kept, kind):
    """A column of the vocabulary's words with a bar for each: what one step of the choice makes of the logits."""
    drawing.text(left + 74, 236, name, SMALL, bold=True)
    for i, (value, text) in enumerate(zip(values, texts)):
        y = 262 + 28 * i
        entry = (text, kind, value) if i in kept else ("", "plain", "hatched")
        drawing.grid(left, y, [[entry]], 148, height=28)


def generation_loop():
    """How a text is continued: tokenizer, model, the choice of the next token, and the way back to the model."""
    last, cooled, probabilities, drawn = next_token()
    word, best = WORDS[drawn], set(cooled.topk(TOP_K).indices.tolist())
    drawing = Drawing(
        "generation-loop", "The loop that writes text", f"The text “{' '.join(TEXT)}” goes through the tokenizer and "
        "becomes ids of shape (1, T). The model turns them into logits of shape (1, T, V), and only those of the last "
        f"position are used. They are divided by the temperature, here {TEMPERATURE}; top-k keeps the {TOP_K} "
        f"largest; softmax makes probabilities of them, {number(probabilities[drawn], 2)} for “{word}”. One token is "
        f"drawn, “{word}”, and its id is appended to the ids: the loop begins again. In the end the ids are "
        "decoded to text.", 620)
    _first_row(drawing, drawn)
    span = (cooled - cooled.min()) / (cooled.max() - cooled.min())
    numbers, everything = [number(z) for z in cooled], set(range(V))
    _choices(drawing, 740, f"logits / {TEMPERATURE}", span.tolist(), numbers, everything, "embedding")
    _choices(drawing, 524, f"top-k, k = {TOP_K}", span.tolist(), numbers, best, "embedding")
    _choices(drawing, 308, "softmax", probabilities.tolist(), [number(p, 2) for p in probabilities], best, "result")
    for i, name in enumerate(WORDS):
        drawing.text(898, 276 + 28 * i, name, SMALL, "start")
    drawing.arrow((814, 149), (814, 220), kind="embedding")
    drawing.text(830, 182, "last row", SMALL, "start", colour="embedding")
    drawing.arrow((740, 388), (674, 388))
    drawing.arrow((524, 388), (458, 388))
    drawing.arrow((308, 388), (200, 388), label="draw at\nrandom", offset=(0, -41))
    drawing.box(48, 364, 150, 48, f"{word}: id {drawn}", "result", bold=True)
    drawing.arrow((123, 364), (123, 182), (484, 182), (484, 122), kind="result", width=4)
    drawing.text(400, 162, "append", SMALL, colour="result")
    drawing.arrow((292, 120), (292, 150), (32, 150), (32, 548), kind="stream", dash=True)
    drawing.text(48, 480, "until max_new_tokens,\nthen decode", SMALL, "start", colour="muted")
    drawing.box(24, 550, 912, 48, f"{' '.join(TEXT)} {word}", size=24, bold=True)
    return drawing


PICTURES = {"text-to-logits": text_to_logits, "windows": windows, "three-sets": three_sets, "epochs": epochs,
            "leakage": leakage, "generation-loop": generation_loop}
