"""Exercises of notebook 02: GPT-2 part by part, tied weights, stray tensors, and attention with a cache.

Most attempts are classes. A check builds the learner's module, gives it the reference's parameters by GPT-2's names,
and compares results and gradients on two configurations that differ in every size.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers import model as model5
from helpers.course.checking import (
    Exercise,
    NotBegun,
    NotYet,
    as_floats,
    as_number,
    describe,
    name_the_mistake,
    needs_answer,
    same,
)
from helpers.course.devices import OneDevice, stray_tensors
from helpers.course.exercises import model_parts
from helpers.course.exercises.attention_mistakes import advice_on_errors, name_the_nan
from helpers.course.exercises.model_mistakes import (
    attention_part_mistakes,
    block_mistakes,
    cache_mistakes,
    embedding_mistakes,
    layer_norm_mistakes,
    loss_mistakes,
    mlp_mistakes,
    model_mistakes,
)
from helpers.course.judge import in_words
from helpers.model import GPTConfig

SMALL = GPTConfig(vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=3)
OTHER = GPTConfig(vocab_size=31, n_positions=11, n_embd=30, n_layer=2, n_head=5, layer_norm_epsilon=1e-2)
BATCHES = ((SMALL, 2, 7), (OTHER, 3, 11))  # the two cases of each check: configuration, B, T


def disturbed(module, seed=0):
    """The module with noise added to every parameter, so that no bias is 0 and no LayerNorm scales by 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


# --- a learner's class against the reference -------------------------------------------------------------------------


def built(attempt, *arguments, **options):
    """An object of the learner's class."""
    if isinstance(attempt, nn.Module):
        raise NotYet(f"Give the class itself to the check: {type(attempt).__name__}, without parentheses after it.")
    module = needs_answer(attempt(*arguments, **options))
    if not isinstance(module, nn.Module):
        raise NotYet(f"Expected a class that is a subclass of nn.Module; it made {describe(module)}.")
    return module


def named(module):
    """All parameters by name; a tied one has two names."""
    return dict(module.named_parameters(remove_duplicate=False))


def check_names(module, reference, what):
    """Raises NotYet unless a learner's module has the reference's parameters: the same names and shapes."""
    own, right = named(module), named(reference)
    missing, strange = [name for name in right if name not in own], [name for name in own if name not in right]
    if missing:
        name = missing[0]
        where, _, attribute = name.rpartition(".")
        holder = module.get_submodule(where) if where in dict(module.named_modules()) else None
        found = f"Its parameters are {_listed(own)}." if own else "It has no parameters yet."
        if isinstance(getattr(holder, attribute, None), torch.Tensor):
            found = "It is a plain tensor, which is not trained: wrap it in nn.Parameter(...)."
        elif any(isinstance(value, list) and any(isinstance(part, nn.Module) for part in value)
                 for part in module.modules() for value in vars(part).values()):
            found = "Modules in a plain list are not registered: use nn.ModuleList."
        raise NotYet(f"{what} has no parameter {name}, of shape {tuple(right[name].shape)}. {found}")
    if strange:
        raise NotYet(f"{what} has a parameter that GPT-2's does not have: {strange[0]}.")
    for name, parameter in right.items():
        if own[name].shape != parameter.shape:
            raise NotYet(f"{what}: {name} has the shape {tuple(own[name].shape)}, expected {tuple(parameter.shape)}. "
                         f"(This check uses {_sizes(reference)}.)")


def _listed(names, most=6):
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sizes(reference):
    width = next(p.shape[-1] for p in reference.parameters())
    return f"vectors of {width} elements"


def load(module, reference, what):
    """Gives a learner's module the values of the reference's parameters."""
    check_names(module, reference, what)
    own = named(module)
    with torch.no_grad():
        for name, parameter in named(reference).items():
            own[name].copy_(parameter)


def has_begun(module, *inputs):
    """Raises NotBegun for the notebook's stub: no parameters, and a forward that returns None."""
    if not named(module):
        try:
            nothing = module(*inputs) is None
        except Exception:  # a forward that needs parameters
            nothing = False
        if nothing:
            raise NotBegun(f"{type(module).__name__} is still empty. Write its __init__ and its forward, then run the "
                           "cell again.")


def result_of(module, *inputs):
    """What a learner's module returns, which must be a tensor."""
    result = module(*inputs)
    if result is None:
        raise NotYet("__init__ is right: the names and shapes are GPT-2's. Now write forward: it gives nothing back.")
    return result


