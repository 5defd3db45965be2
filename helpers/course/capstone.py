"""The judge of notebook 11: eight stages that a GPT-2 of any design must pass.

The judge knows a model only through an Adapter of six functions. It never looks at names, classes or layouts: what it
cannot see in the logits, in the loss, in gradients or in a list of tensors, it does not ask for.

Letters as in model.py: B sequences, T tokens, C elements per token, V tokens in the vocabulary, P positions, L blocks.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from helpers.course import progress
from helpers.course.checking import Exercise, NotBegun, NotYet, Verdict, describe
from helpers.course.display import show_source, show_table
from helpers.course.exercises import capstone_reference as reference
from helpers.course.exercises import capstone_solution
from helpers.course.judge import (
    OutOfTime,
    Prints,
    in_words,
    learners_line,
    limited_time,
    settings_restored,
    torch_kept,
)
from helpers.model import GPTConfig

SMALL = GPTConfig(vocab_size=29, n_positions=12, n_embd=24, n_layer=2, n_head=3)  # two shapes that differ in all sizes
OTHER = GPTConfig(vocab_size=53, n_positions=17, n_embd=40, n_layer=3, n_head=4)
START = GPTConfig(vocab_size=307, n_positions=64, n_embd=48, n_layer=4, n_head=4)  # for statistics of fresh weights
TEXT = GPTConfig(vocab_size=61, n_positions=32, n_embd=40, n_layer=2, n_head=4)  # for generation
SECONDS = 90  # for a check, and for a text
PARAMETERS = 124_439_808  # of GPT-2 small
FITTED = 0.1  # nats: one batch is overfitted when its loss is below
STEPS, RATE = 45, 1e-2  # with AdamW on this batch
NOT_FINITE = "The logits are not finite numbers"
EQUAL = 3e-5  # how far logits may differ, as a share of the largest


class NotTried(Exception):
    """Raised in a stage that cannot be tried: what it needs is not there yet."""


# --- the adapter -----------------------------------------------------------------------------------------------------


def _method(model, name):
    """The model's method of this name. Raises NotTried where there is none."""
    method = getattr(model, name, None)
    if not callable(method):
        raise NotTried(f"The model has no method {name}(), and the adapter names no function for it.")
    return method


def _parameters(model):
    return list(_method(model, "parameters")())


def _logits(model, ids):
    return _method(model, "__call__")(ids)


def _loss(model, ids, targets):
    return _method(model, "loss")(ids, targets)


def _load(model, weights):
    return _method(model, "load")(weights)


def _generate(model, ids, n, use_cache):
    return _method(model, "generate")(ids, n, use_cache)


@dataclass(frozen=True)
class Adapter:
    """The six functions through which the judge uses a model. Only build has no default.

    build(config) -> a new model; config has vocab_size, n_positions, n_embd, n_layer and n_head
    parameters(model) -> the tensors that training changes, each once         default: list(model.parameters())
    logits(model, ids) -> (B, T, V), of ids (B, T) int64                      default: model(ids)
    loss(model, ids, targets) -> the mean cross-entropy in nats, a scalar     default: model.loss(ids, targets)
    load(model, weights) -> nothing; copies GPT-2's weights into the model    default: model.load(weights)
    generate(model, ids, n, use_cache) -> (B, T + n), greedy                  default: model.generate(ids, n, use_cache)
    """

    build: Callable
    parameters: Callable = _parameters
    logits: Callable = _logits
    loss: Callable = _loss
    load: Callable = _load
    generate: Callable = _generate


def as_adapter(attempt):
    """An attempt as an Adapter: a function or class that builds a model gets the defaults for all the rest."""
    if isinstance(attempt, Adapter):
        return attempt
    if attempt is None:
        raise NotBegun("You hand over None so far. Hand over your class, or an Adapter.")
    if isinstance(attempt, torch.nn.Module) or not callable(attempt):
        raise NotYet(f"You hand over an object of the type {type(attempt).__name__}. Hand over the class or function "
                     "that builds a model from a config, or an Adapter with it.")
    return Adapter(build=attempt)


# --- what stages share -----------------------------------------------------------------------------------------------


def _say(config):
    """A configuration in words."""
    return (f"vocab_size={config.vocab_size}, n_positions={config.n_positions}, n_embd={config.n_embd}, "
            f"n_layer={config.n_layer}, n_head={config.n_head}")


def _numbers(values, count=4):
    return "[" + ", ".join(f"{value:.4f}" for value in values.flatten()[:count].tolist()) + ", ...]"


def _ids(config, B, T, seed=0):
    """Random ids (B, T), always the same for a seed."""
    return torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


