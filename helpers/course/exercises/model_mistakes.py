"""What the parts of GPT-2 return after typical mistakes, and a message for each (for the checks of notebook 02)."""

import math
import types

import torch
import torch.nn.functional as F

from helpers import attention
from helpers.course.exercises.attention_mistakes import multi_head_mistakes

# --- LayerNorm -------------------------------------------------------------------------------------------------------


def layer_norm_mistakes(x, gamma, beta, eps):
    """The results of LayerNorm with typical mistakes: x (B, T, C) -> [(message, result)]."""
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    centred, bessel = x - mean, x.var(-1, keepdim=True, unbiased=True)
    normed = centred / torch.sqrt(variance + eps)
    over = "Mean and variance belong to one token: take them over the last dimension alone, with keepdim=True."
    return [
        ("Your variance is divided by C - 1 (Bessel's correction, the default of var and std). GPT-2 divides by C: "
         "unbiased=False.", gamma * centred / torch.sqrt(bessel + eps) + beta),
        ("Your standard deviation is divided by C - 1, and eps is added outside of the root.",
         gamma * centred / (bessel.sqrt() + eps) + beta),
        ("eps belongs under the root, beside the variance: sqrt(variance + eps).",
         gamma * centred / (variance.sqrt() + eps) + beta),
        ("eps is missing. It keeps a token whose elements are all alike from being divided by 0.",
         gamma * centred / variance.sqrt() + beta),
        ("Your LayerNorm ignores the eps that it is given and uses 1e-5.",
         gamma * centred / torch.sqrt(variance + 1e-5) + beta),
        ("You divide by the variance. Divide by its square root.", gamma * centred / (variance + eps) + beta),
        ("You only subtract the mean. Also divide by the square root of the variance.", gamma * centred + beta),
        ("The mean is not subtracted.", gamma * x / torch.sqrt(variance + eps) + beta),
        ("That is RMSNorm, of later models: it does not subtract the mean. GPT-2's LayerNorm does.",
         gamma * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) + beta),
        ("gamma, the weight, is missing: multiply each element by its own.", normed + beta),
        ("beta, the bias, is missing: add it at the end.", gamma * normed),
        ("gamma and beta are missing.", normed),
        ("Scale first, then shift: beta is not multiplied by gamma.", gamma * (normed + beta)),
        ("gamma scales, beta shifts: you have exchanged them.", beta * normed + gamma),
        *((over, gamma * (x - x.mean(dims, keepdim=True))
           / torch.sqrt(x.var(dims, keepdim=True, unbiased=False) + eps) + beta)
          for dims in ((1,), (0,), (1, 2), (0, 1, 2))),
    ]


# --- embeddings ------------------------------------------------------------------------------------------------------


def embedding_mistakes(wte, wpe, ids):
    """The results of the embeddings with typical mistakes: ids (B, T) -> [(message, result)]."""
    B, T = ids.shape
    tokens, rows = wte(ids), wpe.weight
    own = "Each token needs its own position, 0, 1, 2, ...: "
    return [
        ("The positions are missing: add a vector of wpe for each position.", tokens),
        (own + "yours all get position 0.", tokens + rows[0]),
        (own + "yours all get the last position.", tokens + rows[T - 1]),
        ("The first position is 0, the first row of wpe. Yours begin at 1.", tokens + rows[1 : T + 1]),
        ("Your positions run backwards.", tokens + rows[:T].flip(0)),
        ("You look up the ids in wpe. wpe has a row for each position, whatever token is there.",
         tokens + rows[ids % len(rows)]),
        ("These are the position vectors alone. The tokens' vectors are missing.", rows[:T].expand(B, T, -1)),
        ("The two vectors are added, not multiplied.", tokens * rows[:T]),
        ("That is the mean of the two vectors. GPT-2 adds them.", (tokens + rows[:T]) / 2),
    ]


# --- attention -------------------------------------------------------------------------------------------------------


