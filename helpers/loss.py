"""The loss of a language model: cross-entropy, first straight from the formula, then a few rows at a time
(notebooks 01, 03 and 07).

N predictions, C elements per vector, V tokens in the vocabulary.
"""

import torch
from torch.autograd.function import once_differentiable

IGNORED = -100  # a target that does not count, as in F.cross_entropy: padding, for example
ROWS_AT_ONCE = {"cuda": 2048, "other": 256}  # rows of logits that exist at the same time: more keep a GPU busy


def cross_entropy(logits, targets):
    """Minus the logarithm of the probability assigned to each target, as a mean over all predictions.

    logits (..., V), targets (...) int64 -> a scalar in nats. -ln softmax(z)[target] is written as ln(sum(e^z)) -
    z[target]. Subtracting the largest logit from all changes nothing, but then no e^z can overflow.
    """
    logits = logits - logits.amax(dim=-1, keepdim=True)  # (..., V)
    target_logits = logits.gather(-1, targets[..., None])[..., 0]  # (..., V) -> (...)
    return (logits.logsumexp(dim=-1) - target_logits).mean()


def chunked_cross_entropy(x, weight, targets, rows=None):
    """The same loss for the logits x @ weight.T, a few rows at a time: x (N, C), weight (V, C), targets (N,) int64 -> a
    scalar in nats. Rows whose target is IGNORED do not count.

    The N x V logits are the largest tensor of a training step. Here at most `rows` of them exist at once (default:
    ROWS_AT_ONCE), and nothing is computed twice: the gradient of a cross-entropy is known in advance, so each chunk's
    share of it is computed immediately. F.linear_cross_entropy of torch 2.13 follows the same idea. The loss can be
    differentiated once, not twice.
    """
    return _ChunkedCrossEntropy.apply(x, weight, targets, rows, torch.is_grad_enabled())


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient for a row of logits is softmax(logits), minus 1 at the target. One product turns it into the
    gradient of x, another into that of the weight."""

    @staticmethod
    def forward(ctx, x, weight, targets, rows, with_gradient):
        dtype = (x[:0] @ weight[:0].T).dtype  # the dtype of products: 16 bits under autocast
        # Fewer rows in float16, because the sum over many rows in weight_grad can overflow.
        rows = rows or ROWS_AT_ONCE["cuda" if x.is_cuda and dtype != torch.float16 else "other"]
        matrix, loss = weight.to(dtype), x.new_zeros((), dtype=torch.float32)
        x_grad, weight_grad = (torch.zeros_like(x), torch.zeros_like(weight)) if with_gradient else (x, None)
        memory = torch.empty(min(rows, len(x)), len(weight), dtype=dtype, device=x.device)  # the same for each chunk
        for chunk, target, chunk_grad in zip(x.to(dtype).split(rows), targets[:, None].split(rows), x_grad.split(rows)):
            ignored = target == IGNORED  # (rows, 1): these rows add nothing, neither to the loss nor to a gradient
            chunk, target = chunk.masked_fill(ignored, 0), target.masked_fill(ignored, 0)
            logits = torch.mm(chunk, matrix.T, out=memory[: len(chunk)])  # (rows, C) -> (rows, V)
            in_place = logits if dtype == torch.float32 else None  # each step overwrites what nobody needs any more
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32, out=in_place)
            loss -= log_p.gather(-1, target).masked_fill(ignored, 0).sum()
            if with_gradient:
                grad = log_p.exp_().scatter_add_(-1, target, log_p.new_full(target.shape, -1.0))
                grad = logits.copy_(grad)  # does nothing in place, else rounds to the type of products
                chunk_grad.copy_((grad @ matrix).masked_fill_(ignored, 0))  # (rows, V) -> (rows, C)
                if dtype == weight_grad.dtype:
                    torch.addmm(weight_grad, grad.T, chunk, out=weight_grad)  # (V, rows) and (rows, C) -> (V, C)
                else:  # products in 16 bits, summed in 32
                    weight_grad += grad.T @ chunk
            del log_p  # before the next chunk is computed
        counted = (targets != IGNORED).sum()  # N without the ignored ones
        if with_gradient:
            ctx.save_for_backward(x_grad.div_(counted.clamp(min=1)), weight_grad.div_(counted.clamp(min=1)))
        return loss / counted  # nan if there is nothing to count, as in F.cross_entropy

    @staticmethod
    @once_differentiable  # the gradients are constants by now: a second derivative would be wrong without a warning
    def backward(ctx, scale):
        x_grad, weight_grad = ctx.saved_tensors
        if scale.device.type == "cpu" and not torch.compiler.is_compiling() and scale == 1:
            return x_grad, weight_grad, None, None, None  # avoids a copy as large as the vocabulary's matrix
        return x_grad * scale, weight_grad * scale, None, None, None
