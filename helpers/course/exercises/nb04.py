"""Exercises of notebook 04: Conv1D as nn.Linear, temperature and entropy, nucleus sampling, a loop that writes text,
the head that looks back farthest."""

import math
from types import SimpleNamespace

import torch
import torch.nn as nn
from transformers.pytorch_utils import Conv1D

from helpers.course.checking import (
    Exercise, NotYet, as_floats, as_numbers, describe, name_the_mistake, needs_answer, same,
)

# --- Conv1D as nn.Linear ---------------------------------------------------------------------------------------------


def to_linear(conv):
    """A transformers Conv1D -> an nn.Linear that computes the same."""
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.T)
        linear.bias.copy_(conv.bias)
    return linear


def random_conv(outputs, inputs):
    """A Conv1D with random weights and biases, for the check."""
    generator, conv = torch.Generator().manual_seed(0), Conv1D(outputs, inputs)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return conv


def _test_linear(attempt):
    """Compares biases and products for a wide, a square and a narrow matrix."""
    for inputs, outputs, what in ((6, 18, "c_attn"), (5, 5, "the square c_proj"), (12, 3, "the narrow c_proj")):
        conv, x = random_conv(outputs, inputs), torch.randn(3, inputs, generator=torch.Generator().manual_seed(1))
        products, bias = conv(x).detach(), conv.bias.detach().clone()
        answer = needs_answer(attempt(conv))
        if not isinstance(answer, nn.Linear):
            raise NotYet(f"Expected an nn.Linear; you returned {describe(answer)}.")
        if tuple(answer.weight.shape) != (outputs, inputs):
            raise NotYet(f"For {what} the weight must have the shape ({outputs}, {inputs}), outputs first; yours has "
                         f"{tuple(answer.weight.shape)}.")
        if answer.bias is None or not same(as_floats(answer.bias), bias):
            raise NotYet("Copy the bias, too: it has one element per output and needs no transposition.")
        if not same(as_floats(answer(x.to(answer.weight))), products):
            raise NotYet(f"The shapes fit, but the products differ for {what}. A square matrix raises no error when it "
                         "is not transposed.")
    return "The products are equal for a wide, a narrow and a square matrix. The shape of the square one does not " \
           "show whether it is transposed."


# --- temperature and entropy -----------------------------------------------------------------------------------------


def next_token(logits, temperature):
    """logits (1, T, V) -> the probabilities of the next token, (V,), and their entropy in nats."""
    p = (logits[0, -1] / temperature).softmax(dim=-1)
    return p, -(p * p.clamp(min=1e-30).log()).sum()  # 0 times the logarithm of 0 counts as 0


def _test_temperature(attempt):
    """Compares both results at five temperatures; at the lowest ones, most probabilities are exactly 0."""
    few = torch.tensor([[[1.0, 4.0, 0.0, 2.0, 1.0], [0.5, 0.0, 3.0, 1.0, 2.0], [2.0, 1.0, 0.0, 1.0, 3.5]]])
    many = 2 * torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    for logits, temperature in ((few, 1.0), (few, 2.0), (few, 0.01), (many, 0.7), (many, 0.005)):
        answer = needs_answer(attempt(logits.clone(), temperature))
        if not isinstance(answer, (tuple, list)) or len(answer) != 2 or any(part is None for part in answer):
            raise NotYet(f"Expected two results: return probabilities, entropy. You returned {describe(answer)}.")
        p, H = as_floats(answer[0]), as_floats(answer[1])
        _check_probabilities(p, logits, temperature)
        if H.numel() != 1:
            raise NotYet(f"The entropy is one number; yours has the shape {tuple(H.shape)}. Sum over the tokens.")
        _check_entropy(H.item(), next_token(logits, temperature)[1].item(), temperature, max(p.tolerance, H.tolerance))
    return "Your results are right for two texts at five temperatures, and a probability of 0 does not lead to nan."


