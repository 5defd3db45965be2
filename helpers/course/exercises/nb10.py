"""Exercises of notebook 10: where to copy from, an induction score for any text, a run without one head, the restored
share of a patch."""

import contextlib
import math

import numpy as np
import torch

from helpers import circuits
from helpers.course.checking import Exercise, NotYet, as_floats, describe, name_the_mistake, needs_answer, same
from helpers.model import GPT, GPTConfig

# --- material of the checks ------------------------------------------------------------------------------------------


def small_model(shape, seed, scale=0.4, vocab_size=13):
    """A GPT with large random weights, so that every head matters. shape: (n_layer, n_head, n_embd); scale: std."""
    layers, heads, width = shape
    model = GPT(GPTConfig(vocab_size=vocab_size, n_positions=8, n_embd=width, n_layer=layers, n_head=heads)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return model


@contextlib.contextmanager
def one_thread():
    """Inside `with`, torch uses one thread: for models as small as these, more of them only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _remove_hooks(model):
    """Removes all hooks of a model, and returns whether there were any."""
    kinds = [hooks for module in model.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks)]
    had_any = any(kinds)
    for hooks in kinds:
        hooks.clear()
    return had_any


# --- where to copy from ----------------------------------------------------------------------------------------------


def copy_sources(ids):
    """Token ids, a list -> for each position the one after the last earlier occurrence of its token, or None."""
    last_seen, sources = {}, []
    for t, token in enumerate(ids):
        sources.append(last_seen[token] + 1 if token in last_seen else None)
        last_seen[token] = t
    return sources


def _as_sources(answer, ids):
    """A learner's answer as a list with a whole number or None for each of the ids."""
    needs_answer(answer)
    if not isinstance(answer, (list, tuple, torch.Tensor, np.ndarray)) or len(answer) != len(ids):
        raise NotYet(f"Expected a list with one entry for each of the {len(ids)} tokens. You returned "
                     f"{describe(answer)}.")
    answer = [entry.item() if isinstance(entry, (torch.Tensor, np.generic)) and math.prod(entry.shape) == 1 else entry
              for entry in answer]
    for t, entry in enumerate(answer):
        if entry is not None and not isinstance(entry, (int, float)):
            raise NotYet(f"Expected a list of positions, with None where the token is new; your entry {t} is "
                         f"{describe(entry)}.")
    return answer


def _test_sources(attempt):
    """Compares the sources in a repetition, a text in which a token occurs three times, two in which tokens stand
    twice in a row, and one without any repetition."""
    for ids in ([7, 3, 9, 4, 7, 3, 9], [5, 8, 2, 5, 1, 2, 5, 6], [4, 4, 6, 4, 6], [0, 11, 0, 0], [3, 1, 2]):
        answer, right = _as_sources(attempt(list(ids)), ids), copy_sources(ids)
        if answer == right:
            continue
        first = [ids.index(token) + 1 if token in ids[:t] else None for t, token in enumerate(ids)]
        mistakes = {
            "That is where the token itself stood. The head should look one position further, at what followed it.":
                [s if s is None else s - 1 for s in right],
            "You take the first earlier occurrence. Take the last one.": first,
            "Each token finds itself. Only earlier positions count: look before you store the position.":
                [t + 1 for t in range(len(ids))],
            "Expected None where the token is new; 0 is a position.": [s or 0 for s in right],
        }
        for message, wrong in mistakes.items():
            if answer == wrong:
                raise NotYet(message)
        t = next(t for t in range(len(ids)) if answer[t] != right[t])
        raise NotYet(f"In {ids}, the token at position {t} is {ids[t]}. Expected {right[t]}, but yours is {answer[t]}.")
    return "These are the positions at which an induction head should look."


# --- an induction score for any text ---------------------------------------------------------------------------------


def score_on_text(maps, ids):
    """maps (nh, T, T), ids (T,) -> (nh,): the mean attention to what followed the last earlier occurrence."""
    pairs = [(t, s) for t, s in enumerate(copy_sources(ids.tolist())) if s is not None]
    return torch.stack([maps[:, t, s] for t, s in pairs]).mean(dim=0)


def _example(heads, ids, seed):
    """Random causal maps (nh, T, T) whose rows sum to 1, and the ids as a tensor."""
    scores = torch.randn(heads, len(ids), len(ids), generator=torch.Generator().manual_seed(seed))
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    return (2 * scores).masked_fill(future, -math.inf).softmax(-1), torch.tensor(ids)


def _test_score(attempt):
    """Compares the scores for several numbers of heads and texts."""
    for heads, ids, seed in ((3, [4, 1, 7, 2, 4, 1, 7], 0), (2, [5, 8, 2, 5, 1, 2, 5, 6, 8], 1),
                             (4, [4, 4, 6, 4, 6], 2)):
        maps, tokens = _example(heads, ids, seed)
        returned = attempt(maps.clone(), tokens.clone())
        answer = as_floats(returned)
        if tuple(answer.shape) != (heads,):
            raise NotYet(f"Expected one score for each of the {heads} heads, shape ({heads},). You returned "
                         f"{describe(returned)}.")
        right, T = score_on_text(maps, tokens), len(ids)
        if same(answer, right):
            continue
        pairs = [(t, s) for t, s in enumerate(copy_sources(ids)) if s is not None]

        def mean(cells, maps=maps):
            return torch.stack([maps[:, t, s] for t, s in cells]).mean(0)

        name_the_mistake(answer, (
            ("You look at the earlier occurrence itself. The head should look one position further.",
             mean([(t, s - 1) for t, s in pairs])),
            ("Row and column are exchanged: row t shows where position t looks. Use maps[:, t, s].",
             mean([(s, t) for t, s in pairs])),
            (f"You divide by all {T} positions. Only those whose token has occurred before belong to the mean.",
             right * len(pairs) / T),
            ("That is the sum over the positions. Take the mean.", right * len(pairs)),
            ("You use the first earlier occurrence of a token. Use the last.",
             mean([(t, ids.index(ids[t]) + 1) for t, _ in pairs])),
        ))
        expected, given = ([round(x, 4) for x in values.tolist()] for values in (right, answer))
        raise NotYet(f"For {heads} heads and the ids {ids} the scores should be {expected}; yours are {given}.")
    return "Tried with 2 to 4 heads, and with texts in which the distance to the last occurrence varies."


# --- a run without one head ------------------------------------------------------------------------------------------


def run_without_head(model, ids, layer, head):
    """The logits (B, T, V) of a run in which one head's z is 0. No hook is left behind, even after an error."""
    hs = model.config.n_embd // model.config.n_head

    def without(module, inputs):
        z = inputs[0].clone()  # (B, T, C), the heads side by side
        z[..., head * hs : (head + 1) * hs] = 0
        return (z,)

    hook = model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(without)
    try:
        return model(ids)
    finally:
        hook.remove()


def _without(model, ids, heads):
    """The logits of a run in which these heads' z are 0."""
    with circuits.ablated(model, heads, "zero"):
        return model(ids)


ABLATION_CASES = (  # shape, vocab_size, (B, T), layer, head
    ((2, 3, 12), 13, (2, 6), 1, 0), ((3, 2, 10), 11, (3, 5), 0, 1), ((4, 5, 15), 17, (1, 7), 2, 3),
)


@one_thread()
@torch.no_grad()
def _test_ablate(attempt):
    """Compares logits for three shapes, and looks for hooks after a run and after a run that fails."""
    for seed, (shape, vocab_size, size, layer, head) in enumerate(ABLATION_CASES):
        model = small_model(shape, seed, vocab_size=vocab_size)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        ids = torch.randint(vocab_size, size, generator=torch.Generator().manual_seed(seed))
        complete = model(ids)
        returned = needs_answer(attempt(model, ids.clone(), layer, head))
        if _remove_hooks(model):
            raise NotYet("The logits may be right, but a hook is still registered: every later run would lack this "
                         "head, too. Keep what register_forward_pre_hook returns, and call its remove().")
        _check_unchanged(model, before, ids, complete)
        answer, right = as_floats(returned), _without(model, ids, [(layer, head)])
        if answer.shape != right.shape:
            raise NotYet(f"Expected the logits, with the shape {tuple(right.shape)}. You returned "
                         f"{describe(returned)}.")
        _explain_ablation(answer, right, model, ids, layer, head)
    return _test_failing_run(attempt, model, before, ids, complete)


def _explain_ablation(answer, right, model, ids, layer, head):
    """Raises NotYet unless the answer is right."""
    if same(answer, right):
        return
    heads, layers = model.config.n_head, model.config.n_layer
    name_the_mistake(answer, (
        ("These are the logits of the complete model. Does your hook return the changed input?", model(ids)),
        (f"You remove all {heads} heads of the layer. One head owns hs = C / nh neighbouring elements of z.",
         _without(model, ids, [(layer, i) for i in range(heads)])),
        ("You remove the right head in another layer. Blocks are counted from 0.",
         _without(model, ids, [((layer + 1) % layers, head)])),
        ("You remove another head of the layer. Head h owns the elements from h * hs to (h + 1) * hs - 1.",
         _without(model, ids, [(layer, (head + 1) % heads)])),
    ))
    raise NotYet(f"The logits differ from those of a run without head {head} of layer {layer}. Hook c_proj of that "
                 "block's attention: its input z holds the heads side by side, hs elements for each.")


def _check_unchanged(model, before, ids, complete):
    """Raises NotYet unless the model still has its weights, and computes what it computed before."""
    if any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items()):
        raise NotYet("Your function changes the model's weights, and they stay changed. Change an activation in a hook "
                     "instead.")
    if not same(model(ids), complete):
        raise NotYet("After your function, a plain model(ids) gives other logits than before: something in the model "
                     "is still replaced. Use a hook, and remove it.")


