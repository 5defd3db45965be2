"""Pictures of the model: a block with its residual stream, all of GPT-2, the key/value cache, a step of training."""

from helpers.course import arms
from helpers.course.diagrams.svg import LARGE, SMALL, Drawing
from helpers.model import GPTConfig
from helpers.parameters import parameter_formula


def _branch(drawing, x, y, norm, part, kind, width):
    """A branch of the residual stream at height y: a copy goes up, through a LayerNorm and a part, and is added "
    "again."""
    top = y - 96
    drawing.arrow((x, y), (x, top), (x + 22, top), kind="stream")
    drawing.box(x + 24, top - 26, 66, 52, norm, "norm", mono=True, size=SMALL)
    drawing.arrow((x + 90, top), (x + 116, top), kind="stream")
    drawing.box(x + 118, top - 36, width, 72, part, kind, SMALL)
    end = x + 118 + width + 28
    drawing.arrow((x + 118 + width, top), (end, top), (end, y - 18), kind=kind)
    drawing.circle(end, y, 16, "+", "stream")
    return end


def _stages(drawing, config, block):
    """The stages of GPT-2 from left to right, with the shape of what leaves each and its parameters."""
    C, V, L = config.n_embd, config.vocab_size, config.n_layer
    boxes = [(24, 72, "ids", "plain", "(B, T)", ""),
             (130, 140, "wte + wpe", "embedding", "(B, T, C)",
              f"{V:,} × {C:,}\n+ {config.n_positions:,} × {C:,}"),
             (304, 260, "", "attention", "(B, T, C)", f"{L} × {block:,}"),
             (598, 70, "ln_f", "norm", "(B, T, C)", f"{2 * C:,}"),
             (704, 104, "lm_head", "embedding", "(B, T, V)", "tied: 0"), (848, 88, "logits", "plain", "", "")]
    for (x, width, name, kind, shape, number), following in zip(boxes, [*boxes[1:], None]):
        if name:
            drawing.box(x, 154, width, 64, name, kind, SMALL, mono=kind in ("norm", "embedding"))
        drawing.text(x + width / 2, 244, shape, SMALL, colour="muted")
        drawing.text(x + width / 2, 276, number, SMALL)
        if following:
            drawing.arrow((x + width, 186), (following[0] - 2, 186), kind="stream" if x > 24 else None, width=4)
    for i in range(L):  # the blocks, side by side
        drawing.box(304 + 260 / L * i, 154, 260 / L - 4, 64, "", "attention", radius=4)
    drawing.box(364, 166, 140, 40, f"{L} blocks", "plain", bold=True)
    drawing.arrow((304 + 130 / L - 2, 218), (304 + 130 / L - 2, 348), dash=True)


def _enlarged_block(drawing, config, block):
    """One block in a frame: two branches of the residual stream, with their parameters."""
    C = config.n_embd
    attention, mlp = 4 * C * C + 4 * C, 8 * C * C + 5 * C
    drawing.frame(24, 350, 912, 290)
    drawing.text(44, 376, f"one block, {block:,} parameters", SMALL, "start", bold=True)
    y = 560
    drawing.arrow((44, y), (922, y), kind="stream", width=9)
    heads = f"attention\n{config.n_head} heads of {C // config.n_head}"
    first = _branch(drawing, 66, y, "ln_1", heads, "attention", 170)
    second = _branch(drawing, first + 82, y, "ln_2", f"MLP with GELU\n{C:,} → {4 * C:,} → {C:,}", "mlp", 250)
    for x, count in ((66 + 57, "2C"), (66 + 118 + 85, f"4C² + 4C = {attention:,}"), (first + 82 + 57, "2C"),
                     (first + 82 + 118 + 125, f"8C² + 5C = {mlp:,}")):
        drawing.text(x, y - 96 - 52, count, SMALL)
    drawing.text(66, y + 34, "x", mono=True)
    drawing.text(first + 41, y + 34, "x_att", mono=True)
    drawing.text(second + 34, y + 34, "x_ff", mono=True)
    drawing.text(480, y + 62, f"the residual stream: T vectors of C = {C:,} numbers; x_ff is the next block's x", SMALL,
                 colour="stream")