def _check_entropy(H, right, temperature, tolerance):
    """Raises NotYet unless H is the right entropy."""
    if math.isnan(H):
        raise NotYet(f"At temperature {temperature} some probabilities are exactly 0, and 0 * log(0) is nan in "
                     "PyTorch. Such a token must contribute 0.")
    if not math.isclose(H, right, rel_tol=tolerance, abs_tol=1e-3):  # rounding is large beside an entropy near 0
        if math.isclose(H, -right, rel_tol=tolerance):
            raise NotYet("An entropy is never negative, but log p is. Change the sign.")
        if math.isclose(H, right / math.log(2), rel_tol=tolerance):
            raise NotYet("That is the entropy in bits. For nats, take the natural logarithm.")
        raise NotYet(f"The probabilities are right at temperature {temperature}. Their entropy is {right:.4f} "
                     f"nats; yours is {H:.4f}.")


def _check_probabilities(p, logits, temperature):
    """Raises NotYet unless p is the softmax of the last position's logits over the temperature."""
    last, T, V = logits[0, -1], *logits.shape[1:]
    if tuple(p.shape) != (V,):
        raise NotYet(f"Expected probabilities of shape ({V},), one for each token; yours have {tuple(p.shape)}. "
                     f"The logits are (1, T, V) = (1, {T}, {V}), and only one position predicts the next token.")
    right, scores = (last / temperature).softmax(-1), last.softmax(-1)
    if same(p, right):
        return
    if p.isnan().any():
        raise NotYet(f"At temperature {temperature} your probabilities contain nan: exp() of a large number is "
                     "infinite. Use softmax, or subtract the largest logit first.")
    name_the_mistake(p, [
        ("Those are the probabilities after the first token. The next token follows the last position.",
         (logits[0, 0] / temperature).softmax(-1)),
        ("You divide the probabilities. Divide the logits, then take the softmax.", scores / temperature),
        ("You divide the probabilities and then rescale them to add up to 1: that changes nothing.", scores),
        ("You take the softmax twice. Divide the logits, then take it once.", (scores / temperature).softmax(-1)),
        ("You multiply by the temperature. A high temperature must make the logits smaller.",
         (last * temperature).softmax(-1)),
        ("Your softmax runs over the positions. It must run over the vocabulary, the last axis.",
         (logits[0] / temperature).softmax(0)[-1]),
        ("Those are logits, not probabilities: the softmax is missing.", last / temperature),
        ("Those are the logarithms of the probabilities: take exp().", (last / temperature).log_softmax(-1)),
    ])
    raise NotYet(f"At temperature {temperature} the probabilities should be {rounded(right)}; yours are {rounded(p)}.")


def rounded(row, digits=3):
    """A tensor as a list of rounded numbers, for a message."""
    return [round(x, digits) for x in row.tolist()]


# --- nucleus sampling ------------------------------------------------------------------------------------------------


def nucleus(probabilities, p):
    """probabilities (V,) -> (V,): only the smallest set of likely tokens that has at least the probability p."""
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(0) - ordered  # the probability of all tokens that are more likely than this one
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (before < p)
    return kept / kept.sum()


def _test_nucleus(attempt):
    """Compares with the solution for two distributions. Their sums are exact in every precision."""
    four, seven = torch.tensor([2.0, 8, 1, 5]) / 16, torch.tensor([3.0, 32, 1, 6, 12, 2, 8]) / 64
    for given, p in ((four, 0.6), (four, 0.3), (four, 0.9), (four, 1.0), (seven, 0.7), (seven, 0.85), (seven, 0.2)):
        right, answer = nucleus(given, p), as_floats(attempt(given.clone(), p))
        if answer.shape != given.shape:
            raise NotYet(f"{len(given)} probabilities go in, so {len(given)} must come out; you returned something of "
                         f"the shape {tuple(answer.shape)}.")
        if not same(answer, right):
            _explain_nucleus(answer, right, rounded(given, 4), p)
    if not same(as_floats(attempt(four.clone(), 0.5)), nucleus(four, 0.5)):
        raise NotYet(f"With p = 0.5 and {rounded(four, 4)} the token of 0.5 alone reaches p exactly. A set that has at "
                     "least p needs no other token.")
    return "For distributions of 4 and of 7 tokens you keep the smallest set that reaches p; it adds up to 1 and is " \
           "in the order of the vocabulary."


