"""helpers/muon.py: the update, its agreement with PyTorch's own Muon, and its use in a training run."""

from dataclasses import replace

import pytest
import torch

from helpers import muon, training
from helpers.machine import memory
from tests import small

MUON = replace(small.CONFIG, optimizer="muon")


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (32, 8), (3, 8, 24)])
def test_all_singular_values_come_near_one_and_the_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = muon.orthogonalize(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5 and values.max() < 1.3
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    in_its_own_basis = u.mT @ result @ v.mT  # diagonal if the singular vectors are those of the gradient
    torch.testing.assert_close(in_its_own_basis, torch.diag_embed(in_its_own_basis.diagonal(dim1=-2, dim2=-1)),
                               atol=1e-4, rtol=0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_it_takes_the_steps_of_pytorchs_muon():
    torch.manual_seed(0)
    start = [torch.randn(16, 16), torch.randn(64, 16), torch.randn(16, 48), torch.randn(16, 48)]
    own, theirs = ([torch.nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    ours = muon.Muon([{"params": own[:1]}, {"params": own[1:2]}, {"params": own[2:]}], lr=0.02)
    pytorch = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for mine, other in zip(own, theirs):
            mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(step))
            other.grad = mine.grad.clone()
        ours.step()
        pytorch.step()
    for mine, other, before in zip(own, theirs, start):  # PyTorch iterates in bfloat16: 8 bits
        moved = (other - before).norm()
        assert (mine - other).norm() < 0.03 * moved and moved > 0


def test_a_matrix_in_parts_moves_as_separate_matrices_do():
    torch.manual_seed(0)
    fused = torch.nn.Parameter(torch.randn(24, 8))
    separate = [torch.nn.Parameter(part.clone()) for part in fused.detach().chunk(3)]
    together, apart = muon.Muon([{"params": [fused], "parts": 3}]), muon.Muon([{"params": separate}])
    for scale in (1.0, 0.5):
        fused.grad = torch.randn(24, 8) * scale
        for matrix, gradient in zip(separate, fused.grad.chunk(3)):
            matrix.grad = gradient.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(fused, torch.cat(separate))


def test_the_blocks_matrices_get_muon_and_everything_else_adamw_without_decay():
    model = small.new_model()
    by_muon, by_adamw = training.make_optimizer(model, MUON).optimizers
    named = {parameter: name for name, parameter in model.named_parameters()}
    matrices = {named[p] for group in by_muon.param_groups for p in group["params"]}
    others = {named[p] for group in by_adamw.param_groups for p in group["params"]}
    assert matrices == {name for name in named.values() if ".h." in name and name.endswith("c_attn.weight")
                        or name.endswith(("c_proj.weight", "c_fc.weight"))}
    assert matrices | others == set(named.values()) and not matrices & others
    assert [group["parts"] for group in by_muon.param_groups] == [3, 1, 1, 1]
    assert {group["weight_decay"] for group in by_muon.param_groups} == {MUON.weight_decay}
    assert {group["weight_decay"] for group in by_adamw.param_groups} == {0.0}


def test_both_optimizers_together_hold_the_state_of_all_parameters_and_memory_advice_reads_it():
    model = small.new_model()
    optimizer = training.make_optimizer(model, MUON)
    ids = small.TRAIN[:68].view(4, 17)
    assert "tokens at once" in memory.advice(model, optimizer, MUON, torch.device("cpu"), 1)
    training.train_step(model, optimizer, training.make_scaler("cpu", MUON), ids[:, :-1], ids[:, 1:], 0.01, MUON)
    assert set(optimizer.state) == set(model.parameters())


def test_a_matrix_without_a_gradient_stays_as_it_is():
    first, second = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    first.grad = torch.eye(4)
    muon.Muon([{"params": [first, second]}], weight_decay=0.5).step()
    assert torch.equal(second, torch.ones(4, 4)) and not torch.equal(first, torch.ones(4, 4))


@pytest.mark.parametrize("shapes, parts", [([(7,)], 1), ([(4, 4), (4, 8)], 1), ([(8, 4)], 3)])
def test_what_is_no_group_of_matrices_of_one_shape_is_refused(shapes, parts):
    with pytest.raises(ValueError, match="expected groups of matrices of one shape"):
        muon.Muon([{"params": [torch.nn.Parameter(torch.ones(shape)) for shape in shapes], "parts": parts}])


def test_a_run_with_muon_learns():
    config = replace(MUON, steps=30)
    _, history = small.train(config)
    assert history.train_loss[-1] < 0.5 * history.train_loss[0]


def test_beta2_and_the_embeddings_decay_reach_the_optimizers():
    for optimizer in ("adamw", "muon"):
        groups = training.make_optimizer(small.new_model(), replace(MUON, optimizer=optimizer, beta2=0.5)).param_groups
        assert {group["betas"] for group in groups if "betas" in group} == {(0.9, 0.5)}
    model = small.new_model()
    adamw = training.make_optimizer(model, replace(MUON, embedding_decay=0.3)).optimizers[1]
    decays = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert decays[id(model.transformer.wte.weight)] == decays[id(model.transformer.wpe.weight)] == 0.3
    assert decays[id(model.transformer.ln_f.weight)] == 0.0