class Subject:
    """A learner's adapter, with every answer checked for its type before a stage looks at it. All of the learner's
    functions are called with gradients switched on, also where the judge itself needs none; what they switch off stays
    off only until they return."""

    def __init__(self, adapter):
        self.adapter, self.results = adapter, {}  # of the stages so far: {name: result}

    @torch_kept()
    @torch.enable_grad()
    def build(self, config, seed=0):
        """A new model. Its random numbers are those of the seed."""
        torch.manual_seed(seed)
        model = self.adapter.build(config)
        if model is None:
            raise NotBegun("Your function returns None so far: it must return a model.")
        return model

    def model(self, config, seed=0):
        """A new model that gives logits of the right shape. Raises NotTried unless there is one."""
        try:
            model = self.build(config, seed)
            with torch_kept(), torch.enable_grad():
                logits = self.adapter.logits(model, _ids(config, 2, 3))
        except Exception as error:
            raise NotTried("This stage needs a model that returns logits: stages 1 and 2 come first.") from error
        if not isinstance(logits, torch.Tensor) or logits.shape != (2, 3, config.vocab_size):
            raise NotTried("This stage needs logits of the shape (B, T, V): stage 2 comes first.")
        if not logits.isfinite().all():
            raise NotTried(f"{NOT_FINITE} (stage 2).")
        return model

    @torch_kept()
    @torch.enable_grad()
    def load(self, model, weights):
        """Copies weights into the model. The two usual errors get an explanation."""
        try:
            self.adapter.load(model, {name: tensor.clone() for name, tensor in weights.items()})
        except RuntimeError as error:
            if "leaf Variable" in in_words(error, str):
                raise NotYet("load() changes tensors that require gradients: put it under torch.no_grad()."
                             + _where(error)) from error
            if 'Unexpected key(s) in state_dict: "lm_head.weight".' in in_words(error, str):
                raise NotYet("load(): your model has no lm_head.weight. Leave it out of the weights: it is wte."
                             + _where(error)) from error
            raise

    @torch_kept()
    @torch.enable_grad()
    def loss(self, model, ids, targets):
        """Whatever loss() returns."""
        return self.adapter.loss(model, ids, targets)

    @torch_kept()
    @torch.enable_grad()
    def generate(self, model, ids, n, use_cache):
        """Whatever generate() returns."""
        return self.adapter.generate(model, ids.clone(), n, use_cache)

    @torch_kept()
    @torch.enable_grad()
    def logits(self, model, ids):
        """The logits of ids, which must be a tensor."""
        logits = self.adapter.logits(model, ids.clone())
        if not isinstance(logits, torch.Tensor):
            raise NotYet(f"logits() must return a tensor (B, T, V); yours returns {describe(logits)}.")
        return logits.float()

    @torch_kept()
    @torch.enable_grad()
    def tensors(self, model):
        """The parameters, each object once."""
        tensors = self.adapter.parameters(model)
        tensors = list(tensors.values()) if isinstance(tensors, dict) else list(tensors)
        if wrong := [type(t).__name__ for t in tensors if not isinstance(t, torch.Tensor)]:
            raise NotYet(f"parameters() must return a list of tensors; yours contains an object of type {wrong[0]}.")
        if not tensors:
            raise NotYet("parameters() returns an empty list: the model has no tensor that training could change.")
        return list({id(tensor): tensor for tensor in tensors}.values())

    def memory(self, model):
        """The parameters, each piece of memory once: a tensor and its transpose are the same."""
        return list({(t.untyped_storage()._cdata, t.storage_offset(), t.numel()): t
                     for t in self.tensors(model)}.values())

    def count(self, model):
        """The number of parameters."""
        return sum(tensor.numel() for tensor in self.memory(model))

    @torch.no_grad()
    def disturb(self, model, seed=1, spread=0.15):
        """Adds random numbers to all parameters in place, so that none is 0 or 1 and all matter."""
        generator = torch.Generator().manual_seed(seed)
        for tensor in self.memory(model):
            tensor += spread * torch.randn(tensor.shape, generator=generator)
        return model


# --- stages 1 to 4 ---------------------------------------------------------------------------------------------------


def stage_config(subject):
    """Every size of the configuration is used."""
    for config in (SMALL, OTHER):
        subject.tensors(subject.build(config))
    base = subject.count(subject.build(SMALL))
    blocks = ", or are the blocks not registered (nn.ModuleList), or is one block used L times"
    for name, value in (("vocab_size", 31), ("n_positions", 15), ("n_embd", 30), ("n_layer", 3)):
        if (count := subject.count(subject.build(replace(SMALL, **{name: value})))) <= base:
            raise NotYet(f"With {name}={value} instead of {getattr(SMALL, name)}, the model should have more than "
                         f"{base:,} parameters; yours has {count:,}. Is config.{name} used, or does a constant stand "
                         f"in its place{blocks if name == 'n_layer' else ''}? (The rest of the config: {_say(SMALL)}.)")
    ids, logits = _ids(SMALL, 1, 6), []
    for n_head in (3, 2):
        model = subject.disturb(subject.build(replace(SMALL, n_head=n_head)))
        logits.append(subject.logits(model, ids))
    if not all(each.isfinite().all() for each in logits):
        raise NotTried(f"Four of the five sizes are used. n_head was not tested: {NOT_FINITE[0].lower()}"
                       f"{NOT_FINITE[1:]} (stages 2 and 3).")
    if logits[0].shape == logits[1].shape and torch.allclose(*logits, atol=1e-5):
        raise NotYet(f"The logits are the same with 3 heads and with 2, for equal weights and ids {ids.tolist()}. Is "
                     "there attention already, and is config.n_head used? Each head has its own softmax.")
    return "Each of the five sizes is used."