def check_gradients(result, right, pairs):
    """Raises NotYet unless the learner's result sends the same gradients back. pairs: {name: (own tensor, the
    reference's)}."""
    if not isinstance(result, torch.Tensor) or not result.requires_grad:
        raise NotYet("The values are right, but no gradient flows back. Use torch operations only, without detach.")
    frozen = [name for name, (own, _) in pairs.items() if not own.requires_grad]
    if frozen:
        raise NotYet(f"{frozen[0]} is not trained: its requires_grad is False.")
    factors = torch.linspace(-1, 1, right.numel()).view_as(right)  # a different factor for each output
    owns, rights = zip(*pairs.values())
    try:
        own_gradients = torch.autograd.grad((result * factors).sum(), owns, allow_unused=True)
    except RuntimeError as error:
        if "inplace operation" in in_words(error, str):
            raise NotYet("The values are right, but you changed in place a tensor that the backward pass needs. Write "
                         "x = x + ... instead of x += ...") from None
        raise
    right_gradients = torch.autograd.grad((right * factors).sum(), rights)
    for name, own, expected in zip(pairs, own_gradients, right_gradients):
        scale = 1 + expected.abs().max()
        if own is None or not same(own.float() / scale, expected / scale):
            raise NotYet(f"The values are right, but {name} gets no gradient, or not the same as the reference's: "
                         "something was detached on the way.")


def reads_a_value(error):
    """Whether code only stopped because a tensor on meta has no values, as for print(x.sum().item())."""
    return "meta tensor" in in_words(error, str)


def check_device(attempt, arguments, inputs, advice):
    """Raises NotYet unless the learner's module, moved to the device meta, runs there with inputs on meta."""
    module = attempt(*arguments).to("meta")
    try:
        with OneDevice():
            result = module(*(each.detach().to("meta") for each in inputs))
    except Exception as error:
        if reads_a_value(error):
            return
        raise NotYet("The values are right on the CPU. On a second device your code stops: "
                     f"{in_words(error, str)} {advice}") from None
    if isinstance(result, torch.Tensor) and result.device.type != "meta":
        raise NotYet(f"With all inputs on the device meta, your result is on {result.device}. {advice}")


def compare_part(attempt, reference, arguments, x, what, mistakes):
    """Compares a learner's class with a reference module that has the same parameters: x (B, T, C) -> (B, T, C)."""
    module = built(attempt, *arguments)
    has_begun(module, x)
    load(module, reference, what)
    own_x, right_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    result, right = result_of(module, own_x), reference(right_x)
    answer = as_floats(result, x.shape)
    if not same(answer, right):
        name_the_nan(answer)
        with torch.no_grad():
            name_the_mistake(answer, mistakes(reference, x))
        if not same(as_floats(result_of(module, x.clone())), answer):
            raise NotYet("Two calls with the same x give different results. Leave dropout out.")
        raise NotYet(f"For x of shape {tuple(x.shape)}, the largest difference from the reference is "
                     f"{(answer - right).abs().max():.2g}. Print the shape after each step.")
    own = named(module)
    check_gradients(result, right, {"x": (own_x, right_x)}
                    | {name: (own[name], parameter) for name, parameter in reference.named_parameters()})


# --- LayerNorm -------------------------------------------------------------------------------------------------------


NORM_ERRORS = {
    "must match the size of tensor": "Without keepdim=True, mean and variance lose the last dimension and do not fit "
                                     "x: x.mean(-1, keepdim=True) has the shape (B, T, 1).",
}


def _test_layer_norm(attempt):
    for width, eps, B, T in ((24, 1e-5, 2, 7), (20, 1e-2, 3, 5)):
        arguments = (width,) if eps == 1e-5 else (width, eps)  # the default is checked, too
        reference = disturbed(nn.LayerNorm(width, eps=eps), seed=width)
        x = 3 * torch.randn(B, T, width) + 2
        x[0, 1] = math.sqrt(eps) * torch.randn(width)  # a token whose variance is as small as eps
        fresh = built(attempt, *arguments)
        has_begun(fresh, x)
        check_names(fresh, reference, "Your LayerNorm")
        with advice_on_errors(NORM_ERRORS):
            compare_part(attempt, reference, arguments, x, "Your LayerNorm", lambda module, x, eps=eps: (
                layer_norm_mistakes(x, module.weight, module.bias, eps)))
        if not (torch.all(fresh.weight == 1) and torch.all(fresh.bias == 0)):
            raise NotYet("The computation is right. At the start gamma (weight) is 1 and beta (bias) is 0, so that "
                         "they change nothing.")
    return "Values, gradients and start are PyTorch's, for two widths, two values of eps and a token of tiny variance."