def _explain_nucleus(answer, right, given, p):
    """Raises NotYet with the likely mistake. given: the probabilities as a list."""
    if not math.isclose(answer.sum(), 1.0, abs_tol=10 * answer.tolerance):
        raise NotYet(f"For p = {p} your probabilities add up to {answer.sum():.3g}. Divide by the sum of those that "
                     "you keep.")
    if same(answer.sort().values, right.sort().values, answer.tolerance):
        raise NotYet("The values are right, but in the wrong order: undo the sorting. Token 1 is the most likely.")
    if (kept := (answer > 0).sum()) < (needed := (right > 0).sum()):
        raise NotYet(f"For p = {p} you keep {kept} of {given}; {needed} are needed to reach p. Keep the token that "
                     "crosses the line, too.")
    if kept > needed:
        raise NotYet(f"For p = {p} you keep {kept} of {given}; {needed} are enough to reach p. Stop there, and begin "
                     "with the most likely token.")
    raise NotYet(f"For p = {p} and {given}, expected {rounded(right)}; yours is {rounded(answer)}. Keep the most "
                 "likely tokens, and divide them all by the same sum.")


# --- a loop that writes text -----------------------------------------------------------------------------------------


def write(model, ids, new, temperature, top_k):
    """ids (B, T) -> (B, T + new): each new token drawn from the top_k most likely ones, at this temperature."""
    for _ in range(new):
        logits = model(ids[:, -model.config.n_positions :])[:, -1]  # (B, V): what follows the last token
        best = logits.topk(top_k, dim=-1)  # values and ids, each (B, k), the most likely first
        p = (best.values / temperature).softmax(dim=-1)
        index = torch.multinomial(p, 1)  # (B, 1): an index among the k
        ids = torch.cat([ids, best.indices.gather(1, index)], dim=1)
    return ids


class TableModel(nn.Module):
    """A model for the check: model(ids) (B, T) -> logits (B, T, V), which depend on the last token only or, with whole,
    on the sum of all tokens so far. Like GPT-2 it takes at most config.n_positions tokens.

    following: for each token the one that is most likely after it (after a sum, modulo V, with whole).
    """

    def __init__(self, following, n_positions, whole=False):
        super().__init__()
        V = len(following)
        self.config, self.whole = SimpleNamespace(n_positions=n_positions, vocab_size=V), whole
        table = torch.tensor([[2.0 - 0.5 * ((i - best) % V) for i in range(V)] for best in following])
        self.table = nn.Parameter(table, requires_grad=False)

    def forward(self, ids, last_only=False):
        if ids.ndim != 2:
            raise NotYet(f"The model takes a batch of shape (B, T); you gave it the shape {tuple(ids.shape)}.")
        if ids.shape[1] > self.config.n_positions:
            raise NotYet(f"You gave the model {ids.shape[1]} tokens; it has positions for {self.config.n_positions} "
                         "(model.config.n_positions). Give it only the last tokens of the text.")
        logits = self.table[ids.cumsum(1) % len(self.table) if self.whole else ids]
        return logits[:, -1:] if last_only else logits

    @property
    def lm_head(self):
        """What generate() asks for first."""
        raise NotYet("The model of this check has only model(ids) and model.config. Write the loop with these two; the "
                     "course's generate needs more.")


SEVEN = (3, 4, 5, 6, 2, 0, 1)  # the most likely chain is 0 -> 3 -> 6 -> 1 -> 4 -> 2 -> 5 -> 0
FIVE = (2, 0, 4, 1, 3)  # 0 -> 2 -> 4 -> 3 -> 1 -> 0


