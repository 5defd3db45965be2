"""The course's views as pages of HTML that need neither a kernel nor a network, and how a notebook shows them.

    attention_steps, next_token, heads     each returns one page; *.html in this folder are their templates
    show                                   shows a page in a notebook, as it also stands in the stored notebook
    python -m helpers.course.views_pages   renews docs/views and docs/images/attention_steps.svg
"""

import base64
import html
import io
import json
from pathlib import Path
from string import Template

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib.colors import to_hex
from PIL import Image

from helpers.course.views_pages import frames

FOLDER = Path(__file__).parent
EXACT = 200  # logits that a page holds one by one; all others are counted in bins
BINS = 160
MOST_TOKENS = 40  # in a map of a head
COLOURS = matplotlib.colormaps["cividis"]

SETTINGS = {
    "temperature 0.1": {"temperature": 0.1}, "temperature 1": {}, "temperature 10": {"temperature": 10.0},
    "top-k 3": {"top_k": 3}, "top-p 0.3": {"top_p": 0.3},
    "temperature 2, top-p 0.9": {"temperature": 2.0, "top_p": 0.9},
}


# --- pages -----------------------------------------------------------------------------------------------------------


def fill(name, title, data, **parts):
    """The template of this name with its data, as a complete page."""
    words = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    body = Template((FOLDER / f"{name}.html").read_text(encoding="utf-8")).substitute(data=words, **parts)
    style = frames.palette(":root") + (FOLDER / "style.css").read_text(encoding="utf-8")
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>\n'
            f"<body>\n{body}</body></html>\n")


def attention_steps(q, k, v, labels):
    """The page that goes through one head step by step, token by token. q, k: (T, d), v: (T, m), labels: T texts."""
    steps = frames.steps_of(q, k, v, labels)
    panels = (f'<style>{frames.STYLE}</style><svg width="0" height="0" style="position:absolute" aria-hidden="true">'
              f'<defs>{frames.hatch("masked")}</defs></svg>')
    for index, (title, formula) in enumerate(frames.HEADINGS):
        above, content = frames.panel(steps, index, "masked")
        panels += (f'<svg viewBox="0 0 {frames.PANEL_WIDTH} {steps.height:.0f}" role="img" '
                   f'aria-label="{html.escape(f"{title}: {formula}")}">{above}<g class="content">{content}</g></svg>\n')
    data = {"labels": steps.labels, "said": frames.sentences(steps)}
    return fill("steps", "Attention step by step", data, panels=panels)


def next_token(logits, tokenizer, text, settings=None, count=10):
    """The page with the distribution of the next token. logits: (V,), of the text's last position.

    settings: {name: arguments of next_token_probabilities} that stand beside one's own setting (default: SETTINGS).
    """
    ordered, ids = logits.detach().float().cpu().sort(descending=True)
    first, rest = ordered[:EXACT], ordered[EXACT:].double().numpy()
    counts, edges = np.histogram(rest, BINS) if len(rest) else ([], [])
    sums = np.histogram(rest, edges, weights=rest)[0] if len(rest) else []
    bins = [[round(total / number, 3), int(number)] for total, number in zip(sums, counts) if number][::-1]
    settings = [{"name": name, "temperature": 1, "top_k": None, "top_p": 1} | chosen
                for name, chosen in (settings or SETTINGS).items()]
    tokens = [shortened(repr(tokenizer.decode([token])), 10) for token in ids[:count].tolist()]
    data = {"text": shortened(text, 60), "tokens": tokens, "logits": [round(logit, 3) for logit in first.tolist()],
            "bins": bins, "settings": settings}
    return fill("next_token", "The next token", data)


def heads(maps, labels, layer=0, head=0):
    """The page with the attention maps of all heads. maps: (L, nh, T, T), labels: T texts. ValueError: T > 40."""
    maps = torch.as_tensor(maps).detach().float().cpu()
    L, nh, T = maps.shape[:3]
    if not 0 < T <= MOST_TOKENS:
        raise ValueError(f"A text of {T} tokens: the view has room for 1 to {MOST_TOKENS}.")
    triangle = torch.tril_indices(T, T)
    hundredths = (maps[..., triangle[0], triangle[1]] * 100).round().to(torch.uint8).numpy()  # (L, nh, T (T + 1) / 2)
    labels = [shortened(label.strip() or repr(label)[1:-1], 12) for label in labels]
    size = max(9, min(17, 340 // T))
    widest = max(frames.text_width(label, size) for label in labels)
    data = {"layers": L, "heads": nh, "labels": labels, "layer": layer, "head": head, "left": round(widest + 12),
            "top": round(0.75 * widest + 24), "maps": base64.b64encode(hundredths.tobytes()).decode(),
            "colours": [to_hex(colour) for colour in COLOURS(range(0, 256, 5))]}
    return fill("heads", "Where each head looks", data, heads=nh, font=size, size=f"{min(52, 400 // max(nh, L))}px")


def shortened(text, length):
    """A text of at most this length, which ends in … if something is missing, or begins with it if it has words."""
    if len(text) <= length:
        return text
    return "…" + text[1 - length:] if " " in text.strip() else text[: length - 1] + "…"


# --- in a notebook ---------------------------------------------------------------------------------------------------

# The height of each view: its parts beside each other on a wide screen, below each other on a narrower one, on a phone.
# 100cqi is the width of the output.
HEIGHTS = {"steps": ("min(122px + 34cqi, 520px)", "min(160px + 140cqi, 1000px)", "198px + 140cqi"),
           "next-token": ("min(96px + 53cqi, 720px)", "122px + 203cqi", "480px"),
           "heads": ("615px", "1020px", "min(264px + 170cqi, 1030px)")}


def embedded(page, kind, picture, alt):
    """HTML with a page in a frame of its own, for a notebook's output.

    kind: a key of HEIGHTS. picture: a PNG as bytes, for viewers that show no frames, such as GitHub's: these also leave
    out the style that hides it elsewhere. alt: its alternative text.
    """
    wide, narrow, phone = HEIGHTS[kind]
    own = f".course-view-{kind}"
    style = (f"{own}{{container-type:inline-size;max-width:1160px}}{own} img{{display:none!important}}"
             f"{own} iframe{{width:100%;height:calc({wide});border:0}}"
             f"@container (max-width:839px){{{own} iframe{{height:calc({narrow})}}}}"
             f"@container (max-width:520px){{{own} iframe{{height:calc({phone})}}}}")
    source, alt = page.replace("&", "&amp;").replace("'", "&#39;"), html.escape(alt)
    return (f'<style>{style}</style><div class="course-view course-view-{kind}"><img alt="{alt}" '
            f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
            f"<iframe title=\"{alt}\" srcdoc='{source}'></iframe></div>")


def as_png(draw, dots=64):
    """The figure that draw() makes and whose axes it returns, as the bytes of a PNG, without showing it."""
    with capture_output(stdout=False, stderr=False):
        figure = np.ravel(draw())[0].figure
    file, small = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=dots)
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def show(page, kind, draw, alt):
    """Shows a page in a notebook. draw: makes the figure that stands for it where nothing can be run."""
    display({"text/html": embedded(page, kind, as_png(draw), alt), "text/plain": alt}, raw=True)