def gpt2(config=None):
    """All of GPT-2 with its shapes, the parameters of every part, the tied matrix drawn once, and one block opened.

    config: a GPTConfig with tied embeddings (default: GPT-2 small, Model 5).
    """
    config = config or GPTConfig()
    C, V, L, counts = config.n_embd, config.vocab_size, config.n_layer, parameter_formula(config)
    attention, mlp = counts["attention"] // L, counts["MLP"] // L
    block = attention + mlp + 4 * C  # with two LayerNorms
    drawing = Drawing(
        "gpt2", "All of GPT-2", f"Token ids of shape (B, T) become vectors of shape (B, T, C) with C = {C}: a row of "
        f"the token embedding wte plus a row of the position embedding wpe. {L} blocks of {block:,} parameters each "
        "change these vectors. A last LayerNorm, ln_f, and the unembedding lm_head turn them into logits of shape "
        f"(B, T, V). lm_head and wte are one matrix of {V:,} x {C} numbers that is used twice. A block, enlarged: "
        "two branches leave the residual stream and are added to it again, first ln_1 and attention, with "
        f"{attention:,} parameters, then ln_2 and the MLP, with {mlp:,}. In all there are {counts['total']:,} "
        "parameters.", 664)
    drawing.text(480, 34, f"{counts['total']:,} parameters", LARGE, bold=True)
    drawing.box(110, 62, 720, 46, f"one matrix, two uses: wte = lm_head, V × C = {V:,} × {C:,}", "embedding")
    for x, says, side, anchor in ((200, "the row of each id", 14, "start"),
                                  (756, "product with every row", -14, "end")):
        drawing.arrow((x, 108), (x, 152), kind="embedding")
        drawing.text(x + side, 130, says, SMALL, anchor, colour="embedding")
    _stages(drawing, config, block)
    _enlarged_block(drawing, config, block)
    return drawing


def block():
    """A block as the tokens see it: attention moves information between tokens, the MLP works on each token alone."""
    drawing = Drawing(
        "block", "A block and its residual stream", "Four grey lines run from left to right: the vectors of four "
        "tokens, the residual stream. In the first half of the block a copy goes through LayerNorm and attention, "
        "where each token reads from itself and from earlier tokens, and the result is added to the lines: x_att = "
        "x + attn(ln_1(x)). In the second half a copy goes through LayerNorm and the MLP, which treats each token "
        "alone and widens its vector from C to 4C numbers and back, and the result is added again: x_ff = x_att + "
        "mlp(ln_2(x_att)).", 560)
    lanes = (394, 423, 452, 481)
    halves = ((70, "attention", "attention", "each reads from itself and from earlier tokens", "ln_1",
               "x_att = x + attn(ln_1(x))"),
              (510, "MLP", "mlp", "each by itself: C → 4C → GELU → C", "ln_2", "x_ff = x_att + mlp(ln_2(x_att))"))
    drawing.frame(24, 374, 912, 127)
    for y in lanes:
        drawing.arrow((64, y), (920, y), kind="stream", width=4)
    for name, y in zip("1234", lanes):
        drawing.text(46, y, name, SMALL, bold=True)
    for x, part, kind, says, norm, formula in halves:
        drawing.text(x + 205, 42, part, LARGE, bold=True, colour=kind)
        drawing.text(x + 205, 76, says, SMALL)
        drawing.arrow((x + 34, lanes[-1]), (x + 34, 300), kind="stream")
        drawing.text(x + 46, 346, "copies", SMALL, "start", colour="muted")
        drawing.box(x, 246, 68, 52, norm, "norm", SMALL, mono=True)
        drawing.arrow((x + 34, 246), (x + 34, 184), (x + 98, 184), kind="stream")
        drawing.box(x + 100, 100, 210, 168, "", kind)
        drawing.arrow((x + 310, 184), (x + 374, 184), (x + 374, lanes[0] - 14), kind=kind)
        drawing.arrow((x + 374, lanes[0]), (x + 374, lanes[-1]), kind=kind, head=False)
        drawing.text(x + 362, 346, "add", SMALL, "end", colour=kind)
        for y in lanes:
            drawing.raw(f'<circle cx="{x + 34}" cy="{y}" r="5" fill="var(--stream-line)"/>')
            drawing.circle(x + 374, y, 12, "+", kind, SMALL)
        drawing.text(x + 205, 530, formula, SMALL, mono=True)
    _exchange(drawing, 170, 100)
    _alone(drawing, 610, 100)
    return drawing


def _exchange(drawing, x, y):
    """Inside of attention: each token reads from itself and from the earlier ones."""
    heights = [y + 24 + 40 * i for i in range(4)]
    for i, target in enumerate(heights):
        for source in heights[: i + 1]:
            drawing.raw(f'<path d="M{x + 34} {source} L{x + 176} {target}" stroke="var(--attention-line)" '
                        'stroke-width="2" fill="none"/>')
    for height, name in zip(heights, "1234"):
        for left in (x + 34, x + 176):
            drawing.circle(left, height, 15, name, "stream", SMALL)