def _test_write(attempt):
    """Compares a greedy text, then the distributions of 3,000 draws, then a text longer than the context."""
    prompt, right = torch.tensor([[5, 0], [2, 4]]), torch.tensor([[5, 0, 3, 6, 1, 4], [2, 4, 2, 5, 0, 3]])
    answer = as_floats(attempt(TableModel(SEVEN, 9), prompt.clone(), 4, 1.0, 1))
    if tuple(answer.shape) == (2, 4):
        raise NotYet("You return only the new tokens. Return the complete text with them at its end: (B, T + new).")
    if tuple(answer.shape) != (2, 6):
        raise NotYet(f"(2, 2) ids and 4 new tokens give the shape (2, 6); yours is {tuple(answer.shape)}. Each pass of "
                     "the loop must append one id to every row.")
    if not same(answer, right):
        _explain_greedy(answer.long(), prompt, right)
    torch.manual_seed(0)  # the same answer gets the same verdict each time
    for temperature, top_k in ((1.0, 7), (0.5, 7), (3.0, 7), (1.0, 3), (2.0, 3)):
        _check_draws(attempt, TableModel(SEVEN, 9), temperature, top_k)
    _check_draws(attempt, TableModel(FIVE, 4), 0.8, 4)
    _check_long_text(attempt)
    return "Your loop draws from the k best, divides by the temperature before the softmax, and crops only the input."


def _check_long_text(attempt):
    """Raises NotYet unless the model always sees as much of the text as its context holds."""
    prompt, new = torch.tensor([[4, 1, 3, 2], [0, 3, 4, 4], [2, 2, 1, 0]]), 7  # eleven tokens in the end; six fit
    answer = as_floats(attempt(TableModel(FIVE, 6, whole=True), prompt.clone(), new, 1.0, 1))
    right = write(TableModel(FIVE, 6, whole=True), prompt, new, 1.0, 1)
    name_the_mistake(answer, [("You give the model only the last token. It must see as much of the text as its context "
                               "holds.", write(TableModel(FIVE, 6), prompt, new, 1.0, 1))])
    if not same(answer, right):
        first = answer.long().tolist()[0] if answer.ndim == 2 else answer.long().tolist()
        raise NotYet(f"With a context of 6 tokens, {prompt[0].tolist()} should become {right[0].tolist()}; yours is "
                     f"{first}. Crop what the model sees, not the text that you return, and give the model as many of "
                     "the last tokens as its context holds.")


def _explain_greedy(answer, prompt, right):
    """Raises NotYet with the likely mistake in a greedy text."""
    if not answer[:, :2].equal(prompt):
        raise NotYet("The given text must stay unchanged at the beginning.")
    new, wanted = answer[:, 2:], right[:, 2:]
    first = torch.tensor([SEVEN[token] for token in prompt[:, 0].tolist()])
    if new.eq(0).all():
        raise NotYet("Every new id is 0. You draw an index among the k best: look up which token it stands for.")
    if new[:, 0].equal(first):
        raise NotYet("Your first new token follows the first token of the text. Use the logits of the last position.")
    if new[0].equal(new[1]):
        raise NotYet("Your two rows continue alike, although they begin differently. Every row has its own logits.")
    if new.eq(new[:, :1]).all():
        raise NotYet("The first new token is right, but then it is repeated: the model must see the text with the new "
                     "token appended.")
    raise NotYet(f"With top_k = 1 only the most likely token remains: {prompt[0].tolist()} must continue with "
                 f"{wanted[0].tolist()}; yours continues with {new[0].tolist()}.")


