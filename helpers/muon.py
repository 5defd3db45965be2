"""Muon, an optimizer for the matrices of a model's blocks: every direction of an update gets the same length.

Adam scales each element of a gradient on its own. Muon treats the gradient of a matrix as a matrix: it replaces all of
its singular values by about 1, so directions that the gradient hardly shows are learned as fast as its strongest ones.
The course's GPT-2 was trained with it (data/recipes/make_gpt2_course.py).

torch.optim.Muon does the same in bfloat16, one matrix after the other. This one computes in the matrices' own type, and
matrices of the same shape together, which suits a CPU that has no bfloat16 hardware.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the factor 0.2 sqrt(max(rows,
columns)), by which it can share AdamW's learning rate: J. Liu et al., "Muon is scalable for LLM training", 2025.
"""

import math

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's polynomial x -> a x + b x^3 + c x^5
STEPS = 5  # of the iteration


def orthogonalize(matrices):
    """Matrices (..., rows, columns) with their singular values replaced by values near 1, unless they are tiny.

    A polynomial of the matrix X(X'X)... changes its singular values alone. Iterated, this one drives them all to
    about 1, without computing a singular value decomposition.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])  # (matrices, rows, columns)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT  # (matrices, rows, rows)
        # x = a x + (b gram + c gram gram) x, each sum in the same kernel as its product
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(shape)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon for a list of matrices.

    groups: parameter groups, as for any optimizer: dictionaries with "params", matrices of one shape, and if wanted
    "parts": how many matrices each of them consists of, one below the other. lr: the learning rate, as for AdamW;
    momentum: of the running mean of the gradients (Nesterov's form); weight_decay: as in AdamW. Raises ValueError for a
    parameter that is not a matrix, or cannot be divided into its parts.
    """

    def __init__(self, groups, lr=0.01, momentum=0.95, weight_decay=0.1):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.ndim != 2 or len(matrix) % group["parts"] or matrix.shape != group["params"][0].shape:
                    raise ValueError(f"Muon got a parameter of the shape {tuple(matrix.shape)} in {group['parts']} "
                                     "parts; expected groups of matrices of one shape, with a number of rows that the "
                                     "parts divide. Give vectors to AdamW.")

    @torch.no_grad()
    def step(self):
        """Updates all matrices that have a gradient."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            updates = []
            for matrix in matrices:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                updates.append(matrix.grad.lerp(mean, group["momentum"]))
            parts = torch.stack(updates).unflatten(1, (group["parts"], -1))  # (matrices, parts, rows, columns)
            scale = 0.2 * math.sqrt(max(parts.shape[-2:]))  # an update as large as AdamW's: 0.2 per element
            for matrix, update in zip(matrices, orthogonalize(parts).flatten(1, 2)):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)


class Together:
    """Several optimizers that are used as one."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    @property
    def state(self):
        """The state of all parameters."""
        return {parameter: state for optimizer in self.optimizers for parameter, state in optimizer.state.items()}

    @property
    def param_groups(self):
        """The groups of all, in their order."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self):
        """One step of each."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none=True):
        """Clears the gradients of all."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self):
        """What a checkpoint holds."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state):
        """Restores what state_dict() returned."""
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)


def muon_and_adamw(model, config):
    """Muon for the matrices of a GPT's blocks, AdamW for its embeddings, biases and LayerNorms.

    c_attn holds three matrices, Q, K and V. Each is orthogonalised on its own: together, the large gradient of V would
    leave little of the update for Q and K. config: a TrainConfig; its weight_decay is that of the blocks' matrices.
    """
    matrices = {name: p for name, p in model.transformer.h.named_parameters() if p.ndim == 2}
    groups = [{"params": [p for name, p in matrices.items() if name.endswith(f"{matrix}.weight")],
               "parts": 3 if matrix == "c_attn" else 1} for matrix in ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices.values())]
    adamw = torch.optim.AdamW([{"params": [p for p in others if p.ndim == 2], "weight_decay": config.embedding_decay},
                               {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0}],
                              lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)
    return Together(Muon(groups, config.learning_rate, weight_decay=config.weight_decay), adamw)
