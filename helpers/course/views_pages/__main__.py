"""Writes the course's views of its own GPT-2: python -m helpers.course.views_pages."""

import torch

from helpers import attention, corpus, pretrained
from helpers.course import views_pages
from helpers.course.views_pages import frames
from helpers.machine import assets

SENTENCE, LAYER, HEAD = "The ship was old so it", 4, 2  # a head in which “it” looks back at the noun
PROMPT = "The captain told me that"
TITLE = f"A head of the course's GPT-2 reads “{SENTENCE}” (layer {LAYER}, head {HEAD})"


def head_of(model, ids, layer, head):
    """The queries, keys and values (T, hs) of one head for the text ids (1, T)."""
    collected = []
    hook = model.transformer.h[layer].attn.c_attn.register_forward_hook(lambda *call: collected.append(call[-1]))
    try:
        model(ids)
    finally:
        hook.remove()
    return [attention.split_heads(part, model.config.n_head)[0, head] for part in collected[0].chunk(3, dim=-1)]


@torch.no_grad()
def pages():
    """{path below the course's folder: text} of all pages and of the animation."""
    model = pretrained.load_course_gpt2().eval()
    tokenizer = corpus.tokenizer_for(model.config.vocab_size)
    ids, labels = tokenizer.encode(SENTENCE)[None], tokenizer.pieces(SENTENCE)
    q, k, v = head_of(model, ids, LAYER, HEAD)
    logits = model(tokenizer.encode(PROMPT)[None])[0, -1]
    maps = attention.attention_maps(model, ids)
    return {"docs/images/attention_steps.svg": frames.animation(frames.steps_of(q, k, v, labels), TITLE),
            "docs/views/attention_steps.html": views_pages.attention_steps(q, k, v, labels),
            "docs/views/heads.html": views_pages.heads(maps, labels, LAYER, HEAD),
            "docs/views/next_token.html": views_pages.next_token(logits, tokenizer, PROMPT)}


def main():
    """Writes them, and names each with its size."""
    for name, text in pages().items():
        path = assets.ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(text.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
