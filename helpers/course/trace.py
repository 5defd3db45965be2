"""The way of the data through a GPT-2: the output of each module, its parameters, and how much it computes.

    steps = trace(model, ids)   # one forward pass, followed with hooks; on the `meta` device it needs no weights
    plot_trace(steps)           # a picture of it
"""

import math
import re
from dataclasses import dataclass
from itertools import groupby

import torch
from IPython.display import display
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from helpers.course.diagrams.svg import SMALL, Drawing
from helpers.machine.inputs import check_ids

# PyTorch's counter knows the attention kernels of CUDA, but not those of a CPU or of Apple's GPU.
_ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math_for_mps")
_COUNTED = {getattr(torch.ops.aten, name): lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
            for name in _ATTENTION if hasattr(torch.ops.aten, name)}


PARTS = ("wte", "wpe", "h", "ln_f")  # of every GPT-2, under OpenAI's names


@dataclass(frozen=True)
class Step:
    """A module in the order of the data's flow. Parameters and FLOPs are its own, without those of modules inside."""

    name: str  # such as "transformer.h.0.attn.c_attn"; "" is the whole model
    kind: str  # the name of its class
    depth: int  # 0 for the whole model, 1 for what lies directly in it, ...
    shape: tuple  # of its output
    parameters: int  # a tensor that two modules share counts where it is used first
    flops: int  # of its matrix products: 2 for each multiplication and addition
    tied_to: str | None  # the module that has used its weight before, if the two share it


@dataclass(frozen=True)
class Trace:
    """One forward pass. sizes: B, T, C, V, nh, hs and their values. Iterating over it gives its steps."""

    model: str  # the name of the model's class
    sizes: dict
    steps: tuple

    def __iter__(self):
        return iter(self.steps)

    def total(self, prefix=""):
        """The (parameters, FLOPs) of a module with all that lies inside it. prefix: its name; "": the whole model."""
        inside = [step for step in self.steps if not prefix or f"{step.name}.".startswith(f"{prefix}.")]
        return sum(step.parameters for step in inside), sum(step.flops for step in inside)

    def rows(self):
        """The steps as rows for show_table, without the modules that have neither parameters nor FLOPs."""
        return [{"module": step.name, "class": step.kind, "output": self.letters(step),
                 "shape": "(" + ", ".join(f"{size:,}" for size in step.shape) + ")", "parameters": step.parameters,
                 "FLOPs": step.flops, "shares its weight with": step.tied_to}
                for step in self.steps if step.parameters or step.flops]

    def letters(self, step):
        """The shape of a step's output in letters, such as (B, T, 3C)."""
        width, C = step.shape[-1], self.sizes["C"]
        multiple = "C" if width == C else f"{width // C}C" if width % C == 0 else str(width)
        last = "V" if step.name == "lm_head" else multiple
        before = ["T"] if len(step.shape) == 2 else ["1" if step.name.endswith("wpe") else "B", "T"]
        return f"({', '.join([*before, last])})"


