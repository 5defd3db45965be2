"""The readable reference: against torch's fused kernel, and its own properties."""

import pytest
import torch
import torch.nn.functional as F

from helpers import attention


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 7, 8), (3, 2, 16, 5)])
def test_equals_torchs_fused_attention(shape):
    q, k, v = torch.randn(3, *shape)
    torch.testing.assert_close(attention.attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_weights_are_distributions_over_the_past():
    weights = attention.attention_weights(*torch.randn(2, 4, 9, 8))
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 9))
    past = torch.ones(9, 9, dtype=torch.bool).tril()
    assert (weights[:, ~past] == 0).all() and (weights[:, past] > 0).all()


def test_heads_split_and_merge_back():
    x = torch.randn(2, 5, 12)
    parts = attention.split_heads(x, 3)
    assert parts.shape == (2, 3, 5, 4)
    assert torch.equal(parts[:, 1], x[:, :, 4:8])
    assert torch.equal(attention.merge_heads(parts), x)
    with pytest.raises(ValueError, match="12 cannot be shared out among 5"):
        attention.split_heads(x, 5)