layer_norm = Exercise(
    "LayerNorm by hand", 2, 10,
    (
        "Two parameters in __init__: self.weight (gamma), ones of shape (width,), and self.bias (beta), zeros, each "
        "inside nn.Parameter(...). Keep eps as self.eps.",
        "x.mean(-1, keepdim=True) has one number for each token. x.var(-1, keepdim=True, unbiased=False) divides by C.",
        "gamma * (x - mean) / torch.sqrt(variance + eps) + beta.",
    ),
    _test_layer_norm, model_parts.LayerNorm,
    by_hand=("layer_norm", "LayerNorm", "native_layer_norm", "group_norm", "rms_norm"),
)


# --- embeddings ------------------------------------------------------------------------------------------------------


def _test_embeddings(attempt):
    for config, B, T in BATCHES:
        torch.manual_seed(config.n_embd)
        wte, wpe = nn.Embedding(config.vocab_size, config.n_embd), nn.Embedding(config.n_positions, config.n_embd)
        ids = torch.randint(config.vocab_size, (B, T))
        right, before = wte(ids) + wpe(torch.arange(T)), [each.weight.detach().clone() for each in (wte, wpe)]
        result = needs_answer(attempt(wte, wpe, ids.clone()))
        if not (wte.weight.equal(before[0]) and wpe.weight.equal(before[1])):
            raise NotYet("Your function changes the embedding modules. Only look their rows up.")
        answer = as_floats(result)
        if answer.shape == (B, T, 2 * config.n_embd):
            raise NotYet("The two vectors are added, not placed side by side: the result has C elements per token.")
        answer = as_floats(result, right.shape)
        if not same(answer, right):
            with torch.no_grad():
                name_the_mistake(answer, embedding_mistakes(wte, wpe, ids))
            raise NotYet(f"For ids of shape {(B, T)} the largest difference is {(answer - right).abs().max():.2g}. Add "
                         "wte(ids), a vector for each token, and wpe(positions), a vector for each position.")
        check_gradients(result, right, {"wte": (wte.weight, wte.weight), "wpe": (wpe.weight, wpe.weight)})
    moved = wte.to("meta"), wpe.to("meta"), ids.to("meta")
    try:
        with OneDevice():
            elsewhere = attempt(*moved)
    except Exception as error:
        if not reads_a_value(error):
            raise NotYet("The values are right on the CPU. On a second device your code stops: "
                         f"{in_words(error, str)} Create the positions with device=ids.device.") from None
        elsewhere = moved[2]
    if elsewhere.device.type != "meta":
        raise NotYet(f"With everything on the device meta, your result is on {elsewhere.device}.")
    return "Each token's vector is the sum of two, and the positions are created on the device of the ids."


embeddings = Exercise(
    "Embeddings", 1, 5,
    (
        "wte(ids) gives a vector for each token, (B, T, C). The positions are 0, 1, ..., T - 1: T is ids.shape[1].",
        "torch.arange(T, device=ids.device) makes the positions where the ids are. wpe(positions) is (T, C); the sum "
        "broadcasts over the batch.",
    ),
    _test_embeddings, model_parts.embeddings, seconds=60.0,
)


# --- attention -------------------------------------------------------------------------------------------------------


def _test_attention(attempt):
    for config, B, T in BATCHES:
        reference = disturbed(model5.CausalSelfAttention(config))
        x = torch.randn(B, T, config.n_embd)
        compare_part(attempt, reference, (config,), x, "Your attention", attention_part_mistakes)
    check_device(attempt, (SMALL,), (torch.zeros(1, 3, SMALL.n_embd),), "Create the mask with device=x.device.")
    return "Values and gradients are the reference's, for two widths, numbers of heads and lengths, and on two devices."


attention = Exercise(
    "Causal self-attention", 2, 15,
    (
        "__init__: two linear layers, c_attn from C to 3C and c_proj from C to C. Keep config.n_head. forward: "
        "notebook 01's steps, with self.c_attn(x) in place of the product with W_QKV.",
        "Chunk self.c_attn(x) in three; give each head its part with view(B, T, nh, hs) and transpose(1, 2); divide "
        "the scores by sqrt(hs); mask them, with a mask on x.device; softmax over the last dimension; multiply by v.",
        "Merge with transpose(1, 2).reshape(B, T, C), then self.c_proj. The mask is torch.ones(T, T, dtype=torch.bool, "
        "device=x.device).triu(1), for masked_fill with float('-inf').",
    ),
    _test_attention, model_parts.Attention,
    by_hand=("scaled_dot_product_attention", "MultiheadAttention", "helpers.attention",
             "helpers.model.CausalSelfAttention"), seconds=60.0,  # torch takes seconds to prepare its first use of meta
)