def _check_draws(attempt, model, temperature, top_k, rows=3000):
    """Raises NotYet unless the draws after token 4 follow the expected distribution."""
    logits, V = model.table[4], len(model.table)
    drawn = as_floats(attempt(model, torch.full((rows, 1), 4), 1, temperature, top_k))
    if tuple(drawn.shape) != (rows, 2) or drawn.min() < 0 or drawn.max() >= V:
        raise NotYet(f"For {rows:,} rows of one token and one new token, expected ids from 0 to {V - 1} of shape "
                     f"({rows}, 2); yours have the shape {tuple(drawn.shape)}.")
    shares = torch.bincount(drawn[:, -1].long(), minlength=V) / rows
    cut = logits.masked_fill(logits < logits.sort(descending=True).values[top_k - 1], float("-inf"))
    mistakes = {
        "Every draw is the same token: draw with torch.multinomial instead of taking the most likely one.":
            nn.functional.one_hot(logits.argmax(), V).float(),
        "The temperature changes nothing. Divide the logits by it, before the softmax; dividing probabilities has "
        "no effect on a draw.": cut.softmax(-1),
        "You multiply by the temperature. A high temperature must make the logits smaller.":
            (cut * temperature).softmax(-1),
        "Tokens outside the k best are drawn: top_k changes nothing.": (logits / temperature).softmax(-1),
        "You divide the probabilities and take a second softmax. Divide the logits, then take one.":
            (logits.softmax(-1) / temperature).softmax(-1),
        "All tokens are equally frequent. Over which axis does your softmax run?": torch.ones(V) / V,
        "The k best are equally frequent. Over which axis does your softmax run?": cut.isfinite() / top_k,
        "You draw an index among the k best and use it as a token's id. Look up which token it stands for.":
            (cut.sort(descending=True).values / temperature).softmax(-1),
    }
    if shares.max() == 1 and shares.argmax() != logits.argmax():
        raise NotYet("All rows get the same token. Each row needs a draw of its own.")
    right = (cut / temperature).softmax(-1)
    if (shares - right).abs().max() > 0.04:
        far, reason = min(((shares - wrong).abs().max(), reason) for reason, wrong in mistakes.items())
        raise NotYet(reason if far < 0.04 else
                     f"At temperature {temperature} with top_k = {top_k}, {rows:,} draws should have the shares "
                     f"{rounded(right, 2)}; yours have {rounded(shares, 2)}.")


# --- the head that looks back farthest -------------------------------------------------------------------------------


def farthest_head(maps):
    """maps (L, nh, T, T) -> (layer, head) of the head that looks back farthest on average."""
    positions = torch.arange(maps.shape[-1], device=maps.device)
    distance = positions[:, None] - positions  # (T, T): t - s
    back = (maps * distance).sum(-1).mean(-1)  # (L, nh)
    return divmod(back.argmax().item(), maps.shape[1])


def example_maps():
    """Attention maps of 3 layers with 4 heads for 6 tokens. (1, 2) looks back farthest, by 2 on average. Four others
    look at the first token and themselves, at themselves, far back with the last token only, or back by one; the rest
    spread their weight evenly."""
    past = torch.ones(6, 6).tril()
    maps = (past / past.sum(-1, keepdim=True)).repeat(3, 4, 1, 1)
    itself, first = torch.eye(6), torch.eye(6)[:1].expand(6, 6)
    maps[1, 2] = torch.eye(6)[torch.arange(6) // 3]  # token t looks at token t // 3
    maps[0, 1] = 0.55 * first + 0.45 * itself
    maps[0, 2] = itself
    maps[0, 3] = torch.cat([itself[:-1], first[:1]])
    maps[1, 0] = itself[[0, 0, 1, 2, 3, 4]]
    return maps


def random_maps(layers, heads, tokens, farthest):
    """Random attention maps, (layers, heads, tokens, tokens), in which one head prefers the first tokens."""
    scores = torch.randn(layers, heads, tokens, tokens, generator=torch.Generator().manual_seed(1))
    scores[farthest] -= torch.arange(tokens)
    return scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), float("-inf")).softmax(-1)