def _alone(drawing, x, y):
    """Inside of the MLP: each token goes its own way, through a wider layer."""
    for i, name in enumerate("1234"):
        height = y + 24 + 40 * i
        corners = ((34, 0), (74, -16), (136, -16), (176, 0), (136, 16), (74, 16))
        outline = " ".join(f"{x + dx},{height + dy}" for dx, dy in corners)
        drawing.raw(f'<polygon points="{outline}" fill="var(--plain)" stroke="var(--mlp-line)" stroke-width="2"/>')
        for left in (x + 34, x + 176):
            drawing.circle(left, height, 15, name, "stream", SMALL)
        drawing.text(x + 105, height, "4C", SMALL)


def _step_with_cache(drawing, stored):
    """One step of generation in one head: a new query meets all stored keys and takes from all stored values."""
    drawing.text(40, 318, "One step with a cache, in one head: q, k and v come from the new token only", SMALL, "start",
                 bold=True)
    drawing.box(40, 370, 84, 46, "q", "q", bold=True)
    drawing.text(82, 440, "(1, hs)", SMALL, colour="muted")
    drawing.arrow((124, 393), (212, 393), kind="q", label="meets", offset=(0, -18))
    for name, kind, y in (("keys", "k", 370), ("values", "v", 452)):
        drawing.grid(220, y, [[("", "stream")] * (stored - 1) + [(f"new {name[0]}", kind)]], 84, height=46)
        drawing.text(220, y - 18, name, SMALL, "start", colour=kind)
        drawing.raw(f'<rect x="216" y="{y - 4}" width="{84 * stored + 8}" height="54" rx="6" fill="none" '
                    f'stroke="var(--{kind}-line)" stroke-width="4"/>')
        drawing.arrow((224 + 84 * stored, y + 23), (684, y + 23), kind=kind)
    drawing.box(686, 370, 110, 46, "weights", "attention", SMALL)
    drawing.arrow((741, 416), (741, 450), kind="attention")
    drawing.box(686, 452, 110, 46, "sum", "attention", SMALL)
    drawing.arrow((796, 475), (836, 475), kind="attention")
    drawing.box(838, 452, 84, 46, "output", "plain", SMALL)
    drawing.text(220 + 42 * stored, 522, f"cache: (t, hs), here t = {stored}", SMALL, colour="muted")
    drawing.text(880, 522, "(1, hs)", SMALL, colour="muted")


def key_value_cache(prompt=3, new=3):
    """What generation computes at each step, without and with a cache of keys and values.

    prompt: tokens that are given; new: tokens that are added one by one.
    """
    panels = [("without a cache", False, 40), ("with a cache", True, 510)]
    counts = {is_cached: sum(1 if is_cached and step else prompt + step for step in range(new))
              for _, is_cached, _ in panels}
    drawing = Drawing(
        "key-value-cache", "The key/value cache", f"A prompt of {prompt} tokens is given and {new} tokens are "
        "generated, one per step. Without a cache each step computes the keys and values of all tokens again: in "
        f"these steps {counts[False]} vectors per block. With a cache each step computes those of the new token "
        f"only and reads the others from memory: {counts[True]} vectors. The new token needs one query, which meets "
        "all stored keys.", 560)
    cell = 66
    names = [f"{t}" for t in range(prompt + new - 1)]
    for heading, is_cached, left in panels:
        width = 80 + cell * len(names)
        drawing.text(left + width / 2, 40, f"{heading}: {counts[is_cached]} keys, {counts[is_cached]} values",
                     bold=True)
        drawing.text(left + 70, 84, "token", SMALL, "end", colour="muted")
        for step in range(new):
            length = prompt + step
            row = []
            for token in range(len(names)):
                is_new = token < length if step == 0 else token == length - 1
                again = not is_new and token < length and not is_cached
                kind = "k" if is_new else "wrong" if again else "stream"
                says = "new" if is_new else "again" if again else "kept"
                row.append((says, kind) if token < length else ("", "plain"))
            drawing.grid(left + 80, 106 + 58 * step, [row], cell, height=46, column_names=names if step == 0 else ())
            drawing.text(left + 70, 129 + 58 * step, f"step {step + 1}", SMALL, "end")
    _step_with_cache(drawing, prompt + new - 1)
    return drawing