# --- the MLP ---------------------------------------------------------------------------------------------------------


def _test_mlp(attempt):
    for config, B, T in BATCHES:
        reference = disturbed(model5.MLP(config))
        x = torch.randn(B, T, config.n_embd)
        compare_part(attempt, reference, (config,), x, "Your MLP", mlp_mistakes)
    return "Values and gradients are the reference's, for two widths."


mlp = Exercise(
    "The MLP", 1, 5,
    (
        "__init__: two linear layers, c_fc from C to 4C and c_proj from 4C to C. forward: the first, GELU, the second.",
        'The GELU is F.gelu(..., approximate="tanh").',
    ),
    _test_mlp, model_parts.MLP, by_hand=("helpers.model.MLP",),
)


# --- the block -------------------------------------------------------------------------------------------------------


def with_reference_parts(block, reference, what="Your block"):
    """Replaces a block's parts by the reference's own, so that only what the block does with them is judged."""
    for name in ("ln_1", "attn", "ln_2", "mlp"):
        part, right = getattr(block, name, None), getattr(reference, name)
        if not isinstance(part, nn.Module):
            found = _listed(dict(block.named_children())) or "none"
            raise NotYet(f"{what} needs a part {name}, which is a module. Its parts are: {found}.")
        if named(part):  # not an unsolved skeleton
            check_names(part, right, f"{what}'s {name}")
        if name.startswith("ln_"):
            check_eps(part, right, f"{what}'s {name}")
        setattr(block, name, right)
    return block


def check_eps(norm, right, what):
    """Raises NotYet if a learner's LayerNorm, whoever wrote its class, works with the default eps."""
    x = 0.03 * torch.randn(1, 4, *right.normalized_shape)
    if named(norm) and right.eps != 1e-5:
        load(norm, right, what)
        if same(as_floats(norm(x)), F.layer_norm(x, right.normalized_shape, right.weight, right.bias)):
            raise NotYet(f"{what} uses eps = 1e-5. Give it eps=config.layer_norm_epsilon.")


def _test_block(attempt):
    for config, B, T in BATCHES:
        reference = disturbed(model5.Block(config))
        x = torch.randn(B, T, config.n_embd)
        block = built(attempt, config)
        if not [*block.children()]:
            has_begun(block, x)
        with_reference_parts(block, reference)
        if block.ln_1 is block.ln_2:
            raise NotYet("A block has two norms, ln_1 and ln_2, each with its own parameters.")
        own_x, right_x = x.clone().requires_grad_(), x.clone().requires_grad_()
        result, right = result_of(block, own_x), reference(right_x)
        answer = as_floats(result, x.shape)
        if not same(answer, right):
            with torch.no_grad():
                name_the_mistake(answer, [(message, mistake(reference, x)) for message, mistake in
                                          block_mistakes().items()])
            raise NotYet(f"The largest difference from the reference is {(answer - right).abs().max():.2g}. There are "
                         "two sums: x_att = x + attn(ln_1(x)), and then x_att + mlp(ln_2(x_att)).")
        check_gradients(result, right, {"x": (own_x, right_x)} | {
            name: (parameter, parameter) for name, parameter in reference.named_parameters()})
    return "With the reference's parts inside, your block gives its values and gradients, for two widths."


block = Exercise(
    "The block", 2, 8,
    (
        "__init__ makes four parts with these names: ln_1, attn, ln_2, mlp. The two norms get config.n_embd and "
        "eps=config.layer_norm_epsilon, the other two get config.",
        "forward has two lines, one for each sum. What is normalised goes into a part; what is added to is not "
        "normalised.",
        "x_att = x + self.attn(self.ln_1(x)), then x_att + self.mlp(self.ln_2(x_att)).",
    ),
    _test_block, model_parts.Block, by_hand=("helpers.model.Block",),
)


# --- the whole model -------------------------------------------------------------------------------------------------

PARTS = {"wte": nn.Embedding, "wpe": nn.Embedding, "h": nn.ModuleList, "ln_f": nn.Module}