def attention_part_mistakes(module, x):
    """The results of causal self-attention with typical mistakes: [(message, (B, T, C))]."""
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
        *((message.replace("(notebook 02)", "(section 6)"), result) for message, result in mistakes),
        (full_width, one_head(math.sqrt(module.n_head))),  # divided by sqrt(hs)
        (full_width, one_head(math.sqrt(x.shape[-1]))),  # not divided
        (order, heads(q, v, k)),
        (order, heads(v, q, k)),
        (order, heads(v, k, q)),
    ]


# --- the MLP ---------------------------------------------------------------------------------------------------------


def mlp_mistakes(module, x):
    """The results of the MLP with typical mistakes: [(message, (B, T, C))]."""
    wide = module.c_fc(x)
    gelu = F.gelu(wide, approximate="tanh")
    right = module.c_proj(gelu)
    return [
        ('That is the exact GELU, the default of F.gelu. GPT-2 uses the approximation: approximate="tanh".',
         module.c_proj(F.gelu(wide))),
        ("That is ReLU. GPT-2 uses GELU.", module.c_proj(wide.relu())),
        ("There is no activation: without one, two linear layers are no more than a single one.", module.c_proj(wide)),
        ("That is SiLU. GPT-2 uses GELU.", module.c_proj(F.silu(wide))),
        ("That is another approximation of GELU, with a sigmoid. GPT-2 uses the one with tanh.",
         module.c_proj(wide * torch.sigmoid(1.702 * wide))),
        ("That is tanh. GPT-2 uses GELU, whose approximation contains a tanh.", module.c_proj(wide.tanh())),
        ("The GELU belongs between the two layers, not after them.", F.gelu(module.c_proj(wide), approximate="tanh")),
        ("The GELU belongs between the two layers only, not after the second one.", F.gelu(right, approximate="tanh")),
        ("Right, except that x itself is added outside of the MLP, in the block (section 6).", right + x),
    ]


# --- the block -------------------------------------------------------------------------------------------------------


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
        "Your block has no LayerNorm: ln_1 comes before attention, ln_2 before the MLP.":
            lambda block, x: x + block.attn(x) + block.mlp(x + block.attn(x)),
        "Your MLP reads x. It reads x_att, to which attention has already added.":
            lambda block, x: x + block.attn(block.ln_1(x)) + block.mlp(block.ln_2(x)),
        "The second sum must start from x_att, not from x: otherwise attention's result is lost.":
            lambda block, x: x + block.mlp(block.ln_2(x + block.attn(block.ln_1(x)))),
        "Your block has no sum around the MLP: x_ff = x_att + ...":
            lambda block, x: block.mlp(block.ln_2(x + block.attn(block.ln_1(x)))),
        "Your block has no sum around attention: x_att = x + ...": no_first_sum,
        "Each norm comes before its own part: ln_1 before attention, ln_2 before the MLP.":
            lambda block, x: with_parts(block, x, "ln_2", "attn", "ln_1", "mlp"),
        "Attention comes first, then the MLP.":
            lambda block, x: with_parts(block, x, "ln_2", "mlp", "ln_1", "attn"),
        "Attention comes first, then the MLP. And ln_1 is attention's norm, ln_2 the MLP's.":
            lambda block, x: with_parts(block, x, "ln_1", "mlp", "ln_2", "attn"),
        "Your block has no MLP.": lambda block, x: x + block.attn(block.ln_1(x)),
        "Your block has no attention.": lambda block, x: x + block.mlp(block.ln_2(x)),
        "Your block uses ln_1 twice. The MLP has its own norm, ln_2.":
            lambda block, x: with_parts(block, x, "ln_1", "attn", "ln_1", "mlp"),
    }


# --- the whole model -------------------------------------------------------------------------------------------------