def _shape_mistake(shape, B, T, V):
    return {
        (B, V, T): "The last two axes are exchanged: the scores of the vocabulary come last.",
        (T, B, V): "The first two axes are exchanged: sequences come first, then tokens.",
        (B * T, V): "Sequences and tokens are merged: do not flatten them here.",
        (B, 1, V): "Only the last position is there. Every position predicts its next token.",
        (B, V): "Only one position is there. Every position predicts its next token.",
        (T, V): "The axis of the sequences is missing.",
    }.get(shape, "Follow the shapes from the ids to the logits.")


def stage_shapes(subject):
    """Logits (B, T, V) for several B and T; a sequence that is too long is refused."""
    for config in (SMALL, OTHER):
        model, P, V = subject.build(config), config.n_positions, config.vocab_size
        for B, T in ((2, 5), (1, 1), (3, 1), (1, P), (4, P)):
            logits = subject.logits(model, _ids(config, B, T))
            if tuple(logits.shape) != (B, T, V):
                why = _shape_mistake(tuple(logits.shape), B, T, V)
                raise NotYet(f"For ids of the shape ({B}, {T}) the logits must have the shape ({B}, {T}, {V}); yours "
                             f"have {tuple(logits.shape)}. {why} (config: {_say(config)})")
            if not logits.isfinite().all():
                raise NotYet(f"For ids of the shape ({B}, {T}) some logits of a fresh model are not finite numbers. A "
                             "row of scores in which everything is masked gives nan after the softmax.")
    for config in (SMALL, OTHER):
        model, T = subject.build(config), config.n_positions + 1
        try:
            shape = tuple(subject.logits(model, _ids(config, 2, T)).shape)
        except Exception:
            continue  # any error will do
        raise NotYet(f"{T} tokens are one more than n_positions={config.n_positions}, and your model returned logits "
                     f"of the shape {shape} for them. It has no position vector for the last token, so it must raise "
                     "an error.")
    return "The shape is right for one token, a full context, and one or several sequences; a longer one is refused."


def _explain_row(rows, s, T, n_layer):
    """A message for the set of rows that changed when token s did."""
    early, late = [t for t in rows if t < s], [t for t in range(s, T) if t not in rows]
    if early and early[0] == s - n_layer > 0:  # one position further in each block
        return f"Row {s - 1} sees token {s}, which it must predict: the mask is off by one, in every block."
    if early:
        return (f"Row {early[0]} depends on the later token {s}. Is every score of a later token -inf before the "
                "softmax? If the mask is right: are heads split and merged by view alone?")
    if late == list(range(s, T)):
        return "No row depends on it. Does the embedding of every token enter the model?"
    if late[0] == s:
        return f"Row {s} does not depend on its own token: the mask hides the diagonal, or the residual sum is missing."
    if rows == [s]:
        return "Only its own row depends on it: no information moves from one position to another. Where is attention?"
    return f"Row {late[0]} does not depend on token {s}, though it is not later. Attention sees all earlier tokens."