def _check_structure(model, config):
    """Raises NotYet unless a learner's model has the parts of GPT-2 under their names."""
    transformer = getattr(model, "transformer", None)
    if not isinstance(transformer, nn.Module):
        raise NotYet('Your model needs self.transformer, an nn.ModuleDict with "wte", "wpe", "h" and "ln_f".')
    parts = dict(transformer.named_children())
    for name, kind in PARTS.items():
        if not isinstance(parts.get(name), kind):
            given = "missing" if name not in parts else f"a {type(parts[name]).__name__}"
            raise NotYet(f"transformer.{name} is {given}; expected "
                         f"{'a LayerNorm' if kind is nn.Module else f'an nn.{kind.__name__}'}.")
    if not isinstance(getattr(model, "lm_head", None), nn.Linear):
        raise NotYet("Your model needs self.lm_head, a linear layer from C to V without bias.")
    if len(parts["h"]) != config.n_layer:
        raise NotYet(f"Your model has {len(parts['h'])} blocks; config.n_layer is {config.n_layer}.")
    if not named(parts["h"]):
        raise NotYet("Your blocks have no parameters: that is an unsolved MyBlock. Use Block(config), which is the "
                     "reference's until yours is right.")


def _check_tie(attempt, config):
    """Raises NotYet unless a model is tied exactly when the configuration says so."""
    for is_tied in (True, False):
        model = attempt(GPTConfig(**{**vars(config), "tie_word_embeddings": is_tied}))
        head, wte = model.lm_head.weight, model.transformer.wte.weight
        if is_tied and head is not wte:
            shares = " They share memory, but are two Parameters." if head.data_ptr() == wte.data_ptr() else ""
            raise NotYet("lm_head.weight is not the token embedding's Parameter. Assign the Parameter itself: "
                         f"self.lm_head.weight = self.transformer.wte.weight.{shares}")
        if not is_tied and head is wte:
            raise NotYet("You tie the weights always. Tie them only if config.tie_word_embeddings.")


def _check_start(attempt):
    """Raises NotYet unless the parameters of a fresh model come from GPT-2's distribution."""
    for config in (GPTConfig(vocab_size=150, n_positions=40, n_embd=48, n_layer=5, n_head=3),
                   GPTConfig(vocab_size=90, n_positions=64, n_embd=40, n_layer=2, n_head=5,
                             tie_word_embeddings=False)):
        torch.manual_seed(config.n_embd)
        groups = {}
        for name, parameter in attempt(config).named_parameters():
            kind = ".".join(name.split(".")[-2:])
            kind = "c_proj.weight" if name.endswith("c_proj.weight") else kind
            groups.setdefault(kind, []).append(parameter.detach().flatten())
        for kind, parts in groups.items():
            _check_group(kind, torch.cat(parts), config.n_layer)


def _check_group(kind, values, layers):
    """Raises NotYet unless the values of one kind of parameter are those of a fresh GPT-2."""
    if kind.startswith("ln_"):
        if not torch.all(values == (0 if kind.endswith("bias") else 1)):
            raise NotYet(f"{kind} has changed: the weights of a LayerNorm begin at 1 and its biases at 0. Initialise "
                         "only matrices (parameter.ndim == 2) and biases.")
        return
    if kind.endswith("bias"):
        if values.abs().max() > 0:
            raise NotYet(f"{kind} is not 0 at the start. All biases begin at 0 (nn.init.zeros_).")
        return
    std, right = values.std().item(), 0.02
    if kind == "c_proj.weight":
        right = 0.02 / math.sqrt(2 * layers)
        if abs(std / 0.02 - 1) < 0.1:
            raise NotYet("The matrices that write into the residual stream, every c_proj, begin smaller: their std is "
                         "0.02 / sqrt(2 * n_layer). Yours is 0.02.")
        if abs(std * math.sqrt(layers) / 0.02 - 1) < 0.1:
            raise NotYet("Each block adds twice to the residual stream: the std of c_proj is 0.02 / sqrt(2 * n_layer), "
                         "not 0.02 / sqrt(n_layer).")
    if abs(std / right - 1) > 0.1:
        kept = " (1 is the default of nn.Embedding. Draw it with nn.init.normal_.)" if abs(std - 1) < 0.1 else ""
        raise NotYet(f"With {layers} blocks, expected a std of {right:.4f} for {kind} at the start; yours is {std:.4f}."
                     f"{kept}")
    if abs(values.mean().item()) > 0.15 * right or (values.abs() > 2 * std).float().mean() < 0.02:
        raise NotYet(f"{kind} does not come from a normal distribution with mean 0 (nn.init.normal_).")


def _check_logits(result, reference, ids, right):
    answer = as_floats(result)
    if answer.shape == (*ids.shape, reference.config.n_embd):
        raise NotYet(f"{tuple(answer.shape)} is (B, T, C), the shape of vectors. The unembedding gives scores.")
    answer = as_floats(result, right.shape)
    if not same(answer, right):
        with torch.no_grad():
            name_the_mistake(answer, model_mistakes(reference, ids))
        raise NotYet(f"For ids of shape {tuple(ids.shape)} and {reference.config.n_layer} blocks, the largest "
                     f"difference of the logits is {(answer - right).abs().max():.2g}. Three stages: embeddings, "
                     "blocks one after the other, ln_f and lm_head.")