def _test_farthest(attempt):
    """Asks for the heads of example_maps() and of random_maps() that look back farthest."""
    layer, head = _layer_and_head(attempt(example_maps()))
    known = {
        (0, 0): "spreads its weight evenly. Each row of weights adds to 1: multiply by t - s before you add",
        (0, 1): "gives the first token most of its weight, but not all: every cell counts with its own distance",
        (0, 2): "looks at itself, at distance 0. Is your distance t - s, or s - t",
        (0, 3): "looks far back with its last token only: take the mean over all tokens t",
        (1, 0): "looks back by one. The distance of row t and column s is t - s",
        (2, 1): "is the right pair in the wrong order",
        (2, 0): "looks everywhere; the index 6 is 1 * 4 + 2, with four heads in each layer",
        **dict.fromkeys([(1, 3), (2, 2), (2, 3)], "is one too far; layers and heads count from 0"),
    }
    if (layer, head) != (1, 2):
        what = known.get((layer, head), "does not look back farthest")
        raise NotYet(f"({layer:g}, {head:g}) {what}. Row t shows where token t looks; column s is the token it looks "
                     "at.")
    for layers, heads, tokens, farthest in ((4, 3, 9, (2, 1)), (2, 5, 4, (1, 4))):
        maps = random_maps(layers, heads, tokens, farthest)
        layer, head = _layer_and_head(attempt(maps.clone()))
        if (layer, head) != farthest:
            raise NotYet(f"In maps of the shape {tuple(maps.shape)}, head {farthest} looks back farthest; you return "
                         f"({layer:g}, {head:g}). Read the sizes from maps.shape, (L, nh, T, T).")
    return "Your function finds the head in three sets of maps that differ in layers, heads and tokens."


def _layer_and_head(answer):
    """A learner's answer as a pair of numbers."""
    try:
        return tuple(as_numbers(answer, ("layer", "head")))
    except NotYet:
        needs_answer(answer)
        raise NotYet(f"Expected a pair (layer, head), both counted from 0; you returned {describe(answer)}.") from None


linear = Exercise(
    "Conv1D as nn.Linear", 1, 5,
    ("conv.weight has the shape (inputs, outputs). What is the shape of the weight of nn.Linear(inputs, outputs)?",
     "Make nn.Linear(inputs, outputs), then copy the transposed weight and the bias into it under torch.no_grad().",
     "linear.weight.copy_(conv.weight.T) and linear.bias.copy_(conv.bias), in a block with torch.no_grad():"),
    _test_linear, to_linear,
)
temperature = Exercise(
    "Temperature and entropy by hand", 1, 5,
    ("Which of the T positions predicts the token that comes next? Take its V logits and ignore the others.",
     "Divide these logits by the temperature, then softmax. The entropy is -(p * p.log()).sum(). What is it for p = 0?",
     "logits[0, -1] / temperature, softmax over dim=-1. For the entropy keep p away from 0 inside the logarithm: "
     "p.clamp(min=1e-30).log(), or use torch.special.entr(p)."),
    _test_temperature, next_token,
    by_hand=("helpers.generation.next_token_probabilities", "helpers.course.text_statistics.entropy"),
)
cut = Exercise(
    "Nucleus sampling", 2, 12,
    ("Sort the probabilities in descending order and add them up one by one. Which is the last one that you need?",
     "ordered.cumsum(0) - ordered is the probability of all more likely tokens together. Keep a token while that is "
     "below p.",
     "ordered, order = probabilities.sort(descending=True) also returns the indices. Put what you keep back with "
     "kept[order] = ..., where kept starts as zeros, and divide by the sum of kept."),
    _test_nucleus, nucleus, by_hand=("helpers.generation.next_token_probabilities", "TopPLogitsWarper"),
)
loop = Exercise(
    "A loop with temperature and top-k", 3, 20,
    ("Begin with the loop by_hand of section 4. What must change in the line with softmax, and where do the k best "
     "come from?",
     "best = logits.topk(top_k, dim=-1) holds the k best logits, best.values, and their ids, best.indices, both "
     "(B, k). Divide by the temperature, take the softmax, and draw an index among the k.",
     "best.indices.gather(1, index) turns the indices into ids. Append them with torch.cat([ids, ...], dim=1). The "
     "model sees ids[:, -model.config.n_positions:]; the text keeps all ids."),
    _test_write, write, by_hand=("helpers.generation.next_token_probabilities",),
)
farthest = Exercise(
    "The head that looks back farthest", 2, 10,
    ("In a map, row t shows where token t looks. How far back is the cell in row t and column s?",
     "Make a matrix of distances, positions[:, None] - positions, (T, T). Multiply every map by it, sum over the "
     "columns and take the mean over the rows. The result has the shape (L, nh).",
     "argmax counts through that result row by row: index = layer * nh + head. divmod(index, nh) returns the pair."),
    _test_farthest, farthest_head,
)