@torch.no_grad()
def stage_causality(subject):
    """Row t is a function of all tokens up to t, and of no later one, and of no other sequence."""
    for config in (SMALL, OTHER):
        model, T = subject.disturb(subject.model(config)), config.n_positions - 1
        ids = _ids(config, 2, T)
        before = subject.logits(model, ids)
        if not before.isfinite().all():
            raise NotYet(f"In a fresh model all logits are finite, but not after the judge has added random numbers "
                         f"with the standard deviation 0.15 to all parameters ({_say(config)}).")
        if not torch.allclose(before, subject.logits(model, ids), atol=1e-5):
            raise NotYet("Two calls with the same ids give different logits. There must be no dropout and nothing "
                         "that remembers the last call.")
        for s in (T // 2, 1, T - 1, 0):
            changed = ids.clone()
            changed[0, s] = (ids[0, s] + 1) % config.vocab_size
            after = subject.logits(model, changed)
            differs = (after - before).abs().amax(-1) > 1e-5 * before.abs().max()  # (B, T)
            if differs[1].any():
                raise NotYet(f"The judge changed a token of sequence 0, and logits of sequence 1 changed. Sequences of "
                             f"a batch must not see each other. (ids of the shape (2, {T}), {_say(config)})")
            rows = differs[0].nonzero().flatten().tolist()
            if rows != list(range(s, T)):
                raise NotYet(f"The judge changed token {s} of {T}, from {ids[0, s]} to {changed[0, s]} in "
                             f"{ids[0].tolist()}. The rows {s} to {T - 1} of the logits should change; yours changed "
                             f"in the rows {rows}. {_explain_row(rows, s, T, config.n_layer)}")
        alone = subject.logits(model, ids[:, :3])
        if not torch.allclose(alone, before[:, :3], atol=1e-4 * before.abs().max().item()):
            raise NotYet("The logits of the first 3 tokens differ when the other tokens are not there.")
    return "Row t depends on all tokens up to t and on nothing else."


def _count_mistake(extra):
    """What is wrong with a GPT-2 small that has so many parameters too many."""
    V, P, C, L = 50257, 1024, 768, 12
    return {
        V * C: "These are the V x C elements of lm_head: the unembedding must be the embedding itself.",
        V * C + V: "lm_head has its own matrix, and a bias. It must be the embedding itself, without a bias.",
        V: "lm_head has no bias.",
        -P * C: "The position embedding is missing, P x C elements.",
        P * P: "A causal mask is not a parameter.", L * P * P: "A causal mask is not a parameter.",
        -2 * C: "Is the last LayerNorm missing, or do gamma and beta lack in one?",
        -9 * L * C: "The biases of the four matrices of each block are missing.",
        -3 * L * C: "The biases of Q, K and V are missing.",
        -4 * L * C: "The biases of attention are missing, or the LayerNorms of the blocks.",
        -5 * L * C: "The biases of the MLP are missing.",
        -L * C: "One bias of C elements is missing in each block.",
        -(2 * L + 1) * C: "The LayerNorms have one vector instead of gamma and beta.",
        -(4 * L + 2) * C: "The LayerNorms have no gamma and beta.",
        -2 * L * C: "One LayerNorm is missing in each block.",
        -L * (C * C + C): "The matrix after the heads, c_proj of attention, is missing.",
        -V * C: "The embedding is not in the list.",
    }.get(extra) or _count_blocks(extra, 12 * C * C + 13 * C, L)


def _count_blocks(extra, block, L):
    """The same for a whole number of blocks."""
    n, rest = divmod(abs(extra), block)
    if rest:
        return "Write down the shape of every tensor, and compare with the specification's table."
    if extra > 0:
        return f"This is {n} block{'s' * (n > 1)} too many."
    return (f"This is a whole number of blocks: {n} of the {L} are missing. Are the blocks registered (nn.ModuleList), "
            "and is each of them a block of its own?")


def stage_count(subject):
    """GPT-2 small has 124,439,808 parameters, each piece of memory counted once."""
    try:
        with torch.device("meta"):  # shapes without contents: no memory is needed
            found = subject.count(subject.build(GPTConfig()))
    except NotYet:
        raise
    except Exception:  # not every design can be built there
        found = subject.count(subject.build(GPTConfig()))
    if found != PARAMETERS:
        extra = found - PARAMETERS
        raise NotYet(f"GPT-2 small ({_say(GPTConfig())}) has {PARAMETERS:,} parameters; yours has {found:,}, which is "
                     f"{abs(extra):,} too {'many' if extra > 0 else 'few'}. {_count_mistake(extra)}")
    return f"GPT-2 small has {found:,} parameters."


# --- stage 5: tying and initialisation -------------------------------------------------------------------------------


def _touched(subject, model, ids, token):
    """Which elements of all parameters move this token's score at the last position: one flat tensor of booleans."""
    tensors = subject.tensors(model)
    score = subject.logits(model, ids)[0, -1, token]
    if not score.requires_grad:
        raise NotYet("The logits have no gradient. The tensors in parameters() must require gradients, and logits() "
                     "must not switch gradients off.")
    gradients = torch.autograd.grad(score, tensors, allow_unused=True)
    return torch.cat([(torch.zeros_like(t) if g is None else g).flatten() != 0 for t, g in zip(tensors, gradients)])


def _check_tied(subject, model, config, when):
    """The elements that score a token as the next one also embed it: compared by gradients, in any layout."""
    token, another, C = 5, 7, config.n_embd
    ids = torch.tensor([[1, 2, 3]])  # neither of the two
    scores_it = _touched(subject, model, ids, token) & ~_touched(subject, model, ids, another)  # row of the unembedding
    embeds_it = _touched(subject, model, torch.tensor([[1, 2, token]]), another)
    if scores_it.sum() < C:
        raise NotYet(f"{when}: the score of token {token} should depend on C = {C} parameters of its own, its row of "
                     f"the unembedding. The judge found {int(scores_it.sum())}. Are all tensors in parameters()?")
    if (scores_it & embeds_it).sum() >= C:
        return
    pointers = [tensor.data_ptr() for tensor in subject.tensors(model)]
    if len(set(pointers)) < len(pointers):
        raise NotYet(f"{when}: embedding and unembedding share their memory, but they are two Parameters. Each gets "
                     "only its half of the gradient, and an optimizer updates both. Use one object twice.")
    raise NotYet(f"{when}: token {token} as an input does not use the parameters that score it as an output (tested "
                 "by gradients). A copy with equal values is not tied: training moves the two apart. Embedding and "
                 "unembedding must be one tensor.")


def _check_spread(subject, model, config):
    """The mean square of the random elements is that of 0.02 for most, 0.02 / sqrt(2L) for the residual projections."""
    C, L = config.n_embd, config.n_layer
    tensors = [tensor.detach() for tensor in subject.memory(model)]
    values = torch.cat([tensor.flatten() for tensor in tensors])
    gammas, zeros = (2 * L + 1) * C, (9 * L + 2 * L + 1) * C
    for expected, value, what in ((gammas, 1, f"gamma of {2 * L + 1} LayerNorms"), (zeros, 0, "every bias and beta")):
        if (found := int((values == value).sum())) != expected:
            raise NotYet(f"In a fresh model {expected:,} elements are exactly {value}: {what}. Yours has {found:,} "
                         f"({_say(config)}).")
    noise = values[(values != 0) & (values != 1)]
    narrow, residual = 0.02 / math.sqrt(2 * L), L * 5 * C * C  # two matrices per block: C x C and C x 4C
    wide = noise.numel() - residual
    square = noise.square().mean().item() * noise.numel()

    def is_near(expected):
        return abs(square / expected - 1) < 0.04

    if is_near(0.02**2 * wide + narrow**2 * residual):
        return
    if is_near(0.02**2 * noise.numel()):
        raise NotYet(f"All matrices start with the standard deviation 0.02. The two that add to the residual stream in "
                     f"each block (the projection after the heads and the one back from 4C) need 0.02 / sqrt(2L) = "
                     f"{narrow:.5f} for L = {L}.")
    if is_near(0.02**2 * wide + 0.02**2 / L * residual):
        raise NotYet("The residual projections start with 0.02 / sqrt(L). There are two per block: 0.02 / sqrt(2L).")
    odd = [(tuple(t.shape), t.std().item()) for t in tensors if t.numel() >= C * C and t.std() > 0
           and all(abs(t.std().item() / s - 1) > 0.15 for s in (0.02, narrow))]
    example = f" For example, your tensor of the shape {odd[0][0]} has {odd[0][1]:.4f}." if odd else ""
    raise NotYet(f"Matrices and embeddings must start from a normal distribution with the standard deviation 0.02, the "
                 f"residual projections with 0.02 / sqrt(2L) = {narrow:.5f}; over all of them yours have "
                 f"{math.sqrt(square / noise.numel()):.5f} instead of "
                 f"{math.sqrt((0.02**2 * wide + narrow**2 * residual) / noise.numel()):.5f}.{example}")


def stage_start(subject):
    """One tensor embeds and scores the tokens, also after load(); fresh weights have GPT-2's spread; loss ln V."""
    model = subject.disturb(subject.model(SMALL))
    if not subject.logits(model, _ids(SMALL, 1, 3)).isfinite().all():
        raise NotTried(f"{NOT_FINITE} after the judge has added random numbers to all parameters (stage 3).")
    _check_tied(subject, model, SMALL, "In a new model")
    fresh = subject.model(START)
    _check_spread(subject, fresh, START)
    ids, targets = _ids(START, 4, 32), _ids(START, 4, 32, seed=1)
    logits = subject.logits(fresh, ids).detach()
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    if abs(loss - math.log(START.vocab_size)) > 0.1:
        raise NotYet(f"A fresh model should be undecided: the cross-entropy of its logits with random targets should "
                     f"be near ln V = {math.log(START.vocab_size):.3f}; with yours it is {loss:.3f}.")
    try:
        subject.load(model, reference.weights(SMALL, seed=3))
    except Exception:  # stage 6 reports it
        return "Embedding and unembedding are one tensor; fresh weights have the right spread."
    _check_tied(subject, model, SMALL, "After load()")
    return "Embedding and unembedding are one tensor, also after load(); fresh weights have the right spread."


# --- stages 6 to 8 ---------------------------------------------------------------------------------------------------


def _loaded(subject, config, weights):
    model = subject.model(config)
    subject.load(model, weights)
    return model


def _rows_that_differ(given, right):
    """(B, T): True where a row of logits is wrong, or not finite."""
    return ~((given - right).abs().amax(-1) <= EQUAL * right.abs().max())


def _differ(given, right):
    return bool(_rows_that_differ(given, right).any())


def _find_part(subject, config, ids, weights):
    """Which part of the model a difference comes from, found by switching off the others."""
    for off, part in ((("attn", "mlp"), "the embeddings, the last LayerNorm or the scores, or from the sums: with "
                                        "both c_proj 0 a block must return its input unchanged"),
                      (("attn",), "the MLP or the LayerNorm before it"),
                      (("mlp",), "attention or the LayerNorm before it")):
        cut = {name: torch.zeros_like(tensor) if any(f"{other}.c_proj" in name for other in off) else tensor
               for name, tensor in weights.items()}
        given = subject.logits(_loaded(subject, config, cut), ids)
        if _differ(given, reference.logits(cut, config, ids)):
            rest = " and ".join(off)
            return f"With the c_proj of {rest} set to 0, the difference remains: it comes from {part}."
    return "With either attention or the MLP switched off the logits are right: look at how the block adds them."


@torch.no_grad()
def stage_equal(subject):
    """With the same weights the logits are those of the course's model."""
    for config, B, seed in ((SMALL, 2, 5), (OTHER, 3, 6)):
        weights, ids = reference.weights(config, seed), _ids(config, B, config.n_positions - 1, seed)
        given = subject.logits(_loaded(subject, config, weights), ids)
        right = reference.logits(weights, config, ids)
        if not _differ(given, right):
            continue
        for message, change in reference.MISTAKES:
            if not _differ(given, reference.logits(weights, config, ids, **change)):
                raise NotYet(f"With GPT-2's weights the logits differ from GPT-2's ({_say(config)}). {message}")
        b, t = _rows_that_differ(given, right).nonzero()[0].tolist()
        raise NotYet(f"With GPT-2's weights the logits of sequence {b}, {ids[b].tolist()}, differ from position {t} "
                     f"on: expected {_numbers(right[b, t])}, yours are {_numbers(given[b, t])} ({_say(config)}). "
                     f"{_find_part(subject, config, ids, weights)}")
    return "With copied weights the logits are those of GPT-2, in two shapes."


def _check_loss(subject, model, config):
    """loss() is the cross-entropy of the model's own logits."""
    ids, targets = _ids(config, 3, 7), _ids(config, 3, 7, seed=2)
    loss = subject.loss(model, ids.clone(), targets.clone())
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        raise NotYet(f"loss() must return one number as a tensor without axes, so that its gradient can be taken; "
                     f"yours returns {describe(loss)}.")
    log_p = subject.logits(model, ids).detach().log_softmax(-1)  # (B, T, V)
    each = -log_p.gather(-1, targets[..., None])[..., 0]  # (B, T)
    shifted = -log_p[:, :-1].gather(-1, targets[:, 1:, None]).mean()
    given, right = loss.item(), each.mean().item()
    for wrong, why in ((each.sum(), "You return the sum over all predictions. Take the mean."),
                       (each.sum() / 3, "You divide by the number of sequences. Divide by that of all predictions."),
                       (shifted, "The targets are already shifted by one: targets[b, t] belongs to row t."),
                       (each[:, -1].mean(), "Only the last position counts. Take the mean over all of them."),
                       (each.mean() / math.log(2), "That is the loss in bits. Use the natural logarithm."),
                       (-each.mean(), "The sign is wrong: the loss is minus the logarithm.")):
        if math.isclose(given, wrong.item(), rel_tol=1e-4) and not math.isclose(given, right, rel_tol=1e-4):
            raise NotYet(f"For ids and targets of the shape (3, 7) the loss of your own logits is {right:.4f}; loss() "
                         f"returns {given:.4f}. {why}")
    if not math.isclose(given, right, rel_tol=1e-4):
        raise NotYet(f"For ids and targets of the shape (3, 7) the mean cross-entropy of your own logits is "
                     f"{right:.4f}; loss() returns {given:.4f}.")
    return loss


def stage_overfit(subject):
    """The loss is right, reaches every parameter, and falls near 0 on one batch (with the judge's AdamW)."""
    config = OTHER
    model = subject.model(config)
    loss, tensors = _check_loss(subject, model, config), subject.tensors(model)
    if not loss.requires_grad:
        raise NotYet("The loss has no gradient. The tensors in parameters() must require gradients.")
    for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors, allow_unused=True)):
        if gradient is None:
            raise NotYet(f"A parameter of the shape {tuple(tensor.shape)} gets no gradient from the loss. Is it used "
                         "in the forward pass, and not a copy of it?")
    ids = _ids(config, 4, config.n_positions, seed=4)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    optimizer, losses = torch.optim.AdamW(tensors, lr=RATE, weight_decay=0.0), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = subject.loss(model, inputs, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    final = subject.loss(model, inputs, targets).item()
    if not final < FITTED:
        start = "" if subject.results.get("tying and initialisation", "passed") == "passed" else (
            " Stage 5 did not pass; that can be the reason.")
        raise NotYet(f"After {STEPS} steps of AdamW with the learning rate {RATE:g} on one batch of the shape "
                     f"{tuple(inputs.shape)}, the loss went from {losses[0]:.3f} to {final:.3f}. A model without a "
                     f"mistake knows such a batch by heart and gets below {FITTED}.{start}")
    return f"One batch is learned by heart: the loss falls below {FITTED} nats."


@torch.no_grad()
def _greedy(subject, model, ids, n):
    """The most likely continuation by the model's own logits, one whole pass per token; and how many of its tokens are
    certain: those before the first whose lead is so small that rounding may decide."""
    certain = n
    for step in range(n):
        last = subject.logits(model, ids)[:, -1]  # (B, V)
        best, second = last.topk(2).values.unbind(-1)
        if (best - second).min() <= 1e-5:
            certain = min(certain, step)
        ids = torch.cat([ids, last.argmax(-1, keepdim=True)], dim=1)
    return ids, certain


def _check_text(text, right, T, certain, how):
    """Compares a text with the right one, token by token, as far as its new tokens are certain (_greedy)."""
    if not isinstance(text, torch.Tensor) or text.shape != right.shape:
        raise NotYet(f"{how} must return a tensor of the shape {tuple(right.shape)}: the prompt (T = {T}), then "
                     f"the new ones. Yours returns {describe(text)}.")
    if not torch.equal(text[:, :T], right[:, :T]):
        raise NotYet(f"{how} must begin with the prompt {right[0, :T].tolist()}; yours begins with "
                     f"{text[0, :T].tolist()}.")
    if (wrong := (text != right)[:, : T + certain]).any():
        b, t = wrong.nonzero()[0].tolist()
        raise NotYet(f"{how}: after {right[b, :t].tolist()} your own logits are highest for token {right[b, t]}, but "
                     f"the text goes on with {text[b, t]} (position {t}).")


def _work(subject, model, ids, n, use_cache):
    """The floating-point operations of all matrix products of a generation."""
    products = {torch.ops.aten.mv: lambda a, *_, **__: 2 * a[0] * a[1]}
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        subject.generate(model, ids, n, use_cache)
    return counter.get_total_flops()


def _cache_mistake(text, ids, n, weights):
    """What is wrong with a text that is right without the cache: the mistake that writes the same text."""
    for message, mistake in reference.CACHE_MISTAKES if weights else ():
        if torch.equal(text, reference.text(weights, TEXT, ids, n, **mistake)):
            return message
    return ("Look at what only a step with a cache does: the positions of new tokens, the mask, and whether keys and "
            "values keep the same order.")


def _check_generation(subject, model, ids, n, weights):
    """Compares the texts without and with the cache with the model's own logits."""
    (B, T), (right, certain) = ids.shape, _greedy(subject, model, ids, n)
    for use_cache in (False, True):
        how = f"generate(ids of the shape ({B}, {T}), {n}, use_cache={use_cache})"
        try:
            text = subject.generate(model, ids, n, use_cache)
        except RuntimeError as error:
            if "must match" not in in_words(error, str):
                raise
            raise NotYet(f"{how}: {_stopped(error)}. Is something left of the call before?") from error
        try:
            _check_text(text, right, T, certain, how)
        except NotYet as reason:
            if not use_cache:
                raise
            is_text = isinstance(text, torch.Tensor) and text.shape == right.shape
            why = f" {_cache_mistake(text, ids, n, weights)}" if is_text else ""
            raise NotYet(f"{reason} Without the cache the text is right.{why}") from None


def stage_cache(subject):
    """Greedy text is the same with and without the cache, and with it a new token costs one row."""
    weights = reference.weights(TEXT, seed=24)
    try:
        model = _loaded(subject, TEXT, weights)
    except Exception:  # stage 6 reports it; this stage needs no particular weights
        model, weights = subject.disturb(subject.model(TEXT)), None
    if subject.adapter.generate is _generate:
        _method(model, "generate")
    for B, T, n, seed in ((2, 4, 20, 0), (1, 1, 9, 1), (3, 6, TEXT.n_positions - 6, 2), (2, 3, 1, 3)):
        _check_generation(subject, model, _ids(TEXT, B, T, seed), n, weights)
    ids, n = _ids(TEXT, 1, 4), 24
    once, cached = _work(subject, model, ids.repeat(1, 7), 1, False), _work(subject, model, ids, n, True)
    if cached > 2.5 * once:
        raise NotYet(f"The text with the cache is right, but the cache saves no work: for {n} new tokens after 4, "
                     f"generate(use_cache=True) does as many operations as {cached / once:.1f} passes over all 28 "
                     "tokens. With a cache every token passes through the matrices once, so it should be about one.")
    return "Greedy text is the same with and without the cache, and with it each token is computed once."


STAGES = {
    "config": stage_config, "shapes": stage_shapes, "causality": stage_causality, "parameter count": stage_count,
    "tying and initialisation": stage_start, "equal logits": stage_equal, "one batch overfitted": stage_overfit,
    "text with a cache": stage_cache,
}

# --- the report ------------------------------------------------------------------------------------------------------

BORROWED = ("helpers.model.", "helpers.attention.", "helpers.generation.", "helpers.loss.", "helpers.pretrained.",
            "transformers.", "torch.nn.modules.transformer.", "torch.nn.modules.activation.MultiheadAttention")


@dataclass(frozen=True)
class Stage:
    """The outcome of one stage. result: "passed", "failed" or "not tried"; message: one or more sentences."""

    name: str
    result: str
    message: str


@dataclass(frozen=True)
class Report:
    """The outcome of all stages. borrowed: functions of other people's models that the learner's code called."""

    stages: tuple
    borrowed: tuple = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self):
        """Whether all eight stages were passed."""
        return all(stage.result == "passed" for stage in self.stages)

    @property
    def first_problem(self):
        """The message of the first stage that was not passed: of one that failed, if there is any. None without one."""
        waiting = (f"Stage {stage.name}: {stage.message}" for stage in self.stages if stage.result == "not tried")
        return next(iter((*self.problems, *waiting)), None)

    @property
    def problems(self):
        """The messages of all stages that failed, in full."""
        return tuple(f"Stage {stage.name}: {stage.message}" for stage in self.stages if stage.result == "failed")

    def show_stages(self):
        """Shows a table with a row for each stage."""
        rows = [{"stage": stage.name, "result": stage.result,
                 "what was found": "see below" if stage.result == "failed" else stage.message}
                for stage in self.stages]
        done = sum(stage.result == "passed" for stage in self.stages)
        show_table(rows, caption=f"{done} of {len(rows)} stages passed")

    def show(self):
        """Shows the table, and below it the messages of all stages that failed."""
        self.show_stages()
        print("\n\n".join(self.problems))