def trace(model, ids):
    """Follows one forward pass through a GPT-2, in evaluation mode and without gradients.

    model: a helpers.model.GPT, or transformers' GPT2LMHeadModel or GPT2Model, on any device. ids: (B, T) int64; on the
    `meta` device nothing is computed, so a model of any size takes about a second. Returns a Trace.
    Raises TypeError for another model, or if ids are no tensor; ValueError for ids that the model cannot read.
    """
    transformer = _transformer_of(model)
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"ids are a {type(ids).__name__}; expected a tensor (B, T) of int64, such as "
                        "torch.tensor([[464, 3290]]).")
    if ids.numel() == 0:
        raise ValueError(f"ids have the shape {tuple(ids.shape)}: there is nothing to follow. Give at least one id.")
    check_ids(ids, "ids", model.config, look=ids.device.type == "cpu")
    found, training = [], model.training
    counter = FlopCounterMode(display=False, custom_mapping=_COUNTED)
    hooks = [hook for name, module in model.named_modules() if not isinstance(module, torch.nn.ModuleList)
             for hook in _hooks(name, module, counter, found)]
    try:
        with torch.no_grad(), counter:
            model.eval()(ids.to(transformer.wte.weight.device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    nh, C = model.config.n_head, model.config.n_embd
    sizes = {"B": ids.shape[0], "T": ids.shape[1], "C": C, "V": model.config.vocab_size, "nh": nh, "hs": C // nh}
    return Trace(type(model).__name__, sizes, tuple(_steps(found)))


def _transformer_of(model):
    """The part with the embeddings and the blocks. TypeError unless the model is a GPT-2."""
    transformer = getattr(model, "transformer", model)
    is_gpt2 = isinstance(model, torch.nn.Module) and all(hasattr(transformer, part) for part in PARTS)
    others = {name for name, _ in model.named_children()} - {"transformer", "lm_head"} if is_gpt2 else set()
    if not is_gpt2 or (transformer is not model and others):
        raise TypeError(f"trace() follows a helpers.model.GPT, or transformers' GPT2LMHeadModel or GPT2Model; this is "
                        f"a {type(model).__name__}.")
    return transformer


def _hooks(name, module, counter, found):
    """Two hooks that note a module in `found` when it begins, and its output's shape and FLOPs when it ends."""
    note = {"name": name, "module": module}

    def begin(*_):
        note["flops"] = -counter.get_total_flops()
        found.append(note)

    def end(_module, _inputs, output):
        output = getattr(output, "logits", getattr(output, "last_hidden_state", output))
        output = output[0] if isinstance(output, tuple) else output
        note["shape"] = tuple(output.shape)
        note["flops"] += counter.get_total_flops()

    return module.register_forward_pre_hook(begin), module.register_forward_hook(end)


def _steps(found):
    """The notes of the hooks as Steps: parameters and FLOPs that belong to no module inside."""
    owner = {}
    for note in found:
        name, module = note["name"], note["module"]
        own = dict(module.named_parameters(recurse=False))
        tied = next((owner[id(parameter)] for parameter in own.values() if id(parameter) in owner), None)
        new = [parameter for parameter in own.values() if id(parameter) not in owner]
        owner.update({id(parameter): name for parameter in new})
        children = [f"{name}.{child}".lstrip(".") for child, _ in module.named_modules() if child]
        inside = [other for other in found if other["name"] in children]
        outermost = [other for other in inside  # a module inside another one has been counted there
                     if not any(other["name"].startswith(f"{one['name']}.") for one in inside)]
        yield Step(name, type(module).__name__, name.count(".") + bool(name), note["shape"],
                   sum(parameter.numel() for parameter in new), note["flops"] - sum(one["flops"] for one in outermost),
                   tied)


# --- the picture -----------------------------------------------------------------------------------------------------

ROW, BAND = 37, 27  # heights of a row and of a band
CENTRE, NARROW, WIDE = 352, 150, 270  # x of the bands' middle; width of a band of C elements, and of the widest one
SKIP = 506  # x of the detours of the residual sums
COLUMNS = {"parameters": 536, "FLOPs": 744}  # x of the bars
LONGEST = 192  # of a bar
KINDS = {"wte": "embedding", "wpe": "embedding", "lm_head": "embedding", "ln": "norm", "attn": "attention",
         "mlp": "mlp"}  # what a name begins with: its colour


@dataclass(frozen=True)
class Stage:
    """A row of the picture. wide: the elements for each token, which set the width of its band."""

    label: str
    letters: str
    wide: int
    kind: str
    parameters: int = 0
    flops: int = 0
    tied_to: str | None = None


def plot_trace(steps):
    """Shows a trace as a picture: from top to bottom the shapes, and beside them the parameters and FLOPs.

    steps: the result of trace(). Of blocks that are equal, one is drawn. Bars inside its frame are shares of one block,
    the others are shares of the whole model.
    """
    display(draw_trace(steps))


def draw_trace(steps):
    """The picture of plot_trace, as a helpers.course.diagrams.svg.Drawing."""
    begin, groups, end = _stages(steps)
    largest = max(len(group) for _, _, group in groups)
    name = "-".join(map(str, ("trace", steps.model.lower(), steps.total()[0], *steps.sizes.values())))
    drawing = Drawing(name, f"The data's way through {steps.model}", _describe(steps, begin, groups, end), height=0)
    picture, total = _Picture(drawing, steps), steps.total()
    for stage in begin:
        picture.row(stage, total)
    for whole, inside, group in groups:
        if len(group) == largest:
            picture.block(whole, inside, len(group))
            largest = None  # one is enough
        picture.row(whole, total)
    for stage in end:
        picture.row(stage, total)
    picture.finish()
    return drawing


def _stages(steps):
    """The rows of a trace: those before the blocks, groups of equal blocks as (all of them, inside one, their numbers),
    and those after the blocks."""
    shown = [step for step in steps if step.parameters or step.flops or step.tied_to]
    outside = [_stage(steps, step) for step in shown if not re.search(r"(^|\.)h\.", step.name)]
    ids = Stage("ids", "(B, T)", 1, "plain")
    split = 1 + [stage.label for stage in outside].index("+ wpe")
    blocks = {}  # number of the block: its steps
    for step in shown:
        if place := re.search(r"(?:^|\.)h\.(\d+)", step.name):
            blocks.setdefault(int(place[1]), []).append(_stage(steps, step))
    groups = [(inside, list(group)) for inside, group in groupby(blocks, key=blocks.get)]
    return [ids, *outside[:split]], [_whole(steps, *group, len(blocks)) for group in groups], outside[split:]


def _whole(steps, inside, group, count):
    """A group of equal blocks as (a row for all of them, the rows inside one, their numbers)."""
    label = f"block {group[0]}" if len(group) == 1 else f"all {count} blocks" if len(group) == count else (
        f"blocks {group[0]}–{group[-1]}")
    parameters, flops = (len(group) * count for count in _sums(inside))
    whole = Stage(label, "(B, T, C)", steps.sizes["C"], "stream", parameters, flops)
    core = [stage for stage in inside if stage.label == "attention"]
    inside = [stage for stage in inside if stage.label != "attention"]
    place = 1 + max((i for i, stage in enumerate(inside) if stage.label == "attn.c_attn"), default=-1)
    return whole, [*inside[:place], *core, *inside[place:]], group


def _sums(stages):
    return [sum(getattr(stage, name) for stage in stages) for name in ("parameters", "flops")]


def _stage(steps, step):
    """A step as a row of the picture."""
    label = re.sub(r"^(transformer\.)?(h\.\d+\.)?", "", step.name)
    kind = next((kind for part, kind in KINDS.items() if label.startswith(part)), "plain")
    if label == "attn":  # what is computed between c_attn and c_proj, head by head
        return Stage("attention", "(B, nh, T, hs)", step.shape[-1], kind, step.parameters, step.flops)
    tied_to = step.tied_to and step.tied_to.removeprefix("transformer.")
    label = "+ wpe" if label == "wpe" else label
    return Stage(label, steps.letters(step), step.shape[-1], kind, step.parameters, step.flops, tied_to)


def _short(number):
    """A number with three digits and its unit, such as 618 M."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 999.5 * size else f"{number / size:,.0f}{unit}"
    return f"{number} "


def _describe(steps, begin, groups, end):
    """The picture in words."""
    def tell(stage):
        counts = f"{stage.parameters:,} parameters" if stage.parameters else "no parameters of its own"
        tied = f", tied to {stage.tied_to}" if stage.tied_to else ""
        return f"{stage.label.lstrip('+ ')} gives {stage.letters}: {counts}{tied}, {_short(stage.flops)}FLOPs"

    parts = [tell(stage) for stage in begin[1:]]
    for whole, inside, _ in groups:
        parts += [f"{whole.label}: {whole.parameters:,} parameters, {_short(whole.flops)}FLOPs",
                  *(f"in a block, {tell(stage)}" for stage in inside)]
    return f"{_title(steps, groups)}. From top to bottom: ids (B, T); " + "; ".join([*parts, *map(tell, end)]) + "."


def _title(steps, groups):
    """What the picture shows, in one line."""
    parameters, flops = steps.total()
    blocks = _sums([whole for whole, _, _ in groups])
    count = sum(len(group) for _, _, group in groups)
    return (f"{count} block{'s' * (count > 1)}: {blocks[0] / parameters:.0%} of the parameters, "
            f"{blocks[1] / flops:.0%} of the FLOPs")


class _Picture:
    """Draws the rows of a trace from top to bottom."""

    def __init__(self, drawing, steps):
        self.drawing, self.sizes, self.y, self.above = drawing, steps.sizes, 148, None
        self.wires = {}  # label of a row: the middle of its height
        begin, groups, end = _stages(steps)
        inside = [stage for _, stages, _ in groups for stage in stages]
        self.widest = max(stage.wide for stage in [*begin, *inside, *end])
        parameters, flops = steps.total()
        drawing.text(24, 36, _title(steps, groups), 26, "start", bold=True)
        counts = f"{steps.model} · {parameters:,} parameters · {_short(flops)}FLOPs for these ids"
        drawing.text(24, 70, counts, SMALL, "start")
        letters = " · ".join(f"{letter} = {size:,}" for letter, size in steps.sizes.items())
        drawing.text(24, 98, letters, SMALL, "start", colour="muted")
        drawing.text(CENTRE, 130, "output", SMALL, colour="muted")
        for heading, x in COLUMNS.items():
            drawing.text(x, 130, heading, SMALL, "start", colour="muted")

    def width(self, wide):
        """The width of a band, on a logarithmic scale."""
        C = self.sizes["C"]
        reach = max(self.widest / C, 2)
        return NARROW + (WIDE - NARROW) * max(math.log(wide / C, reach), -0.35)

    def ribbon(self, bottom, width):
        """What flows from the band above to the height `bottom`, where it has the given width."""
        if self.above:
            top, before = self.above
            points = ((CENTRE - before / 2, top), (CENTRE + before / 2, top), (CENTRE + width / 2, bottom),
                      (CENTRE - width / 2, bottom))
            corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            self.drawing.raw(f'<polygon points="{corners}" fill="var(--stream)" opacity="0.75"/>')

    def row(self, stage, total, indent=0):
        """A band with its shape, and bars for its shares of total, a (parameters, FLOPs)."""
        width, y = self.width(stage.wide), self.y
        self.ribbon(y, width)
        self.drawing.box(CENTRE - width / 2, y, width, BAND, stage.letters, stage.kind, SMALL, radius=5)
        is_name = stage.label not in ("ids", "attention") and "block" not in stage.label
        self.drawing.text(44 + indent, y + BAND / 2, stage.label, SMALL, "start", mono=is_name)
        self.wires[stage.label.lstrip("+ ")] = y + BAND / 2
        if stage.tied_to:
            self.tie(stage.tied_to, y + BAND / 2)
        if stage.label != "ids":
            text = f"0: tied to {stage.tied_to}" if stage.tied_to else f"{stage.parameters:,}"
            self.bar("parameters", stage, stage.parameters / total[0], text)
            self.bar("FLOPs", stage, stage.flops / total[1], _short(stage.flops).strip())
        self.y, self.above = y + ROW, (y + BAND, width)

    def bar(self, column, stage, share, text):
        """A share as a bar, with a text above it."""
        x, y, length = COLUMNS[column], self.y, max(LONGEST * share, 2 * (share > 0))
        self.drawing.raw(f'<rect x="{x}" y="{y + 21}" width="{length:.1f}" height="8" '
                         f'fill="var(--{stage.kind}-line)"/>')
        self.drawing.text(x, y + 8, text, SMALL, "start", colour="ink" if share else "muted")

    def tie(self, first, y):
        """A dotted line along the left edge, from the first use of a matrix to the second."""
        self.drawing.raw(f'<path d="M40 {self.wires[first]:.1f} H24 V{y:.1f} H40" fill="none" '
                         'stroke="var(--embedding-line)" stroke-width="3" stroke-dasharray="3 5"/>')

    def block(self, whole, inside, count):
        """One block, opened, in a frame."""
        top, total = self.y - 4, _sums(inside)
        self.drawing.text(44, self.y + 14, f"1 of {count} block{'s' * (count > 1)}", SMALL, "start", colour="muted")
        start = self.y + 15
        self.y += 34
        for stage in inside:
            self.row(stage, total, indent=10)
            if stage.label.endswith("c_proj"):
                start = self.plus(start)
        self.ribbon(self.y + 4, NARROW)
        self.above = self.y + 4, NARROW
        self.drawing.frame(36, top, 912, self.y - top)
        self.y += 10

    def plus(self, start):
        """A residual sum: the stream at the height `start` is added again. Returns where the next detour starts."""
        middle = self.y + 9
        self.ribbon(middle + 24, NARROW)
        self.drawing.raw(f'<circle cx="{CENTRE}" cy="{start:.1f}" r="4" fill="var(--stream-line)"/>')
        self.drawing.raw(f'<path d="M{CENTRE} {start:.1f} H{SKIP} V{middle:.1f} H{CENTRE + 15}" fill="none" '
                         'stroke="var(--stream-line)" stroke-width="4" stroke-linejoin="round"/>')
        self.drawing.circle(CENTRE, middle, 13, "+", "stream")
        self.y, self.above = middle + 30, (middle + 24, NARROW)
        return middle + 22

    def finish(self):
        """Explains the bars, and sets the height."""
        lines = ("Bars: shares of the whole model; inside the frame, of one block.",
                 "FLOPs: of matrix products, 2 for each multiplication and addition.")
        self.drawing.text(24, self.y + 20, "\n".join(lines), SMALL, "start", colour="muted")
        self.drawing.height = self.y + 68
