"""Exercises of notebook 02: positions on the right device, stray tensors, your own attention, the whole model from its
parts, tied weights."""

import contextlib
import math
import types
from unittest import mock

import torch
import torch.nn as nn

from helpers import attention
from helpers.course.checking import Exercise, NotYet, as_floats, name_the_mistake, needs_answer, same
from helpers.course.devices import OneDevice, stray_tensors
from helpers.course.exercises.attention_mistakes import multi_head_mistakes, name_the_nan
from helpers.model import GPT, Block, CausalSelfAttention, GPTConfig

SMALL = GPTConfig(vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=3)


def disturbed(module):
    """The module with noise added to every parameter, so that no bias is 0 and no LayerNorm scales by 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


# --- positions -------------------------------------------------------------------------------------------------------


def positions_for(ids):
    """ids (B, T) -> the positions 0 to T - 1, (T,) int64, on the device of ids."""
    return torch.arange(ids.shape[1], device=ids.device)


def _test_positions(attempt):
    ids = torch.full((2, 5), 7)
    answer = needs_answer(attempt(ids.clone()))
    if not isinstance(answer, torch.Tensor):
        raise NotYet(f"Return the positions as a tensor, so that an embedding can look them up; yours are a "
                     f"{type(answer).__name__}.")
    if tuple(answer.shape) == (2,):
        raise NotYet("You counted the B sequences. T is the second entry of the ids' shape.")
    if tuple(answer.shape) != (5,):
        raise NotYet(f"For ids of shape (2, 5), expected positions of shape (5,); yours have {tuple(answer.shape)}.")
    if answer.is_floating_point():
        raise NotYet(f"Positions select rows of a matrix, so they are whole numbers; yours are {answer.dtype}.")
    if answer.tolist() == [1, 2, 3, 4, 5]:
        raise NotYet("The first position is 0, the first row of the matrix.")
    if answer.tolist() != [0, 1, 2, 3, 4]:
        raise NotYet(f"For five tokens, expected the positions 0, 1, 2, 3, 4; yours are {answer.tolist()}.")
    on_meta = attempt(ids.to("meta"))
    if on_meta.device.type != "meta":
        raise NotYet(f"With ids on the device meta, your positions are on {on_meta.device}. Use the device of ids.")
    return "The positions are created on the device of the ids, so the same line runs on every machine."


# --- stray tensors ---------------------------------------------------------------------------------------------------


class LeakyNorm(nn.Module):
    """Part of LeakyEmbedding."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = torch.zeros(width)  # a plain tensor


class LeakyEmbedding(nn.Module):
    """A module with mistakes, for the exercise: some of its tensors do not follow .to()."""

    def __init__(self, vocabulary, context, width):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.register_buffer("positions", torch.arange(context))
        self.scale = torch.ones(width)
        self.masks = [torch.ones(T, T).tril() for T in (4, 8)]
        self.norm = LeakyNorm(width)


def _test_strays(attempt):
    expected = {"scale", "masks", "norm.beta"}
    answer = needs_answer(attempt(LeakyEmbedding(20, 8, 6).to("meta"), "meta"))
    if isinstance(answer, (int, float)):
        raise NotYet("Return a list of names.")
    answer = {answer} if isinstance(answer, str) else {*answer}
    if any(not isinstance(name, str) for name in answer):
        raise NotYet('Return the names of the attributes, such as "part.table", not the tensors themselves.')
    if innocent := answer & {"wte.weight", "positions", "norm.gamma", "wte", "norm"}:
        plain = "" if answer & expected else " Look among the plain attributes."
        raise NotYet(f"{sorted(innocent)} followed .to(), as parameters, buffers and submodules do.{plain}")
    if "beta" in answer:
        raise NotYet('A name begins with the path to its submodule: "norm.beta", not "beta".')
    if strange := {name for name in answer if name not in expected}:
        raise NotYet(f"There is no stray attribute {sorted(strange)}. A name is the submodule's path, a dot and the "
                     "attribute. At the top level it is the attribute alone, and a list has a single name.")
    if missing := expected - answer:
        where = "in a submodule" if "norm.beta" in missing else "in a list" if "masks" in missing else "a plain tensor"
        nothing = "" if answer else " (parameters and buffers do follow the model; look among the plain attributes)"
        raise NotYet(f"Your answer lacks {len(missing)} of {len(expected)} stray attributes, one of them "
                     f"{where}{nothing}.")
    if wrongly_named := {*attempt(LeakyEmbedding(20, 8, 6), "cpu")}:
        raise NotYet(f"On the CPU, where it was created, this module has no stray tensor, but you return "
                     f"{sorted(wrongly_named)}. A torch.device never equals a string: compare tensor.device.type with "
                     "device.")
    return "To make them follow, register each with register_buffer(name, tensor), under a name of its own."


