"""Interactive views for JupyterLab and Colab (notebooks 01 and 04), and static grids that show the same on one page.

A view needs ipywidgets, version 7.7 (Colab's) or newer. The grids need neither ipywidgets nor a running kernel.
"""

import math

from helpers import attention
from helpers.course import figures
from helpers.course.text_statistics import entropy
from helpers.generation import next_token_probabilities

SETTINGS = {
    "temperature 0.1": {"temperature": 0.1}, "temperature 1": {}, "temperature 10": {"temperature": 10.0},
    "top-k 3": {"top_k": 3}, "top-p 0.3": {"top_p": 0.3},
    "temperature 2, top-p 0.9": {"temperature": 2.0, "top_p": 0.9},
}


def show(draw, make_controls):
    """Displays controls, and below them what draw(**values) draws, updated whenever a value changes.

    make_controls(ipywidgets) -> {name of an argument: widget}. A ValueError from draw is shown as its message.
    """
    print("The controls work in JupyterLab and in Colab. The next figure shows the same without them.")
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        return

    def draw_or_explain(**values):
        try:
            draw(**values)
        except ValueError as error:
            print(error)

    controls = make_controls(ipywidgets)
    box = ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(draw_or_explain, controls)])
    box.add_class("course-view")
    display(box)


def _control(widgets, kind, label, *arguments, **settings):
    """A control with its label beside it, which acts when it is released."""
    style, layout = {"description_width": "9em"}, widgets.Layout(width="36em")
    return kind(*arguments, description=label, continuous_update=False, style=style, layout=layout, **settings)


# Notebook 01: attention step by step


def attention_steps(q, k, v, labels):
    """Controls for the token that attends and for the step: scores, mask, softmax, sum. q, k, v: (T, d)."""

    def controls(widgets):
        last = len(labels) - 1
        return {"token": _control(widgets, widgets.IntSlider, "token that looks", last, 0, last),
                "step": _control(widgets, widgets.IntSlider, "step", 1, 1, 4)}

    show(lambda token, step: figures.plot_attention_steps(q, k, v, labels, [token], step), controls)


# Notebook 04: the next token


def next_token_panels(model, tokenizer, text, settings, count=12):
    """The likeliest next tokens after a text as strings, and their probabilities under each of the settings.

    settings: {name: arguments of next_token_probabilities} -> (strings, {heading: probabilities}); a heading also gives
    the entropy, and the number of equally likely tokens with that entropy. Raises ValueError for an empty text.
    """
    logits = model(_ids(model, tokenizer, text), last_only=True)[0, -1].detach().float().cpu()  # (V,)
    top = logits.topk(min(count, len(logits))).indices
    panels = {}
    for name, chosen in settings.items():
        probabilities = next_token_probabilities(logits, **chosen)
        nats = entropy(probabilities).item()
        choices = math.exp(nats)
        heading = f"{name}\n{nats:.2f} nats = {choices:,.{0 if choices > 99 else 1}f} tokens"
        panels[heading] = probabilities[top].tolist()
    return [repr(tokenizer.decode([token])) for token in top.tolist()], panels


def _ids(model, tokenizer, text):
    """(1, T) on the model's device."""
    ids = tokenizer.encode(text)
    if not 0 < len(ids) <= model.config.n_positions:
        raise ValueError(f"A text of {len(ids)} tokens: expected between 1 and {model.config.n_positions}.")
    return ids[None].to(next(model.parameters()).device)


def draw_next_tokens(model, tokenizer, text, settings=SETTINGS):
    """The figure: one panel of bars for each of the settings."""
    # Several panels of 12 bars would be too small to read from the back row.
    tokens, panels = next_token_panels(model, tokenizer, text, settings, count=12 if len(settings) == 1 else 7)
    return figures.plot_next_tokens(panels, tokens, f"The next token after “{text[-50:]}”")


def next_token(model, tokenizer, text):
    """Controls for text, temperature, top-k (0: all) and top-p, above the distribution of the next token."""

    def controls(widgets):
        return {"text": _control(widgets, widgets.Text, "text", text),
                "temperature": _control(widgets, widgets.FloatLogSlider, "temperature", 1.0, min=-1, max=1, step=0.05),
                "top_k": _control(widgets, widgets.IntSlider, "top-k (0: all)", 0, 0, 50),
                "top_p": _control(widgets, widgets.FloatSlider, "top-p", 1.0, min=0.05, max=1, step=0.05)}

    def draw(text, temperature, top_k, top_p):
        chosen = {"temperature": temperature, "top_k": top_k or None, "top_p": top_p}
        name = f"temperature {temperature:.2g}, top-k {top_k or 'off'}, top-p {top_p:.2g}"
        draw_next_tokens(model, tokenizer, text, {name: chosen})

    show(draw, controls)


# Notebook 04: the heads


def draw_heads(model, tokenizer, text):
    """The figure: the attention maps of all heads, small."""
    maps = attention.attention_maps(model, _ids(model, tokenizer, text))
    return figures.plot_head_grid(maps, f"All {maps.shape[0] * maps.shape[1]} heads on “{text[:50]}”")


def heads(model, tokenizer, text):
    """Controls for the sentence, the layer and the head, above that head's map."""

    def controls(widgets):
        last_layer, last_head = model.config.n_layer - 1, model.config.n_head - 1
        return {"text": _control(widgets, widgets.Text, "sentence", text),
                "layer": _control(widgets, widgets.IntSlider, "layer", 0, 0, last_layer),
                "head": _control(widgets, widgets.IntSlider, "head", 0, 0, last_head)}

    def draw(text, layer, head):
        maps = attention.attention_maps(model, _ids(model, tokenizer, text))
        labels = [repr(piece)[1:-1] for piece in tokenizer.pieces(text)]
        figures.plot_matrices({f"layer {layer}, head {head}": maps[layer, head]}, "Where this head looks", labels)

    show(draw, controls)