def _test_failing_run(attempt, model, before, ids, complete):
    """A run on ids that are too long must fail, and leave the model as it was."""
    try:
        attempt(model, torch.zeros(1, 9, dtype=torch.int64), 0, 0)
    except Exception:  # whatever it is, only the hook matters
        if _remove_hooks(model):
            raise NotYet("The check also makes a run fail, with ids that are too long. Your hook is still registered "
                         "afterwards. Call remove() in a finally block, which also runs after an error.") from None
        _check_unchanged(model, before, ids, complete)
        return "No hook is left behind, even after a run that fails."
    _remove_hooks(model)
    raise NotYet("The check also gives ids that are too long for the model. The model's error should reach the caller: "
                 "use try and finally, without except.")


# --- the restored share of a patch -----------------------------------------------------------------------------------


def patch_share(model, clean, corrupted, answer, other, layer, position):
    """The share of the logit difference that one vector of the clean residual stream restores, a number."""
    kept = {}

    def keep(module, inputs):
        kept["clean"] = inputs[0].clone()  # (B, T, C), what enters the block

    def patch(module, inputs):
        x = inputs[0].clone()
        x[:, position] = kept["clean"][:, position]
        return (x, *inputs[1:])

    def difference(ids, change=None):
        hook = model.transformer.h[layer].register_forward_pre_hook(change) if change else None
        try:
            last = model(ids)[:, -1]  # (B, V)
        finally:
            if hook:
                hook.remove()
        return (last.gather(1, answer[:, None]) - last.gather(1, other[:, None])).mean().item()

    highest, lowest = difference(clean, keep), difference(corrupted)
    return (difference(corrupted, patch) - lowest) / (highest - lowest)