LOSS_ERRORS = {
    "Expected target size|multi-target not supported|match target batch_size|1D target must":
        "F.cross_entropy needs one row of logits for each target, (B * T, V) and (B * T,): use "
        "logits.flatten(0, 1) and targets.flatten().",
}


def _check_loss(model, reference, ids, targets):
    try:
        with advice_on_errors(LOSS_ERRORS):
            result = model(ids, targets)
    except TypeError as error:
        if "argument" not in in_words(error, str):
            raise
        raise NotYet("forward must also take targets: def forward(self, ids, targets=None).") from None
    if isinstance(result, (tuple, list)):
        raise NotYet(f"With targets, return the loss alone; you returned {describe(result)}.")
    answer, logits = as_floats(result), reference(ids).detach()
    if answer.shape == logits.shape:
        raise NotYet("With targets, return the loss: the mean cross-entropy, one number. You returned logits.")
    answer = as_floats(result, ())
    right = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    if not same(answer, right):
        name_the_mistake(answer, loss_mistakes(logits, targets))
        raise NotYet(f"For targets of shape {tuple(ids.shape)}, expected a loss of {right:.4f}; yours is {answer:.4f}.")
    check_gradients(result, F.cross_entropy(reference(ids).flatten(0, 1), targets.flatten()), _pairs(model, reference))


def _pairs(model, reference):
    """The parameters that are judged: embeddings and unembedding. The blocks are the reference's own."""
    names = ("transformer.wte", "transformer.wpe", "lm_head")
    return {name: (model.get_submodule(name).weight, reference.get_submodule(name).weight) for name in names}


def _test_gpt(attempt):
    for config, B, T in BATCHES:
        config = GPTConfig(**{**vars(config), "tie_word_embeddings": config is SMALL})
        reference, ids = disturbed(model5.GPT(config)), torch.randint(config.vocab_size, (B, T))
        model = built(attempt, config)
        if not [*model.children()]:
            has_begun(model, ids)
        _check_structure(model, config)
        check_names(model, reference, "Your model")
        if config.tie_word_embeddings:
            _check_tie(attempt, OTHER)
        load(model, reference, "Your model")
        check_eps(model.transformer.ln_f, reference.transformer.ln_f, "transformer.ln_f")
        model.transformer["h"], model.transformer["ln_f"] = reference.transformer.h, reference.transformer.ln_f
        result, right = result_of(model, ids.clone()), reference(ids)
        _check_logits(result, reference, ids, right)
        check_gradients(result, right, _pairs(model, reference))
        _check_loss(model, reference, ids, torch.randint(config.vocab_size, (B, T)))
    _check_start(attempt)
    shallow = GPTConfig(**{**vars(OTHER), "n_layer": 1})
    check_device(attempt, (shallow,), (ids, ids), "Create the positions with device=ids.device.")
    remark = "" if _agrees(attempt, model5.GPT) else (
        " (Checked with the reference's blocks: with the blocks inside, the logits differ. Use Block(config).)")
    return ("Structure, tying, start, logits, loss and gradients are the reference's, for two configurations and on "
            f"two devices.{remark}")


gpt = Exercise(
    "All of GPT", 3, 20,
    (
        'self.transformer = nn.ModuleDict({"wte": nn.Embedding(...), "wpe": nn.Embedding(...), '
        '"h": nn.ModuleList(...), "ln_f": Norm(...)}), and self.lm_head = nn.Linear(C, V, bias=False). Then tie. Last, '
        "initialise in a loop, for name, parameter in self.named_parameters(), with nn.init.normal_(parameter, "
        "std=...) and nn.init.zeros_(parameter).",
        "In this loop a name that ends with c_proj.weight gets the std 0.02 / sqrt(2 * n_layer), any other matrix "
        "(parameter.ndim == 2) 0.02, and a name that ends with bias zeros. The weights of LayerNorm stay 1.",
        "forward: the sum of wte(ids) and wpe(positions); for block in self.transformer.h: x = block(x); then ln_f and "
        "lm_head. With targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten()).",
    ),
    _test_gpt, model_parts.GPT, by_hand=("helpers.model.GPT",), seconds=60.0,
)


# --- the learner's class, or the reference's -------------------------------------------------------------------------

REFERENCES = {
    "Norm": (layer_norm, nn.LayerNorm),
    "Attention": (attention, model5.CausalSelfAttention),
    "MLP": (mlp, model5.MLP),
    "Block": (block, model5.Block),
    "Model": (gpt, model5.GPT),
}