def model_mistakes(model, ids):
    """The logits of a model with typical mistakes: [(message, logits)]."""
    parts, head = model.transformer, model.lm_head
    tokens = parts.wte(ids)
    start = tokens + parts.wpe(torch.arange(ids.shape[1]))

    def through(x, blocks=parts.h):
        for block in blocks:
            x = block(x)
        return x

    x = through(start)
    logits = head(parts.ln_f(x))
    only_last = ("All your blocks take the embeddings, so only the last one counts. Each takes the output of the one "
                 "before.")
    return [
        *((message, head(parts.ln_f(through(vectors))))
          for message, vectors in embedding_mistakes(parts.wte, parts.wpe, ids)),
        ("The last LayerNorm, ln_f, is missing. It comes between the blocks and the unembedding.", head(x)),
        ("You unembed the embeddings themselves: x never goes through the blocks.", head(parts.ln_f(start))),
        ("Only the first block is used. Each block takes the output of the one before it.",
         head(parts.ln_f(through(start, parts.h[:1])))),
        (only_last, head(parts.ln_f(through(start, parts.h[-1:])))),
        ("Your last block is not used.", head(parts.ln_f(through(start, parts.h[:-1])))),
        ("Your blocks run from the last to the first.", head(parts.ln_f(through(start, list(parts.h)[::-1])))),
        ("x is added to each block's result. The block already does that inside.",
         head(parts.ln_f(_doubled(start, parts.h)))),
        ("Those are probabilities. The model returns logits, without a softmax.", logits.softmax(-1)),
        ("Those are logarithms of probabilities. The model returns the logits themselves.", logits.log_softmax(-1)),
        ("You divide the logits by sqrt(C). GPT-2 does not: that is a temperature (see the pitfall in section 7).",
         logits / math.sqrt(model.config.n_embd)),
    ]


def _doubled(x, blocks):
    for block in blocks:
        x = x + block(x)
    return x


def loss_mistakes(logits, targets):
    """The loss after typical mistakes: logits (B, T, V), targets (B, T) -> [(message, loss)]."""
    rows, flat = logits.flatten(0, 1), targets.flatten()
    right = F.cross_entropy(rows, flat)
    return [
        ("The loss is the mean over all B x T targets; yours is their sum.", right * flat.numel()),
        ("You shift the targets. They are shifted already: target t is the token that follows token t.",
         F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())),
        ("You compare all logits but the last. Each position has its target.",
         F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, :-1].flatten())),
        ("The loss is taken at the last position only. Each position has its target.",
         F.cross_entropy(logits[:, -1], targets[:, -1])),
        ("cross_entropy computes the softmax itself: give it logits, not probabilities.",
         F.cross_entropy(rows.softmax(-1), flat)),
        ("The loss has the wrong sign: it is minus the mean of ln P(right next token).", -right),
        ("The loss is in nats, with the natural logarithm; yours is in bits.", right / math.log(2)),
    ]


# --- one token with a cache ------------------------------------------------------------------------------------------


def cache_mistakes(q, k, v, keys, values):
    """The results of attention for one new token with typical mistakes: [(message, (B, nh, 1, dv))]."""
    keys, values, old_keys, old_values = torch.cat([keys, k], -2), torch.cat([values, v], -2), keys, values
    scores = q @ keys.transpose(-2, -1)
    scaled = scores / math.sqrt(q.shape[-1])
    masked = scaled.masked_fill(torch.ones_like(scaled).triu(1).bool(), float("-inf"))
    before = (q @ old_keys.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ old_values
    return [
        ("The new token does not look at itself. Append its key and value first, then compute the scores.", before),
        ("The scores are not divided by sqrt(hs), the width of a query.", scores.softmax(-1) @ values),
        ("The scores are divided by the wrong number: by sqrt(hs), the last size of q.",
         (scores / math.sqrt(v.shape[-1])).softmax(-1) @ values),
        ("The scores are divided by the square root of the number of tokens. Divide by sqrt(hs).",
         (scores / math.sqrt(keys.shape[-2])).softmax(-1) @ values),
        ("Your mask hides all tokens but the first. A single new token needs no mask: it may look at all before it.",
         masked.softmax(-1) @ values),
        ("The softmax is missing: the weights must sum to 1.", scaled @ values),
        ("The softmax runs over the queries, of which there is one. It belongs over the keys, the last dimension.",
         scaled.softmax(-2) @ values),
        ("The result is the new token's own value. Use the values of the tokens before it, too.", v),
    ]