# --- your own attention ----------------------------------------------------------------------------------------------


def attention_forward(self, x):
    """x (B, T, C) -> (B, T, C), with self.c_attn, self.c_proj and self.n_head."""
    B, T, C = x.shape
    hs = C // self.n_head
    q, k, v = self.c_attn(x).chunk(3, dim=-1)  # three times (B, T, C)
    q, k, v = (part.view(B, T, self.n_head, hs).transpose(1, 2) for part in (q, k, v))  # (B, nh, T, hs)
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, nh, T, T)
    later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # True above the diagonal
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    merged = (weights @ v).transpose(1, 2).reshape(B, T, C)
    return self.c_proj(merged)


def forward_mistakes(module, x):
    """The results of the forward pass of attention with typical mistakes: [(message, (B, T, C))]."""
    weights = (module.c_attn.weight, module.c_attn.bias, module.c_proj.weight, module.c_proj.bias)
    mistakes = multi_head_mistakes(x, *weights, module.n_head)
    q, k, v = module.c_attn(x).chunk(3, dim=-1)  # three times (B, T, C)

    def one_head(factor):  # helpers.attention divides by sqrt(C)
        return module.c_proj(attention.attention(q * factor, k, v))

    def heads(*qkv):
        q, k, v = (attention.split_heads(part, module.n_head) for part in qkv)
        return module.c_proj(attention.merge_heads(attention.attention(q, k, v)))

    full_width = "That is one head of full width. Split Q, K and V into heads first."
    order = "The order is Q, K, V. You take the three parts of c_attn's result in a different order."
    return [
        *((message.replace("(notebook 02)", "(section 2)"), result) for message, result in mistakes),
        (full_width, one_head(math.sqrt(module.n_head))),  # divided by sqrt(hs)
        (full_width, one_head(math.sqrt(x.shape[-1]))),  # not divided
        (order, heads(q, v, k)),
        (order, heads(v, q, k)),
        (order, heads(v, k, q)),
    ]


def _gradients(result, module, x):
    """The gradients of c_attn's weight, c_proj's weight and x, by name; None where there is none."""
    sources = {"c_attn": module.c_attn.weight, "c_proj": module.c_proj.weight, "x": x}
    weighted = result * torch.linspace(-1, 1, result.numel()).view_as(result)  # a different factor for each output
    return dict(zip(sources, torch.autograd.grad(weighted.sum(), [*sources.values()], allow_unused=True)))


def _test_attention(attempt):
    module = disturbed(CausalSelfAttention(SMALL))
    x = torch.randn(2, 7, SMALL.n_embd, requires_grad=True)
    result = needs_answer(attempt(module, x.clone()))
    answer, right = as_floats(result), module(x).detach()
    if answer.shape != x.shape:
        raise NotYet(f"Expected the shape of x, {tuple(x.shape)}; your result has {tuple(answer.shape)}.")
    name_the_nan(answer)
    with torch.no_grad():
        name_the_mistake(answer, forward_mistakes(module, x))
    if not same(answer, right):
        raise NotYet(f"For x of shape {tuple(x.shape)} and {module.n_head} heads, the largest difference from the "
                     f"reference is {(answer - right).abs().max():.2g}. Print the shape after each step: "
                     "view(B, T, nh, hs) comes before transpose(1, 2); merging undoes both in reverse order.")
    if not result.requires_grad:
        raise NotYet("The values are right, but no gradient flows back. Use torch operations only, without detach.")
    gradients, right_gradients = _gradients(result, module, x), _gradients(module(x), module, x)
    for name, gradient in gradients.items():
        if gradient is None or not same(gradient, right_gradients[name]):
            raise NotYet(f"The values are right, but {name} gets no gradient, or not the same as the helper's: "
                         "something was detached on the way.")
    elsewhere = CausalSelfAttention(SMALL).to("meta"), torch.zeros(1, 3, SMALL.n_embd, device="meta")
    try:
        with OneDevice() as seen:
            attempt(*elsewhere)
    except Exception as error:
        raise NotYet(f"The values are right on the CPU. On a second device your code stops: {error} "
                     "Create the mask with device=x.device.") from None
    if "scaled_dot_product_attention" in seen.called:
        return ("In a project of your own, use that function. Now write what it does: scores, mask, softmax and the "
                "product with V.")
    return "It gives the helper's values and gradients, and runs on the device of x."