def _where(error):
    """The learner's line that led to an error: " (in line 3: `q @ k`)", or "" if there is none."""
    line = learners_line(error)
    return f" (in {line})" if line else ""


def _stopped(error):
    """A sentence on an error in the learner's code, with the line."""
    return f"Your code stopped with {type(error).__name__}: {in_words(error, str)}{_where(error)}"


def _try(number, name, stage, subject):
    """Runs one stage and returns its outcome."""
    title = f"{number} · {name}"
    try:
        outcome = Stage(title, "passed", stage(subject))
    except NotYet as reason:
        outcome = Stage(title, "failed", str(reason))
    except NotTried as reason:
        outcome = Stage(title, "not tried", str(reason))
    except Exception as error:  # anything that a learner's code may raise
        outcome = Stage(title, "failed", _stopped(error))
    subject.results[name] = outcome.result
    return outcome


def _called(subject):
    """The names of other people's functions that run while the learner's model is built and used."""
    names, before = set(), sys.getprofile()

    def watch(frame, event, argument):
        name = f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"
        if event == "call" and name.startswith(BORROWED) and "GPTConfig" not in name:
            names.add(name)

    config, ids = SMALL, _ids(SMALL, 1, 3)
    sys.setprofile(watch)
    try:
        model = subject.build(config)
        for use in (lambda: subject.adapter.logits(model, ids), lambda: subject.adapter.loss(model, ids, ids),
                    lambda: subject.adapter.generate(model, ids, 2, True)):
            try:
                use()
            except Exception:  # the stages report it
                continue
    except Exception:
        return ()
    finally:
        sys.setprofile(before)
    return tuple(sorted(names))


