"""Exercises of notebook 11: the shapes on the way, a test for leaks, a fused matrix taken apart, and GPT-2 itself."""

from numbers import Integral

import torch

from helpers.course import capstone
from helpers.course.exercises.capstone_solution import GPT2
from helpers.course.checking import Exercise, NotYet, as_floats, describe, name_the_mistake, needs_answer, same

# --- the shapes on the way -------------------------------------------------------------------------------------------


def shapes_on_the_way(config, B, T):
    """The shapes of seven tensors of a forward pass of B sequences of T tokens, and of one with a cache."""
    C, nh = config.n_embd, config.n_head
    return {"x": (B, T, C), "qkv": (B, T, 3 * C), "q": (B, nh, T, C // nh), "scores": (B, nh, T, T),
            "merged": (B, T, C), "hidden": (B, T, 4 * C), "logits": (B, T, config.vocab_size),
            "new scores": (B, nh, 1, T + 1)}


def _shape_mistakes(config, B, T):
    """{(key, shape): message}."""
    C, nh, V = config.n_embd, config.n_head, config.vocab_size
    hs = C // nh
    return {
        ("x", (B, T, V)): "The ids become vectors of C elements.",
        ("qkv", (B, T, C)): "One matrix computes Q, K and V side by side.",
        ("q", (B, T, nh, hs)): "The heads come before the tokens, so that each head multiplies (T, hs) matrices.",
        ("q", (B, nh, T, C)): "Each head has a slice of hs = C / nh elements.",
        ("scores", (B, T, T)): "Every head has its own scores.",
        ("scores", (B, nh, T, hs)): "A score belongs to a pair of tokens.",
        ("merged", (B, nh, T, hs)): "The heads' results are concatenated again.",
        ("hidden", (B, T, C)): "The MLP is four times wider inside.",
        ("logits", (B, V)): "Every position predicts its next token.",
        ("logits", (B, T, C)): "A score for each token of the vocabulary.",
        ("new scores", (B, nh, 1, T)): "The new token also attends to itself.",
        ("new scores", (B, nh, T + 1, T + 1)): "With a cache only the new token has a query.",
        ("new scores", (B, nh, 1, 1)): "The new query meets the keys of all earlier tokens, which the cache holds.",
    }


def _test_shapes(attempt):
    """Compares all shapes for two configurations that differ in every size."""
    for config, B, T in ((capstone.SMALL, 2, 7), (capstone.OTHER, 3, 11)):
        answer, right = needs_answer(attempt(config, B, T)), shapes_on_the_way(config, B, T)
        if not isinstance(answer, dict):
            raise NotYet(f"Return a dictionary with the keys {', '.join(right)}; you returned {describe(answer)}.")
        if missing := [key for key in right if answer.get(key) is None]:
            raise NotYet(f"There is no shape yet for {', '.join(missing)}.")
        for key, shape in right.items():
            given = tuple(answer[key]) if isinstance(answer[key], (tuple, list)) else answer[key]
            if given == shape and (parts := [size for size in given if not isinstance(size, Integral)]):
                raise NotYet(f"{key}: {given} contains {parts[0]!r}. Sizes are whole numbers: divide with //.")
            if given != shape:
                why = _shape_mistakes(config, B, T).get((key, given), "Which axes does it have, and how long are they?")
                C, nh, V = config.n_embd, config.n_head, config.vocab_size
                raise NotYet(f"{key}: with B, T, C, nh, V = {B}, {T}, {C}, {nh}, {V} you have {given}. {why}")
    return "These eight shapes are the skeleton of the model that you are about to write."


# --- a test for leaks ------------------------------------------------------------------------------------------------


def find_leaks(logits, V, T):
    """All (t, s) with s > t for which row t of logits(ids), ids (1, T), depends on token s."""
    ids = torch.randint(V, (1, T))
    before, found = logits(ids)[0], []  # (T, V)
    for s in range(T):
        changed = ids.clone()
        changed[0, s] = (ids[0, s] + 1) % V  # certainly another token
        differs = (logits(changed)[0] - before).abs().amax(dim=-1) > 1e-6  # (T,)
        found += [(t, s) for t in range(s) if differs[t]]
    return found


def mixing_model(V, mix, seed):
    """A function ids (1, T) -> logits (1, T, V). mix (T, T): how much of token s enters row t."""
    generator = torch.Generator().manual_seed(seed)
    table, out = torch.randn(V, 8, generator=generator), torch.randn(8, V, generator=generator)
    return lambda ids: (mix @ table[ids]).tanh() @ out


def late_mask_model(V, T, seed):
    """Attention whose mask comes after the softmax: its weights are triangular, but each depends on all tokens."""
    generator = torch.Generator().manual_seed(seed)
    table, out = torch.randn(V, 8, generator=generator), torch.randn(8, V, generator=generator)

    def logits(ids):
        x = table[ids]  # (1, T, 8)
        return ((x @ x.transpose(1, 2) / 8**0.5).softmax(-1).tril() @ x) @ out

    return logits


def _leaky_models():
    """(name, V, T, logits, the right answer) of each model with which the check calls the attempt."""
    for V, T, seed in ((11, 5, 0), (7, 8, 1)):
        past = torch.ones(T, T).tril()
        late = [(t, s) for t in range(T) for s in range(t + 1, T)]
        yield "a causal model", V, T, mixing_model(V, past, seed), []
        yield ("a mask that is off by one", V, T, mixing_model(V, torch.ones(T, T).tril(1), seed),
               [(t, t + 1) for t in range(T - 1)])
        one = past.clone()
        one[1, T - 1] = 0.01
        yield "a small leak from the last token to row 1", V, T, mixing_model(V, one, seed), [(1, T - 1)]
        yield "no mask", V, T, mixing_model(V, torch.ones(T, T), seed), late
        yield "a mask after the softmax", V, T, late_mask_model(V, T, seed), late


def _as_pairs(answer):
    """An answer as a sorted list of pairs of whole numbers."""
    try:
        return sorted({(int(t), int(s)) for t, s in answer})
    except (TypeError, ValueError):
        raise NotYet(f"Return a list of pairs (t, s); you returned {describe(answer)}.") from None


def _test_leaks(attempt):
    """Calls the attempt with five models of two sizes, whose leaks are known."""
    for name, V, T, logits, right in _leaky_models():
        given, right = _as_pairs(needs_answer(attempt(logits, V, T))), sorted(right)
        if given == right:
            continue
        allowed = [(t, s) for t, s in given if t >= s]
        if allowed:
            raise NotYet(f"{name}, T = {T}: {allowed[0]} in your list is no leak, because row {allowed[0][0]} may "
                         f"depend on token {allowed[0][1]}. A pair is (row, token), and a leak has token > row.")
        wrong = [pair for pair in given if pair not in right]
        if wrong:
            raise NotYet(f"{name}, T = {T}: your list contains {wrong[0]}, but row {wrong[0][0]} does not depend on "
                         f"token {wrong[0][1]}. Change one token at a time, and compare with the same ids.")
        pair = next(pair for pair in right if pair not in given)
        raise NotYet(f"{name}, T = {T}: row {pair[0]} depends on token {pair[1]}, but {pair} is not in your list. "
                     "Change every token once, certainly to another one, and look at all rows and all elements.")
    return ("Your test finds every leak of five models, also one whose attention weights are triangular. Try it on "
            "your GPT.")


# --- a fused matrix taken apart --------------------------------------------------------------------------------------


def unfuse(weight, bias, n_head):
    """c_attn's weight (3C, C) and bias (3C,) -> w (3, nh, C, hs) and b (3, nh, hs), so that x @ w[0, i] + b[0, i] is
    head i's Q, and 1 and 2 stand for K and V."""
    C = weight.shape[1]
    w = weight.view(3, n_head, C // n_head, C).transpose(2, 3)  # (3, nh, hs, C) -> (3, nh, C, hs)
    return w, bias.view(3, n_head, C // n_head)


def _test_unfuse(attempt):
    """Compares both tensors in two shapes."""
    for C, nh, seed in ((12, 3, 0), (10, 2, 1)):
        generator, hs = torch.Generator().manual_seed(seed), C // nh
        weight, bias = torch.randn(3 * C, C, generator=generator), torch.randn(3 * C, generator=generator)
        answer = needs_answer(attempt(weight.clone(), bias.clone(), nh))
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise NotYet(f"Return two tensors, w and b; you returned {describe(answer)}.")
        w, b = as_floats(answer[0]), as_floats(answer[1])
        right_w, right_b = unfuse(weight, bias, nh)
        if tuple(w.shape) == (3, nh, hs, C) and hs != C:
            raise NotYet(f"w has the shape {tuple(w.shape)}, (3, nh, hs, C). nn.Linear keeps (out, in); for "
                         "x @ w[j, i] exchange the last two axes.")
        for name, given, right in (("w", w, right_w), ("b", b, right_b)):
            if given.shape != right.shape:
                raise NotYet(f"With C = {C} and nh = {nh}, {name} must have the shape {tuple(right.shape)}; yours has "
                             f"{tuple(given.shape)}.")
        mixed = weight.view(nh, 3, hs, C).permute(1, 0, 3, 2)
        order = [(f"The rows of the fused matrix are Q, then K, then V. {name} is in another place in yours.",
                  right_w[list(order)]) for name, order in (("K", (0, 2, 1)), ("Q", (1, 0, 2)), ("Q", (2, 1, 0)))]
        name_the_mistake(w, (
            ("All heads' Q come first, then all K, then all V: the axis of 3 comes before that of the heads.", mixed),
            ("You reshape where you should exchange two axes: the shape is right, the elements are in wrong places.",
             weight.reshape(3, nh, C, hs)),
            ("The columns are split among the heads. The rows are the outputs, so the heads share the rows.",
             torch.stack([part.T.reshape(nh, hs, C).transpose(1, 2) for part in weight.chunk(3)])),
            *order))
        if not same(w, right_w):
            raise NotYet(f"With C = {C} and nh = {nh}: w[0, 1] should be rows {hs} to {2 * hs - 1} of the fused "
                         "matrix, transposed.")
        name_the_mistake(b, (("w is right, but in b the axis of 3 must come before that of the heads, too.",
                              bias.view(nh, 3, hs).transpose(0, 1)),))
        if not same(b, right_b):
            raise NotYet(f"w is right. b[0, 1] should be the elements {hs} to {2 * hs - 1} of the fused bias.")
    return "With it GPT-2's weights fit into a design with separate heads."


# --- GPT-2 -----------------------------------------------------------------------------------------------------------


def _test_gpt2(attempt):
    """Eight stages, in helpers/course/capstone.py."""
    return capstone.praise(attempt)


# --- the exercises ---------------------------------------------------------------------------------------------------

shapes = Exercise(
    title="The shapes on the way",
    difficulty=1,
    minutes=5,
    hints=(
        "Letters: B sequences, T tokens, C = n_embd, nh = n_head, hs = C / nh. Follow the table of the specification.",
        "Q, K and V of all heads stand side by side in qkv, so its last axis has 3 C elements. q has four axes.",
        "scores has a number for each pair of tokens: (B, nh, T, T). A new token with a cache has one query and T + 1 "
        "keys.",
    ),
    test=_test_shapes,
    solution=shapes_on_the_way,
)
leaks = Exercise(
    title="A test for leaks",
    difficulty=2,
    minutes=10,
    hints=(
        "Compute the logits of some ids. Change one token, compute them again, and see which rows have changed.",
        "A row t has changed if any of its V logits has: (after - before).abs().amax(-1) > 1e-6. If t < s, that is a "
        "leak from token s.",
        "for s in range(T): changed = ids.clone(); changed[0, s] = (ids[0, s] + 1) % V; then collect (t, s) for the "
        "rows t in range(s) that differ.",
    ),
    test=_test_leaks,
    solution=find_leaks,
)
split = Exercise(
    title="A fused matrix taken apart",
    difficulty=2,
    minutes=10,
    hints=(
        "The rows of weight are outputs: C rows for Q, C for K, C for V. The first hs rows of each belong to head 0.",
        "view cuts an axis into several without moving an element: weight.view(3, nh, hs, C).",
        "Then exchange the last two axes, because x @ w wants (in, out). The bias needs only a view.",
    ),
    test=_test_unfuse,
    solution=unfuse,
)
gpt2 = capstone.Capstone(
    title="GPT-2 from a blank file",
    difficulty=3,
    minutes=90,
    hints=(
        "Begin with the smallest model that has the right shape: embeddings, a last LayerNorm and the scores, without "
        "blocks. Stage 2 passes already. Then add the block, then attention, and check after each of them.",
        "If you name your modules as the specification names the weights (transformer.wte, "
        "transformer.h.0.attn.c_attn, ...), load is one line: self.load_state_dict(weights). Otherwise copy tensor by "
        "tensor under torch.no_grad().",
        "For the cache let attention take the earlier keys and values and return the longer ones: "
        "k = torch.cat([past_k, k], dim=2). The positions of new tokens begin at the length of the cache, and so does "
        "the mask's diagonal: tril(all - new).",
    ),
    test=_test_gpt2,
    solution=GPT2,
    seconds=capstone.SECONDS,
)
