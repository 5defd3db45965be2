"""The views of notebooks 01 and 04, which answer to sliders, clicks and the mouse.

Each is a page that runs by itself in the notebook, also in a stored one (views_pages). Only a text of one's own needs a
running kernel, and ipywidgets 7.7 (Colab's) or newer for the field in which it is typed.
"""

import functools
import math

import torch

from helpers import attention
from helpers.course import figures, views_pages
from helpers.course.text_statistics import entropy
from helpers.generation import next_token_probabilities

SETTINGS = views_pages.SETTINGS


def attention_steps(q, k, v, labels):
    """Shows one head step by step: scores, mask, softmax, sum, for the token that looks. q, k, v: (T, d)."""
    page = views_pages.attention_steps(q, k, v, labels)
    q, k, v = (torch.as_tensor(matrix).detach().cpu() for matrix in (q, k, v))
    rows = sorted({0, (len(labels) - 1) // 2, len(labels) - 1})
    views_pages.show(page, "steps", functools.partial(figures.plot_attention_steps, q, k, v, labels, rows),
                     "Attention step by step: scores, mask, softmax and weighted sum for the chosen token")


def next_token(model, tokenizer, text):
    """Shows the distribution of the next token after a text, with sliders, and a field for other texts."""
    _show_for_texts(_show_next_token, model, tokenizer, text)


def heads(model, tokenizer, text):
    """Shows the attention maps of all heads for a text, one of them large, and a field for other texts."""
    _show_for_texts(_show_heads, model, tokenizer, text)


def _show_for_texts(show, model, tokenizer, text):
    """Calls show(model, tokenizer, text), and again below a field, whenever another text is entered there.

    A ValueError for a text that was typed is shown as its message.
    """
    show(model, tokenizer, text)
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        return
    layout = ipywidgets.Layout(width="36em", max_width="95%")
    field = ipywidgets.Text(description="Your text", placeholder="then Enter", continuous_update=False, layout=layout)

    def show_or_explain(text):
        try:
            if text:
                show(model, tokenizer, text)
        except ValueError as error:
            print(error)

    box = ipywidgets.VBox([field, ipywidgets.interactive_output(show_or_explain, {"text": field})])
    box.add_class("course-view-text")
    display(box)


def _ids(model, tokenizer, text):
    """(1, T) on the model's device. Raises ValueError for an empty text or one that is longer than the context."""
    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.n_positions:
        raise ValueError(f"A text of {len(ids)} tokens: expected between 1 and {model.config.n_positions}.")
    return ids[None].to(next(model.parameters()).device)


def _logits(model, tokenizer, text):
    """(V,): those of the next token, on the CPU."""
    return model(_ids(model, tokenizer, text), last_only=True)[0, -1].detach().float().cpu()


# --- the next token --------------------------------------------------------------------------------------------------


def _show_next_token(model, tokenizer, text):
    page = views_pages.next_token(_logits(model, tokenizer, text), tokenizer, text)
    draw = functools.partial(draw_next_tokens, model, tokenizer, text)
    views_pages.show(page, "next-token", draw, f"The likeliest next tokens after “{text[-50:]}” under several settings")


def next_token_panels(model, tokenizer, text, settings, count=12):
    """The likeliest next tokens after a text as strings, and their probabilities under each of the settings.

    settings: {name: arguments of next_token_probabilities} -> (strings, {heading: probabilities}); a heading also gives
    the entropy, and the number of equally likely tokens with that entropy. Raises ValueError for an empty text.
    """
    logits = _logits(model, tokenizer, text)
    top = logits.topk(min(count, len(logits))).indices
    panels = {}
    for name, chosen in settings.items():
        probabilities = next_token_probabilities(logits, **chosen)
        nats = entropy(probabilities).item()
        choices = math.exp(nats)
        heading = f"{name}\n{nats:.2f} nats = {choices:,.{0 if choices > 99 else 1}f} tokens"
        panels[heading] = probabilities[top].tolist()
    return [repr(tokenizer.decode([token])) for token in top.tolist()], panels


def draw_next_tokens(model, tokenizer, text, settings=SETTINGS):
    """The figure of the view where nothing can be run: one panel of bars for each of the settings. Returns its axes."""
    # Several panels of 12 bars would be too small to read from the back row.
    tokens, panels = next_token_panels(model, tokenizer, text, settings, count=12 if len(settings) == 1 else 7)
    return figures.plot_next_tokens(panels, tokens, f"The next token after “{text[-50:]}”")


# --- the heads -------------------------------------------------------------------------------------------------------


def _show_heads(model, tokenizer, text):
    maps = attention.attention_maps(model, _ids(model, tokenizer, text))  # (L, nh, T, T)
    strongest = maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1) if maps.shape[-1] > 1 else maps[..., 0, 0]
    layer, head = divmod(strongest.argmax().item(), maps.shape[1])  # the head that looks at the token before most
    page = views_pages.heads(maps, tokenizer.pieces(text), layer, head)
    views_pages.show(page, "heads", functools.partial(draw_heads, model, tokenizer, text),
                     f"The attention maps of all {maps.shape[0] * maps.shape[1]} heads on “{text[:50]}”")


def draw_heads(model, tokenizer, text):
    """The figure of the view where nothing can be run: the maps of all heads, small. Returns its axes."""
    maps = attention.attention_maps(model, _ids(model, tokenizer, text))
    return figures.plot_head_grid(maps, f"All {maps.shape[0] * maps.shape[1]} heads on “{text[:50]}”")