def judge(attempt):
    """Runs all eight stages. attempt: an Adapter, or a class or function that builds a model. Returns a Report.

    Raises NotYet when there is no model to judge.
    """
    start, subject = time.perf_counter(), Subject(as_adapter(attempt))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            subject.build(SMALL)
        except NotBegun:
            raise
        except Exception as error:
            return _nothing_to_judge(error)
        stages = tuple(_try(number, name, stage, subject)
                       for number, (name, stage) in enumerate(STAGES.items(), start=1))
        borrowed = _called(subject)
    return Report(stages, borrowed, time.perf_counter() - start)


def try_text(attempt, model, ids, n):
    """The greedy continuation (B, T + n) by a learner's model with the weights of a GPT, and why there is none:
    (text, None) or (None, reason). The learner's code runs as in a check."""
    try:
        with settings_restored(), contextlib.redirect_stdout(Prints()), limited_time(SECONDS):
            subject = Subject(as_adapter(attempt))
            own = subject.build(model.config)
            subject.load(own, model.state_dict())
            text = subject.generate(own, ids, n, True)
    except (NotYet, NotTried) as reason:
        return None, str(reason)
    except OutOfTime:
        return None, f"Your code was stopped after {SECONDS} seconds. Does each of its loops end?"
    except SystemExit:
        return None, "Your code ends the program, with sys.exit() or exit(). Use return."
    except Exception as error:  # anything that a learner's code may raise
        return None, _stopped(error)
    expected = (ids.shape[0], ids.shape[1] + n)
    if not isinstance(text, torch.Tensor) or tuple(text.shape) != expected:
        return None, f"generate() must return a tensor of the shape {expected}; yours returns {describe(text)}."
    return text, None


