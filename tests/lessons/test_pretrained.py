"""Parity with Hugging Face: every tensor, every layer, the logits, the text. Weights that do not fit are named."""

import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from helpers import corpus
from helpers.generation import generate
from helpers.model import GPT, GPTConfig
from helpers.parameters import meta_model
from helpers.pretrained import TRANSPOSED, from_huggingface, load_gpt2, load_huggingface_gpt2, to_huggingface


def huggingface(vocab_size=211, n_positions=32, n_embd=48, n_layer=3, n_head=4, **others):
    """A random GPT-2 of Hugging Face's, with every parameter perturbed, biases and LayerNorms too."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_layer=n_layer, n_head=n_head,
        bos_token_id=0, eos_token_id=0, **others,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def random_ids(vocabulary, rows, length):
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("rows, length", [(1, 1), (3, 7), (2, 32)])
def test_tiny_model_agrees_layer_by_layer_and_at_the_end(rows, length):
    theirs = huggingface()
    ours, ids = from_huggingface(theirs), random_ids(211, rows, length)
    ours_by_layer = []
    for block in ours.transformer.h:
        block.register_forward_hook(lambda module, inputs, output: ours_by_layer.append(output))
    with torch.no_grad():
        expected, logits = theirs(ids, output_hidden_states=True), ours(ids)
    assert len(ours_by_layer) == 3
    for mine, hidden in zip(ours_by_layer[:-1], expected.hidden_states[1:]):
        torch.testing.assert_close(mine, hidden, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.transformer.ln_f(ours_by_layer[-1]), expected.hidden_states[-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)


def test_loss_and_gradients_agree():
    theirs = huggingface(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0).train()
    ours, ids = from_huggingface(theirs), random_ids(211, 2, 20)
    ours(ids[:, :-1], ids[:, 1:]).backward()
    theirs(ids, labels=ids).loss.backward()
    for name, parameter in ours.named_parameters():
        gradient = theirs.get_parameter(name).grad
        gradient = gradient.T if gradient.shape != parameter.shape or name.endswith("attn.c_proj.weight") else gradient
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_gpt2_smalls_widths_agree():
    """Two of its twelve blocks are enough: the blocks are alike. The next test has the names and shapes of all."""
    theirs = huggingface(50257, 1024, 768, n_layer=2, n_head=12)
    ours = from_huggingface(theirs)
    assert ours.config == GPTConfig(n_layer=2, dropout=0.1) and ours.lm_head.weight is ours.transformer.wte.weight
    ids = random_ids(50257, 1, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-5)


def test_gpt2_small_has_hugging_faces_tensors():
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config()).state_dict()
    ours = meta_model(GPTConfig()).state_dict()
    shapes = {name: tensor.T.shape if name.endswith(TRANSPOSED) else tensor.shape for name, tensor in theirs.items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes and len(shapes) == 149


@pytest.mark.slow
def test_real_attention_weights_agree(real_files):
    stored = real_files / "gpt2-small" / "attention_fp16.safetensors"
    if not stored.is_file():
        pytest.skip("this assets folder has no GPT-2 attention weights")
    theirs = huggingface(1000, 1024, 768, 12, 12)
    with safe_open(stored, "pt") as file, torch.no_grad():
        for name in file.keys():
            theirs.get_parameter(name).copy_(file.get_tensor(name))
    ours, ids = from_huggingface(theirs), random_ids(1000, 2, 40)
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        x = ours.transformer.wte(ids) + ours.transformer.wpe(torch.arange(40))
        for block, hidden in zip(ours.transformer.h[:-1], expected.hidden_states[1:]):
            x = block(x)
            torch.testing.assert_close(x, hidden, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(ours(ids), expected.logits, atol=1e-4, rtol=1e-4)


def test_converting_to_model_5_and_back_changes_nothing():
    theirs = huggingface()
    again = to_huggingface(from_huggingface(theirs)).state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.3])
def test_dropout_comes_along_both_ways(dropout):
    theirs = huggingface(embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout).train()
    ours, ids = from_huggingface(theirs), random_ids(211, 2, 20)
    assert ours.config.dropout == dropout and ours.training
    with torch.no_grad():
        assert torch.equal(ours(ids), ours(ids)) == (dropout == 0)
        assert torch.equal(ours.eval()(ids), ours(ids))
    again = to_huggingface(ours).config
    assert (again.embd_pdrop, again.attn_pdrop, again.resid_pdrop) == (dropout,) * 3


def test_three_different_dropouts_are_refused():
    with pytest.raises(ValueError, match="embd_pdrop=0.1, attn_pdrop=0.2, resid_pdrop=0.1: .* one dropout"):
        from_huggingface(huggingface(embd_pdrop=0.1, attn_pdrop=0.2, resid_pdrop=0.1))


def test_untied_and_half_precision_models():
    untied = from_huggingface(huggingface(tie_word_embeddings=False))
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert not torch.equal(untied.lm_head.weight, untied.transformer.wte.weight)
    assert from_huggingface(huggingface().bfloat16()).transformer.wte.weight.dtype == torch.bfloat16


def test_greedy_text_agrees():
    theirs = huggingface()
    ids = random_ids(211, 1, 5)
    expected = theirs.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(generate(from_huggingface(theirs), ids, 20, top_k=1), expected)


def test_wrong_models_are_refused_by_name():
    with pytest.raises(TypeError, match="BertForMaskedLM"):
        from_huggingface(BertForMaskedLM(BertConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=1)))
    with pytest.raises(ValueError, match="activation_function='relu'"):
        from_huggingface(huggingface(activation_function="relu"))
    with pytest.raises(ValueError, match="n_inner=100"):
        from_huggingface(huggingface(n_inner=100))


def test_missing_extra_and_misshapen_tensors_are_all_named(monkeypatch):
    theirs = huggingface()
    state = theirs.state_dict()
    del state["transformer.h.1.ln_2.bias"]
    state["transformer.extra.weight"] = torch.zeros(1)
    state["transformer.wpe.weight"] = torch.zeros(8, 48)
    monkeypatch.setattr(theirs, "state_dict", lambda: state)
    with pytest.raises(ValueError) as error:
        from_huggingface(theirs)
    assert "h.1.ln_2.bias is missing" in str(error.value)
    assert "transformer.extra.weight has no place" in str(error.value)
    assert "(8, 48), Model 5's has (32, 48)" in str(error.value)


@pytest.mark.offline
def test_load_gpt2_offline_gives_the_courses_model_and_prints_one_line(offline, capsys):
    model = load_gpt2()
    assert isinstance(model, GPT) and not model.training
    assert model.config.vocab_size == 8192
    output = capsys.readouterr().out
    assert output.count("Stand-in") == 1 and "the course's GPT-2" in output
    theirs = load_huggingface_gpt2()
    assert capsys.readouterr().out == ""
    ids = corpus.tokenizer_for(8192).encode("The people of the island")[None]
    assert next(theirs.parameters()).dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