SHARE_CASES = (  # shape, vocab_size, (B, T), layer, position, seed with which the share lies inside 0 to 1
    ((3, 2, 8), 13, (3, 6), 2, 3, 13), ((2, 3, 12), 11, (2, 7), 1, 5, 51), ((4, 4, 20), 17, (4, 5), 3, 4, 4),
)


def _share_arguments(shape, vocab_size, size, layer, position, seed):
    """The arguments of an attempt: a model, two texts that differ at one position, two tokens, and a place."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(vocab_size, size, generator=generator)
    corrupted = clean.clone()
    changed = clean[:, 2] + 1 + torch.randint(vocab_size - 2, size[:1], generator=generator)
    corrupted[:, 2] = changed % vocab_size
    answer, other = (torch.randint(vocab_size, size[:1], generator=generator) for _ in range(2))
    other = torch.where(other == answer, (other + 1) % vocab_size, other)
    return (small_model(shape, seed, 1.0, vocab_size), clean, corrupted, answer, other, layer, position)


@one_thread()
@torch.no_grad()
def _test_share(attempt):
    """Compares the share for three shapes, layers and positions."""
    for case in SHARE_CASES:
        model, *arguments = _share_arguments(*case)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        complete = model(arguments[0])
        returned = attempt(model, *(value.clone() if isinstance(value, torch.Tensor) else value for value in arguments))
        value = as_floats(returned)
        if _remove_hooks(model):
            raise NotYet("A hook is still registered on the model. Remove each hook, in a finally block.")
        _check_unchanged(model, before, arguments[0], complete)
        if value.numel() != 1:
            raise NotYet(f"Expected one number, the mean over the batch. You returned {describe(returned)}.")
        _explain_share(value.item(), max(1e-3, value.tolerance), model, *arguments)
    return "This share is one cell of the figure: what one vector of the clean run, at one position, brings back."


def _mean_of_shares(model, clean, corrupted, answer, other, place):
    """The mean over the batch of the share that each pair of texts restores."""
    rows = torch.arange(len(clean))

    def difference(logits):
        return logits[rows, -1, answer] - logits[rows, -1, other]  # (B,)

    source = circuits.record(model, clean)
    high, low = difference(source.logits), difference(model(corrupted))
    with circuits.patched(model, source, residual=place):
        return ((difference(model(corrupted)) - low) / (high - low)).mean().item()


def _explain_share(value, tolerance, model, clean, corrupted, answer, other, layer, position):
    """Raises NotYet unless the value is the right share, within a relative tolerance."""

    def difference(ids, source=None, places=()):
        if source is None:
            return circuits.logit_difference(model(ids), answer, other)
        with circuits.patched(model, circuits.record(model, source), residual=places):
            return circuits.logit_difference(model(ids), answer, other)

    place, T = [(layer, position)], clean.shape[1]
    high, low, patched = difference(clean), difference(corrupted), difference(corrupted, clean, place)
    right = (patched - low) / (high - low)
    if math.isclose(value, right, rel_tol=tolerance, abs_tol=1e-4):
        return
    reverse = difference(clean, corrupted, place)
    mistakes = {
        "That is the patched logit difference itself. Subtract the corrupted one, and divide by clean minus corrupted.":
            patched,
        "The difference to the corrupted run is right. Divide it by clean minus corrupted.": patched - low,
        "You divide by the clean logit difference. Divide by clean minus corrupted.": (patched - low) / high,
        "You patch the corrupted vector into the clean run. Patch the clean one into the corrupted run.":
            (reverse - low) / (high - low),
        "That is the share that the patch does not restore.": (high - patched) / (high - low),
        "You patch one block too early: h[layer] is the block, counted from 0, whose input is replaced.":
            (difference(corrupted, clean, [(layer - 1, position)]) - low) / (high - low),
        "You take the mean of each pair's share. Take the means of the logit differences first, then one share.":
            _mean_of_shares(model, clean, corrupted, answer, other, place),
        "You patch all positions, which always restores everything. Patch one.":
            (difference(corrupted, clean, [(layer, t) for t in range(T)]) - low) / (high - low),
    }
    for message, wrong in mistakes.items():
        if math.isclose(value, wrong, rel_tol=tolerance, abs_tol=1e-4):
            raise NotYet(message)
    raise NotYet(f"In layer {layer}, at position {position}, the logit differences are {high:.4f} (clean), {low:.4f} "
                 f"(corrupted) and {patched:.4f} (patched), so the share is {right:.4f}; yours is {value:.4f}.")


sources = Exercise(
    "Where to copy from", 1, 5,
    ("Go through the ids from left to right, and remember for each token where you last saw it.",
     "A dictionary last_seen[token] = t does that. Look up the token before you store its new position.",
     "sources.append(last_seen[token] + 1 if token in last_seen else None)"),
    _test_sources, copy_sources,
)
score = Exercise(
    "An induction score for any text", 2, 10,
    ("Exercise 1 gives the position s at which an induction head should look from position t; it takes a list, "
     "ids.tolist(). Where is that weight in the maps?",
     "Collect maps[:, t, s], of shape (nh,), for each t that has a source. Positions without a source do not count.",
     "torch.stack(list_of_weights) has the shape (positions, nh). Take the mean over dim=0."),
    _test_score, score_on_text,
)
ablate = Exercise(
    "A run without one head", 2, 10,
    ("The input of model.transformer.h[layer].attn.c_proj is z, (B, T, C): the heads side by side, hs = C / nh "
     "elements each.",
     "A forward pre-hook is a function of (module, inputs). It returns the new inputs as a tuple, (z,). Change a copy.",
     "hook = module.register_forward_pre_hook(function), then try: return model(ids), and finally: hook.remove()."),
    _test_ablate, run_without_head, by_hand=("circuits.ablated", "circuits.changed_inputs"),
)
share = Exercise(
    "The restored share of a patch", 3, 15,
    ("You need three logit differences: of the clean run, of the corrupted run, and of the corrupted run with one "
     "vector replaced.",
     "Use two pre-hooks on model.transformer.h[layer], one after the other. In the clean run, the first keeps a copy "
     "of inputs[0], (B, T, C), and returns nothing. In the corrupted run, the second returns an input with one "
     "position replaced: (x, *inputs[1:]).",
     "The logit difference of a run: last = model(ids)[:, -1], then (last.gather(1, answer[:, None]) - last.gather(1, "
     "other[:, None])).mean(). The share is (patched - corrupted) / (clean - corrupted)."),
    _test_share, patch_share,
    by_hand=("circuits.record", "circuits.patched", "circuits.restored_shares", "circuits.changed_inputs"),
)