@contextlib.contextmanager
def own_attention(model, forward):
    """Inside the context every block of a model uses the learner's forward(self, x), if it passes the check.

    Yields a description of the forward that runs. Generation with a key/value cache keeps the helper's.
    """
    try:
        _test_attention(forward)
        own = True
    except Exception:  # whatever a learner's code may raise
        own = False
    layers = [block.attn for block in model.transformer.h] if own else []
    for layer in layers:
        helper = layer.forward

        def patched(self, x, cache=None, helper=helper):
            return forward(self, x) if cache is None else helper(x, cache)

        layer.forward = types.MethodType(patched, layer)
    try:
        yield "your own forward" if own else "the helper's forward (yours does not pass its check yet)"
    finally:
        for layer in layers:
            del layer.forward  # the class's forward is visible again


# --- the whole model from its parts ----------------------------------------------------------------------------------


def logits_from_parts(model, ids):
    """A GPT and ids (B, T) -> logits (B, T, V), from the model's embeddings, norms, attentions, MLPs and lm_head."""
    parts = model.transformer
    x = parts.wte(ids) + parts.wpe(torch.arange(ids.shape[1], device=ids.device))  # (B, T) -> (B, T, C)
    for block in parts.h:
        x_att = x + block.attn(block.ln_1(x))
        x = x_att + block.mlp(block.ln_2(x_att))
    return model.lm_head(parts.ln_f(x))  # (B, T, C) -> (B, T, V)


def pre_norm(block, x):
    """One block of GPT-2: x (B, T, C) -> (B, T, C)."""
    x_att = x + block.attn(block.ln_1(x))
    return x_att + block.mlp(block.ln_2(x_att))


def post_norm(block, x):
    """The block of Vaswani et al., 2017: normalised after each sum."""
    x = block.ln_1(x + block.attn(x))
    return block.ln_2(x + block.mlp(x))


def normed_stream(block, x):
    """The mistake of adding to the normalised vector instead of the vector itself."""
    x = block.ln_1(x)
    x = block.ln_2(x + block.attn(x))
    return x + block.mlp(x)


def no_first_sum(block, x):
    """The mistake of passing on the result of attention without adding x."""
    x_att = block.attn(block.ln_1(x))
    return x_att + block.mlp(block.ln_2(x_att))


def with_parts(block, x, ln_1, attn, ln_2, mlp):
    """A pre-norm block whose parts have changed places: each argument names the part to use in its place."""
    names = {"ln_1": ln_1, "attn": attn, "ln_2": ln_2, "mlp": mlp}
    return pre_norm(types.SimpleNamespace(**{place: getattr(block, name) for place, name in names.items()}), x)


def block_mistakes():
    """Blocks with one typical mistake each: {message: function of (block, x)}."""
    return {
        "That is a post-norm block. GPT-2 normalises the input of each part, and adds to x itself.": post_norm,
        "Your sums start from the normalised vector. Add to x itself: the residual stream is never normalised.":
            normed_stream,
        "The residual sums are missing: add the input of each part to its result.":
            lambda block, x: block.mlp(block.ln_2(block.attn(block.ln_1(x)))),
        "Your blocks have no LayerNorm: ln_1 comes before attention, ln_2 before the MLP.":
            lambda block, x: x + block.attn(x) + block.mlp(x + block.attn(x)),
        "Your MLP reads x. It reads x_att, to which attention has already added.":
            lambda block, x: x + block.attn(block.ln_1(x)) + block.mlp(block.ln_2(x)),
        "The second sum must start from x_att, not from x: otherwise attention's result is lost.":
            lambda block, x: x + block.mlp(block.ln_2(x + block.attn(block.ln_1(x)))),
        "Your blocks have no sum around the MLP: x_ff = x_att + ...":
            lambda block, x: block.mlp(block.ln_2(x + block.attn(block.ln_1(x)))),
        "Your blocks have no sum around attention: x_att = x + ...": no_first_sum,
        "Each norm comes before its own part: ln_1 before attention, ln_2 before the MLP.":
            lambda block, x: with_parts(block, x, "ln_2", "attn", "ln_1", "mlp"),
        "Attention comes first, then the MLP.":
            lambda block, x: with_parts(block, x, "ln_2", "mlp", "ln_1", "attn"),
        "Attention comes first, then the MLP. And ln_1 is attention's norm, ln_2 the MLP's.":
            lambda block, x: with_parts(block, x, "ln_1", "mlp", "ln_2", "attn"),
        "Your blocks have no MLP.": lambda block, x: x + block.attn(block.ln_1(x)),
        "Your blocks have no attention.": lambda block, x: x + block.mlp(block.ln_2(x)),
        "Your blocks use ln_1 twice. The MLP has its own norm, ln_2.":
            lambda block, x: with_parts(block, x, "ln_1", "attn", "ln_1", "mlp"),
    }