def _agrees(attempt, reference):
    """Whether a learner's block or model, with its own parts inside, gives the reference's result."""
    right = disturbed(reference(SMALL))
    ids = torch.randint(SMALL.vocab_size, (2, 6))
    inputs = ids if reference is model5.GPT else torch.randn(2, 6, SMALL.n_embd)
    try:
        module = attempt(SMALL)
        load(module, right, "It")
        return same(as_floats(module(inputs)), right(inputs))
    except Exception:  # whatever a learner's code may raise
        return False


def own_or_reference(name, attempt):
    """The learner's class if it passes its check, otherwise the reference's class. Later cells work with the result.

    name: "Norm", "Attention", "MLP", "Block" or "Model".
    """
    exercise, reference = REFERENCES[name]
    is_right = exercise.judge(attempt).right
    if is_right and reference in (model5.Block, model5.GPT):
        is_right = _agrees(attempt, reference)
    return attempt if is_right else reference


# --- tied weights ----------------------------------------------------------------------------------------------------


def tie(model):
    """Makes the unembedding of a GPT the same Parameter as its token embedding, and returns the model."""
    return model_parts.tie_and_count(model)[0]


def _test_tie(attempt):
    for config, B, T in BATCHES:
        torch.manual_seed(config.n_embd)
        given = model5.GPT(GPTConfig(**{**vars(config), "tie_word_embeddings": False}))
        count, values = sum(p.numel() for p in given.parameters()), given.transformer.wte.weight.detach().clone()
        answer = attempt(given)
        if answer is None and given.lm_head.weight is given.transformer.wte.weight:
            raise NotYet("The weights are tied. Now return the model and the number, so that the check can see them.")
        needs_answer(answer)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not isinstance(answer[0], model5.GPT):
            given = "the model alone" if isinstance(answer, model5.GPT) else describe(answer)
            raise NotYet(f"Return two things: the model, and the number of parameters saved. You returned {given}.")
        model, saved = answer
        if not isinstance(model.lm_head, nn.Linear):
            raise NotYet("You replaced the module. lm_head must stay a Linear layer; only its weight changes.")
        _check_tied(model, count, values)
        model(torch.zeros(B, T, dtype=torch.int64), torch.ones(B, T, dtype=torch.int64)).backward()
        if model.transformer.wte.weight.grad is None:
            raise NotYet("The shared matrix gets no gradient. It must stay a trainable Parameter.")
        if as_number(saved, "the number of parameters saved as the second item") != values.numel():
            raise NotYet(f"The weights are tied. But {saved} parameters are not what it saves: count before and after, "
                         f"with {config.vocab_size} tokens and {config.n_embd} elements here.")
    return "One Parameter under two names, which saves one matrix of vocabulary x width, in two models."


def _check_tied(model, count, values):
    embedding, head = model.transformer.wte.weight, model.lm_head.weight
    if embedding is not head:
        if embedding.data_ptr() == head.data_ptr():
            raise NotYet("The two weights share their memory, but they are two Parameters, each with its own gradient. "
                         "Assign the Parameter itself.")
        if not torch.equal(embedding, head):
            raise NotYet("The two weights do not even have the same values.")
        raise NotYet("This is a copy, equal only until the first step. Assign the Parameter itself.")
    if embedding.shape != values.shape or not torch.equal(embedding, values):
        raise NotYet("The weights are tied, but the token embedding's values are lost. Replace the unembedding by the "
                     "embedding, not the other way round.")
    if sum(p.numel() for p in model.parameters()) != count - embedding.numel():
        raise NotYet(f"Expected {embedding.numel()} parameters fewer than before: one matrix of vocabulary x width.")


tied = Exercise(
    "Tie the weights", 1, 5,
    (
        "A module's weight is an attribute, and a Parameter is an object. Two attributes can hold the same object.",
        "One assignment from model.transformer.wte.weight is enough: no copy, no wrapper. sum(p.numel() for p in "
        "model.parameters()) counts the parameters, before and after.",
    ),
    _test_tie, model_parts.tie_and_count,
)


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


def another_leaky_module():
    """A module with other names and another depth: a block inside a list of modules has stray tensors of its own."""
    outer = nn.Module()
    outer.shift, outer.sizes, outer.label = torch.ones(3), [1, 2], "plain"
    outer.parts = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(LeakyNorm(5))])
    outer.parts[0].history = [torch.zeros(2)]
    return outer