def _nothing_to_judge(error):
    """The report on a model that cannot be built."""
    message = f"No model was built. {_stopped(error)} (config: {_say(SMALL)})"
    first, *others = (f"{number} · {name}" for number, name in enumerate(STAGES, start=1))
    waiting = "This stage needs a model: stage 1 comes first."
    return Report((Stage(first, "failed", message), *(Stage(name, "not tried", waiting) for name in others)))


# --- the exercise ----------------------------------------------------------------------------------------------------

_reports = []  # the latest report, for the table under a check


def praise(attempt):
    """The test of the capstone: praise for a model that passes all stages. Raises NotYet with the first problem."""
    report = judge(attempt)
    _reports[:] = [report]
    if not report.passed:
        raise NotYet(report.first_problem)
    return "This is GPT-2: all eight stages are passed, and GPT-2's weights run in it."


class Capstone(Exercise):
    """The exercise whose check shows a table of eight stages, and whose solution is a whole file."""

    def check(self, attempt):
        """Shows the table of the stages, and prints whether the attempt is right, with the messages of all stages that
        failed. It never raises."""
        _reports.clear()
        verdict = self.judge(attempt)
        if _reports:
            _reports[-1].show_stages()
        print("\n\n".join((verdict.text, *(problem for report in _reports for problem in report.problems[1:]))))
        if verdict.begun and attempt is not self.solution:
            progress.record(self.name, verdict.solved)

    def judge(self, attempt):
        """The Verdict on an attempt. A model that somebody else has written is right, but does not solve this."""
        verdict = super().judge(attempt)
        if not verdict.solved or not (borrowed := _reports[-1].borrowed):
            return verdict
        whose = "not all of it is yours"
        for start, words in (("helpers.model.GPT.", "this is the course's own model"),
                             ("transformers.", "this is the transformers library's model")):
            if any(name.startswith(start) for name in borrowed):
                whose = words
        used = " and ".join(part.strip(".") for part in BORROWED if any(name.startswith(part) for name in borrowed))
        text = verdict.text.replace("correct.", f"correct, but {whose}: your code uses {used}.", 1)
        return Verdict(False, f"{text} Now write your own.")

    def show_solution(self):
        """Shows the file of a solution. It is tested code."""
        show_source(capstone_solution)