def model_mistakes(model, ids):
    """The logits of a model with typical mistakes: [(message, logits)]."""
    parts, head = model.transformer, model.lm_head
    tokens, start = parts.wte(ids), parts.wte(ids) + parts.wpe(torch.arange(ids.shape[1]))

    def through(x, blocks=parts.h, block=pre_norm):
        for part in blocks:
            x = block(part, x)
        return x

    x = through(start)
    logits = head(parts.ln_f(x))
    return [
        *((message, head(parts.ln_f(through(start, block=mistake)))) for message, mistake in block_mistakes().items()),
        ("The positions are missing: without wpe the model does not know the position of a token.",
         head(parts.ln_f(through(tokens)))),
        ("Each token needs its own position, 0, 1, 2, ...: yours all get position 0.",
         head(parts.ln_f(through(tokens + parts.wpe.weight[0])))),
        ("The last LayerNorm, ln_f, is missing. It comes between the blocks and the unembedding.", head(x)),
        ("You unembed the embeddings themselves: x never goes through the blocks.", head(parts.ln_f(start))),
        ("Only the first block is used. Each block takes the output of the one before it.",
         head(parts.ln_f(through(start, parts.h[:1])))),
        ("All your blocks take the embeddings, so only the last one counts. Each takes the output of the one before.",
         head(parts.ln_f(through(start, parts.h[-1:])))),
        ("Your blocks run from the last to the first.", head(parts.ln_f(through(start, list(parts.h)[::-1])))),
        ("Those are probabilities. The model returns logits, without a softmax.", logits.softmax(-1)),
        ("Those are logarithms of probabilities. The model returns the logits themselves.", logits.log_softmax(-1)),
        ("You divide the logits by sqrt(C). GPT-2 does not: that is a temperature (see the pitfall below).",
         logits / math.sqrt(SMALL.n_embd)),
    ]


def _test_parts(attempt):
    torch.manual_seed(0)
    model, ids = disturbed(GPT(SMALL)), torch.randint(SMALL.vocab_size, (2, 7))
    answer, right = as_floats(attempt(model, ids.clone())), model(ids).detach()
    if answer.shape == (*ids.shape, SMALL.n_embd):
        raise NotYet(f"{tuple(answer.shape)} is (B, T, C), the shape of vectors. The unembedding gives scores.")
    if answer.shape != right.shape:
        raise NotYet(f"Expected logits of shape (B, T, V) = {tuple(right.shape)}; yours have {tuple(answer.shape)}.")
    with torch.no_grad():
        name_the_mistake(answer, model_mistakes(model, ids))
    if not same(answer, right):
        raise NotYet(f"For ids of shape {tuple(ids.shape)} and {SMALL.n_layer} blocks, the largest difference from "
                     f"model(ids) is {(answer - right).abs().max():.2g}. Compare one stage at a time with the cell "
                     "above, and one block with block(x).")
    untied = disturbed(GPT(GPTConfig(**{**vars(SMALL), "tie_word_embeddings": False})))
    if not same(as_floats(attempt(untied, ids.clone())), untied(ids)):
        raise NotYet("Right, but only for tied weights. Another model may be untied: unembed with its lm_head.")
    elsewhere = tie(GPT(SMALL).to("meta")), ids.to("meta")
    try:
        with OneDevice():
            attempt(*elsewhere)
    except Exception as error:
        raise NotYet(f"The values are right on the CPU. On a second device your code stops: {error} "
                     "Which tensor do you create yourself? Exercise 1 has the remedy.") from None
    with mock.patch.object(Block, "forward", lambda block, x, cache=None: x):  # a closed block then does nothing
        opened = same(as_floats(attempt(model, ids.clone())), right)
    if not opened:
        raise NotYet("The values are right, but you have not opened the blocks. Call block.attn and block.mlp.")
    return "This is GPT-2's complete forward pass, for any number of blocks and on any device."