def training_step():
    """One step of training: its phases in order, and what each of them reads and changes."""
    drawing = Drawing(
        "training-step", "One step of training", "Six phases in a loop. A batch of windows X and targets Y is "
        "drawn. The forward pass reads the parameters, stores activations and ends in the loss, one number. The "
        "backward pass reads activations and parameters and adds to the gradients, one for each parameter. "
        "Clipping scales the gradients if their norm is too large. The optimizer's step reads the gradients, "
        "updates its running means m and v, and moves the parameters. Then the gradients are cleared, and the next "
        "batch is drawn.", 532)
    phases = (("batch", "plain"), ("forward", "attention"), ("backward", "embedding"), ("clip", "embedding"),
              ("step", "mlp"), ("clear", "plain"))
    stores = {"activations": ("", "writes", "reads", "", "", ""), "parameters": ("", "reads", "reads", "", "moves", ""),
              "gradients": ("", "", "adds", "scales", "reads", "zeroes"),
              "Adam's m, v": ("", "", "", "", "updates", "")}
    left, wide = 158, 130
    for i, (name, kind) in enumerate(phases):
        x = left + wide * i
        drawing.box(x, 66, 106, 60, name, kind, SMALL)
        if i < len(phases) - 1:
            drawing.arrow((x + 106, 96), (x + wide - 2, 96))
    drawing.arrow((left + 5 * wide + 53, 66), (left + 5 * wide + 53, 30), (left + 53, 30), (left + 53, 64))
    for i, says in ((0, "X, Y"), (1, "logits, loss"), (2, "of the loss"), (3, "if too long"), (4, "AdamW")):
        drawing.text(left + wide * i + 53, 152, says, SMALL, colour="muted")
    for row, (store, cells) in enumerate(stores.items()):
        y = 188 + 74 * row
        drawing.text(144, y + 27, store, SMALL, "end")
        drawing.raw(f'<path d="M{left} {y + 27} H930" stroke="var(--edge)" stroke-width="2"/>')
        for i, cell in enumerate(cells):
            if cell:
                kind = "plain" if cell == "reads" else "result"
                drawing.box(left + wide * i, y, 106, 54, cell, kind, SMALL)
    for x, kind, says in ((290, "plain", "reads it"), (470, "result", "changes it")):
        drawing.box(x, 490, 26, 22, "", kind, radius=4)
        drawing.text(x + 38, 501, says, SMALL, "start")
    return drawing


# --- shapes of equal size ---------------------------------------------------------------------------------------------

SHAPES_LEFT, SHAPES_COLUMN = 36, 178
HIDDEN = 160 / 1408  # units for an element of a hidden layer: the widest one fits into a column


def shapes_of(axis):
    """Five models with equally many parameters (notebook 09): [(depth, width, MLP ratio)], by depth (axis 0) or by MLP
    ratio (axis 2)."""
    base = arms.RECIPES["laptop"].model
    shapes = [(arm.model["n_layer"], arm.model["n_embd"], arm.mlp_ratio)
              for arm in arms.ARMS.values() if arm.group == "shape"]
    series = [shape for shape in shapes if (shape[2] == 4 if axis == 0 else shape[0] == base.n_layer)]
    return sorted([*series, (base.n_layer, base.n_embd, 4)], key=lambda shape: shape[axis])


def shapes():
    """Ten shapes of models with as many parameters, to scale: five depths, and five MLP ratios."""
    deep, wide = shapes_of(0), shapes_of(2)
    drawing = Drawing(
        "shapes", "Equal parameters, other shapes", "Above, five models with about equally many parameters, to scale: "
        + ", ".join(f"{depth} block{'s' * (depth > 1)} of width {width}" for depth, width, _ in deep) + ". The more "
        "blocks are stacked on the embeddings, the narrower everything is. Below, one of the two blocks of five "
        "more: the residual stream and the hidden layer of its MLP, with MLP ratios of "
        + ", ".join(f"{ratio} (width {width})" for _, width, ratio in wide)
        + ". The wider the hidden layer is, the narrower is the residual stream.", 616)
    drawing.text(SHAPES_LEFT, 34, "depth: blocks on the embeddings", anchor="start", bold=True)
    drawing.text(924, 34, "widths to scale", SMALL, "end", colour="muted")
    drawing.text(SHAPES_LEFT, 446, "MLP ratio: hidden layer on the residual stream", anchor="start", bold=True)
    drawing.text(924, 446, "one of two blocks", SMALL, "end", colour="muted")
    for i, ((depth, width, _), (_, narrow, ratio)) in enumerate(zip(deep, wide)):
        middle = SHAPES_LEFT + (i + 0.5) * SHAPES_COLUMN
        for block in range(depth):
            drawing.box(middle - width / 2, 318 - 17 * block, width, 14, "", "attention", radius=3)
        drawing.box(middle - width / 2, 338, width, 24, "", "embedding", radius=3)
        drawing.text(middle, 382, f"{depth} x {width}", SMALL)
        drawing.box(middle - ratio * narrow * HIDDEN / 2, 478, ratio * narrow * HIDDEN, 28, "", "mlp", radius=3)
        drawing.box(middle - narrow * HIDDEN / 2, 512, narrow * HIDDEN, 28, "", "stream", radius=3)
        drawing.text(middle, 566, f"ratio {ratio}", SMALL)
        drawing.text(middle, 592, f"{narrow} wide", SMALL, colour="muted")
    return drawing


PICTURES = {"gpt2": gpt2, "block": block, "key-value-cache": key_value_cache, "training-step": training_step,
            "shapes": shapes}
