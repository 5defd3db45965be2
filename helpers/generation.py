"""From scores to text: the next token's distribution, and generation (notebooks 04 and 07)."""

import contextlib
import functools
from numbers import Real

import torch

from helpers.cache import KeyValueCache
from helpers.machine import decoding, kernels
from helpers.machine.inputs import check_ids
from helpers.machine.settings import is_whole


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution from which the next token is drawn: logits (..., V) -> probabilities (..., V).

    temperature divides the logits: below 1 likely tokens become likelier, above 1 unlikely ones do.
    top_k keeps the k most likely tokens. top_p (nucleus sampling, Holtzman et al. 2020) then keeps the smallest set of
    tokens whose probabilities sum to at least p. All others get the probability 0.
    Raises ValueError for a temperature of 0 or below, a top_k below 1 or a top_p outside (0, 1].
    """
    check_sampling(temperature, top_k, top_p)
    logits = (logits.float() - logits.amax(dim=-1, keepdim=True)) / temperature  # the largest is 0: nothing overflows
    if top_k is not None:
        best = logits.topk(min(top_k, logits.shape[-1])).indices
        logits = torch.full_like(logits, float("-inf")).scatter(-1, best, logits.gather(-1, best))
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:  # at 1, rounding would cut off the rarest tokens
        ordered, order = probabilities.sort(dim=-1, descending=True)
        needed = ordered.cumsum(dim=-1) - ordered < top_p  # the tokens before it do not sum to p yet
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * needed)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def check_sampling(temperature, top_k, top_p):
    """Raises ValueError unless these settings make a distribution."""
    if not (isinstance(temperature, Real) and 1e-30 <= temperature <= 1e30):  # what float32 can divide by
        raise ValueError(f"temperature={temperature!r}: expected a number above 0 (1e-30 to 1e30). "
                         "For the single most likely token use top_k=1.")
    if top_k is not None and not (is_whole(top_k) and top_k >= 1):
        raise ValueError(f"top_k={top_k!r}: expected a whole number of at least 1, or None for all tokens.")
    if top_p is not None and not (isinstance(top_p, Real) and 1e-30 <= top_p <= 1):
        raise ValueError(f"top_p={top_p!r}: expected a probability above 0 and up to 1, or None for all tokens.")


def generate(model, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None, use_cache=True,
             attention_mask=None):
    """Continues each sequence: ids (B, T) int64 -> (B, T + max_new_tokens), on the same device.

    top_k=1 is greedy decoding. generator: a torch.Generator for repeatable text; one on the CPU also works on a GPU.
    Past the model's context the window slides: the model then sees the last n_positions tokens. All their
    positions change, so the window is computed again. use_cache=False reads everything again for every token.
    attention_mask: for prompts of unequal length, padded on the left: (B, T), 0 where ids is padding and 1 elsewhere.
    Without it padding is read as text.
    The model's train/eval state is restored at the end. Raises ValueError for impossible arguments.
    """
    check_sampling(temperature, top_k, top_p)
    check_generation(model, ids, max_new_tokens, generator)
    if attention_mask is not None:
        continue_prompts = functools.partial(generate, model, max_new_tokens=max_new_tokens, temperature=temperature,
                                             top_k=top_k, top_p=top_p, generator=generator, use_cache=use_cache)
        return continue_padded(continue_prompts, ids, max_new_tokens, attention_mask)
    context, prompt_length, total_length = model.config.n_positions, ids.shape[1], ids.shape[1] + max_new_tokens
    tokens = torch.cat([ids, ids.new_zeros(len(ids), max_new_tokens)], dim=1)  # (B, T + new), filled below
    cache, read_so_far = KeyValueCache(model.config, min(context, total_length)), 0
    step = functools.partial(model, cache=cache, last_only=True)  # new ids (B, T) -> logits (B, 1, V)
    with evaluation_mode(model), torch.inference_mode(), kernels.fast_decoding(model):
        for length in range(prompt_length, total_length):
            if use_cache and length <= context:
                logits, read_so_far = step(tokens[:, read_so_far:length]), length
                if length == prompt_length:  # from the next token on
                    step = decoding.fastest_step(step, model, cache, tokens[:, :1], max_new_tokens)
            else:
                logits = model(tokens[:, max(0, length - context) : length], last_only=True)
            if top_k == 1:
                tokens[:, length] = logits[:, -1].argmax(dim=-1)  # (B, V) -> (B,)
                continue
            probabilities = next_token_probabilities(logits[:, -1], temperature, top_k, top_p)  # (B, V)
            probabilities = probabilities if generator is None else probabilities.to(generator.device)
            tokens[:, length] = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(ids.device)
    return tokens


def continue_padded(continue_prompts, ids, max_new_tokens, attention_mask):
    """Continues prompts that are padded on the left: those of equal length together, without their padding, which no
    prompt sees. With top_k=1 each text is what its prompt gives on its own; drawn texts share one generator.
    Raises ValueError for another kind of mask."""
    (B, T), mask = ids.shape, attention_mask
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape or not ((mask == 0) | (mask == 1)).all():
        given = f"{type(mask).__name__} of the shape {tuple(getattr(mask, 'shape', ()))}"
        raise ValueError(f"attention_mask is a {given}; expected a tensor of the shape {(B, T)}, 1 for a token and 0 "
                         "for padding.")
    lengths = mask.sum(dim=1).tolist()
    if 0 in lengths or any(not row[T - length :].all() for row, length in zip(mask, lengths)):
        raise ValueError("attention_mask: expected zeros for padding on the left, then ones for at least one token. "
                         "New tokens continue the right end, so pad on the left.")
    tokens = torch.cat([ids, ids.new_zeros(B, max_new_tokens)], dim=1)
    for length in sorted(set(lengths)):
        rows = [number for number, own in enumerate(lengths) if own == length]
        tokens[rows, T - length :] = continue_prompts(ids[rows, T - length :])
    return tokens


def check_generation(model, ids, max_new_tokens, generator):
    """Raises ValueError unless the model can continue these ids."""
    if not is_whole(max_new_tokens) or not 0 <= max_new_tokens <= 1_000_000:
        raise ValueError(f"max_new_tokens={max_new_tokens!r}: expected a whole number from 0 to 1,000,000.")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise ValueError(f"generator={generator!r}: expected torch.Generator().manual_seed(...) or None.")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        raise ValueError(f"ids={ids!r}: expected a tensor (B, T). A single sequence becomes a batch of one with "
                         "ids[None].")
    check_ids(ids[:, -model.config.n_positions :], "ids", model.config, device=model.lm_head.weight.device)


@contextlib.contextmanager
def evaluation_mode(model):
    """A context without dropout. At the end each module is in training or evaluation mode again, as it was before."""
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training


def sample_text(model, tokenizer, tokens, prompt="\n", seed=0, precision="auto", **sampling):
    """The prompt and the model's continuation of it, as text. sampling: temperature, top_k, top_p for generate(). A
    token that the tokenizer does not know, from a model with a larger vocabulary, becomes U+FFFD."""
    ids = tokenizer.encode(prompt)[None].to(model.lm_head.weight.device)  # (T,) -> (1, T)
    with kernels.autocast(ids.device, precision):
        ids = generate(model, ids, tokens, generator=torch.Generator().manual_seed(seed), **sampling)
    return tokenizer.decode(ids[0], unknown="\ufffd")