def _stray_names(attempt, module, device):
    answer = needs_answer(attempt(module, device))
    if isinstance(answer, (int, float, dict, torch.Tensor)):
        raise NotYet(f"Return a list of names; you returned {describe(answer)}.")
    answer = [answer] if isinstance(answer, str) else [*answer]
    if any(not isinstance(name, str) for name in answer):
        raise NotYet('Return the names of the attributes, such as "part.table", not the tensors themselves.')
    return {*answer}


def _test_strays(attempt):
    expected = {"scale", "masks", "norm.beta"}
    answer = _stray_names(attempt, LeakyEmbedding(20, 8, 6).to("meta"), "meta")
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
    if wrongly_named := _stray_names(attempt, LeakyEmbedding(20, 8, 6), "cpu"):
        raise NotYet(f"On the CPU, where it was created, this module has no stray tensor, but you return "
                     f"{sorted(wrongly_named)}. A torch.device never equals a string: compare tensor.device.type with "
                     "device.")
    other, others = another_leaky_module(), {"shift", "parts.0.history", "parts.1.0.beta"}
    if (found := _stray_names(attempt, other.to("meta"), "meta")) != others:
        raise NotYet(f"Right for the module above. In another module, with submodules inside submodules, expected "
                     f"{sorted(others)}; yours are {sorted(found)}.")
    return "To make them follow, register each with register_buffer(name, tensor), under a name of its own."


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
    _test_strays, stray_tensors, by_hand=("helpers.course.devices.stray_tensors",),
)


# --- attention with a cache ------------------------------------------------------------------------------------------


def _full_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _read_cached(answer):
    """The result, the keys and the values that a learner's function returns."""
    needs_answer(answer)
    if not isinstance(answer, (tuple, list)) or len(answer) != 3:
        raise NotYet(f"Return three tensors: the result, all keys, all values. You returned {describe(answer)}.")
    return [as_floats(part) for part in answer]


JOIN_ERRORS = {
    "Sizes of tensors must match except|stack expects":
        "Join along the dimension of the tokens, the second to last one: torch.cat([keys, k], dim=-2).",
}


def _test_cache(attempt):
    for B, nh, T, hs, width in ((2, 3, 6, 8, 8), (1, 4, 5, 6, 10)):
        torch.manual_seed(T)
        q, k, v = 2 * torch.randn(B, nh, T, hs), torch.randn(B, nh, T, hs), torch.randn(B, nh, T, width)
        right = _full_attention(q, k, v)  # (B, nh, T, width)
        for t in (T - 2, *range(T)):  # first a cache of some tokens, where typical mistakes can be told apart
            token, keys, values = [part[:, :, t : t + 1] for part in (q, k, v)], k[:, :, :t], v[:, :, :t]
            with advice_on_errors(JOIN_ERRORS):
                answer = attempt(*(part.clone() for part in (*token, keys, values)))
            result, own_keys, own_values = _read_cached(answer)
            step = f"Token {t}, with {t} tokens in the cache: "
            for name, own, full in (("keys", own_keys, k), ("values", own_values, v)):
                _check_grown(step, name, own, full[:, :, : t + 1])
            if result.shape != token[2].shape:
                raise NotYet(f"{step}expected a result of shape {tuple(token[2].shape)}, one row for each head; yours "
                             f"has {tuple(result.shape)}.")
            if not same(result, right[:, :, t : t + 1]):
                name_the_mistake(result, cache_mistakes(*token, keys, values))
                raise NotYet(f"{step}the result is not row {t} of full attention: the largest difference is "
                             f"{(result - right[:, :, t : t + 1]).abs().max():.2g}.")
    return "Token by token it gives the rows of full causal attention, for two shapes, from an empty cache on."


def _check_grown(step, name, own, right):
    if own.shape != right.shape:
        hint = "The new token's belongs to it, too." if own.shape[-2:] == (right.shape[-2] - 1, right.shape[-1]) else (
            "Join along the dimension of the tokens, the second to last one.")
        raise NotYet(f"{step}expected {name} of shape {tuple(right.shape)}; yours have {tuple(own.shape)}. {hint}")
    if not same(own, right):
        raise NotYet(f"{step}the {name} have the right shape but not the right values or order: first those of the "
                     "cache, unchanged, then the new token's.")


cache = Exercise(
    "Attention with a cache", 2, 12,
    (
        "First append: torch.cat([keys, k], dim=-2), and the same for the values. Then it is attention as always, with "
        "a single query.",
        "The scores are q times all keys, transposed, divided by sqrt(hs): shape (B, nh, 1, t + 1). No mask is needed: "
        "no key lies in the future. Return the result, the keys and the values.",
    ),
    _test_cache, model_parts.attend_with_cache, by_hand=("scaled_dot_product_attention", "helpers.attention"),
)