# --- tied weights ----------------------------------------------------------------------------------------------------


def tie(model):
    """Makes the unembedding of a GPT the same Parameter as its token embedding, and returns the model."""
    model.lm_head.weight = model.transformer.wte.weight
    return model


def _test_tie(attempt):
    torch.manual_seed(0)
    given = GPT(GPTConfig(**{**vars(SMALL), "tie_word_embeddings": False}))
    count, values = sum(p.numel() for p in given.parameters()), given.transformer.wte.weight.detach().clone()
    model = attempt(given)
    if model is None and given.lm_head.weight is given.transformer.wte.weight:
        raise NotYet("The weights are tied. Now return the model, so that the check can see it.")
    model = needs_answer(model)
    if not isinstance(model.lm_head, nn.Linear):
        raise NotYet("You replaced the module. lm_head must stay a Linear layer; only its weight changes.")
    embedding, head = model.transformer.wte.weight, model.lm_head.weight
    if embedding is not head:
        if embedding.data_ptr() == head.data_ptr():
            raise NotYet("The two weights share their memory, but they are two Parameters, each with its own gradient. "
                         "Assign the Parameter itself.")
        if not torch.equal(embedding, head):
            raise NotYet("The two weights do not even have the same values.")
        raise NotYet("This is a copy, equal only until the first step. Assign the Parameter itself.")
    if sum(p.numel() for p in model.parameters()) != count - embedding.numel():
        raise NotYet(f"Expected {embedding.numel()} parameters fewer than before: one matrix of vocabulary x width.")
    if not torch.equal(embedding, values):
        raise NotYet("The weights are tied, but the token embedding's values are lost. Replace the unembedding by the "
                     "embedding, not the other way round.")
    model(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)).backward()
    if embedding.grad is None:
        raise NotYet("The shared matrix gets no gradient. It must stay a trainable Parameter.")
    return f"One Parameter under two names: {embedding.numel():,} parameters fewer in this small model."


positions = Exercise(
    "Positions on the right device", 1, 3,
    (
        "torch.arange counts from 0. T is in the shape of ids, and ids.device is their device.",
        "torch.arange(a number, device=a device). The number is ids.shape[1].",
    ),
    _test_positions, positions_for,
)
strays = Exercise(
    "Find the stray tensors", 2, 10,
    (
        "named_parameters() and named_buffers() do not list what you are looking for. A plain attribute is in "
        "vars(part), the dictionary of a module's attributes.",
        "Loop over module.named_modules(), which gives paths and parts; the module itself comes first, with the path "
        "''. For each part, loop over vars(part).items().",
        "An attribute can be a tensor or a list of tensors: make a list of one element in the first case. Compare "
        "tensor.device.type with device, and join path and attribute with a dot unless the path is empty.",
    ),
    _test_strays, stray_tensors,
)
attend = Exercise(
    "Your own CausalSelfAttention.forward", 3, 20,
    (
        "Section 2 has every step, with raw tensors. self.c_attn(x) replaces x @ W + b, and self.c_proj replaces "
        "the product with W0.",
        "Chunk self.c_attn(x) in three; give each head its part with view(B, T, nh, hs) and transpose(1, 2); divide "
        "the scores by sqrt(hs); mask them, with a mask on x.device; softmax over the last dimension; multiply by v.",
        "Merge with transpose(1, 2).reshape(B, T, C), then self.c_proj. The mask is torch.ones(T, T, dtype=torch.bool, "
        "device=x.device).triu(1), for masked_fill with float('-inf').",
    ),
    _test_attention, attention_forward,
)
parts = Exercise(
    "The whole model from its parts", 2, 10,
    (
        "Three stages. The first and the last are as in the cell above, with the modules wte, wpe, ln_f and lm_head. "
        "The middle is a loop over model.transformer.h that contains section 2's two sums.",
        "Modules are called like functions: block.ln_1(x), block.attn(...), block.ln_2(...), block.mlp(...). "
        "Exercise 1 made the positions.",
        "In the loop: x_att is x plus attn of ln_1 of x. The new x is x_att plus mlp of ln_2 of x_att. After the loop: "
        "lm_head of ln_f of x.",
    ),
    _test_parts, logits_from_parts,
)
tied = Exercise(
    "Tie the weights", 1, 3,
    (
        "A module's weight is an attribute, and a Parameter is an object. Two attributes can hold the same object.",
        "One assignment from model.transformer.wte.weight is enough: no copy, no wrapper. Then return the model.",
    ),
    _test_tie, tie,
)
