"""docs/articles.md: every section of the five articles, where the course treats it, and the stored verdict.

`python -m scripts.claims_table` writes the page. What a section says and where the course treats it is data below; the
verdicts on claims come from the ledgers that are stored in the notebooks.
"""
import textwrap
from pathlib import Path
from typing import NamedTuple

from scripts import generated_pages
from scripts.ledgers import Place, home_of, markdown, place_of, stored_claims, verdict_texts

LONGEST = 300  # characters of a verdict; CLAIMS.md has all of it


class Part(NamedTuple):
    """One statement of a section.

    says: the statement in one line. claim: its number in the ledger, or None. cells: (notebook, cell id) of the places
    that treat it, besides the cell of the claim. word: without a claim "taught", "shown" or "open". note: what the word
    rests on, or what is missing.
    """

    section: str
    says: str
    claim: int | None = None
    cells: tuple[tuple[str, str], ...] = ()
    word: str = ""
    note: str = ""


def claim(section, number, says, *cells):
    """A statement that the ledger has."""
    return Part(section, says, number, cells)


def taught(section, says, *cells, note=""):
    """A definition, a description or a way of working: the course explains it, and there is nothing to measure."""
    return Part(section, says, None, cells, "taught", note)


def shown(section, says, *cells, note=""):
    """A statement that a cell measures or shows, without a row in the ledger."""
    return Part(section, says, None, cells, "shown", note)


def missing(section, says, *cells, note):
    """A statement that the course has not measured; note says what is missing."""
    return Part(section, says, None, cells, "open", note)


TITLES = {
    "S0": "Analysis of GPT-2's architecture: from multi-head attention to performance on the GPU",
    "S1": "A complete GPT-2 on the GPU: architecture, optimisation, evaluation",
    "S2": "Distribution of parameters: attention, MLP, LayerNorm",
    "S3": "Inspecting OpenAI's pretrained GPT-2",
    "S4": "Random sampling and training a reduced GPT-2 on classic text",
}

ARTICLES = {
    "S0": (
        taught("1", "The subject: attention, the fused QKV matrix, speed on a GPU, weight statistics.", ("00", "s1")),
        claim("2.1", 1, "One head: softmax of the scaled products; d_k is called the size of the embedding.",
              ("01", "s3")),
        taught("2.2", "Several heads in parallel, joined and mixed by W^O.", ("01", "s5")),
        claim("2.3", 2, "One fused matrix for Q, K and V instead of three is faster.", ("01", "s7")),
        missing("2.3", "It is faster because of less memory traffic.", ("01", "fused-saves"), ("03", "s7"),
                note="the time was measured; the traffic and the number of launches were not"),
        taught("3.1", "GPT-2 small: 12 blocks, 768 wide, 12 heads; norm, attention, sum, MLP, sum.", ("02", "picture"),
               ("02", "block")),
        claim("3.1", 9, "GPT-2 small has about 124M parameters."),
        taught("3.2", "From tokens to logits: embeddings, blocks, a last norm, a tied unembedding.", ("02", "gpt")),
        claim("4.1", 7, "A CPU (about 1.2 s) and a GPU (1.5 s) take about as long to construct the model."),
        taught("4.1", "Construction happens once, so its time does not matter.", ("03", "s3")),
        claim("4.2", 6, "Five forward passes: about 20 s on a CPU, 0.03 s on a GPU, 4 orders of magnitude.",
              ("03", "s1"), ("03", "s2")),
        claim("4.3", 8, "Backpropagation is practically impossible on a CPU."),
        shown("4.4", "The error “Expected all tensors to be on the same device”.", ("02", "devices-error"),
              ("02", "devices-read")),
        claim("5.1", 9, "The four sizes have 124M, 355M, 774M and 1.5B parameters."),
        claim("5.2", 17, "Token embeddings are widely spread, position embeddings lie near 0."),
        missing("5.2", "The spread of the token embeddings reflects how diverse meanings are.", ("06", "s9"),
                note="an interpretation; the diversity of meanings was not measured, and a width alone cannot show it"),
        claim("5.3", 18, "Later layers have wider weights."),
        missing("5.3", "Wider weights mean that later layers represent more complex things.", ("06", "s9"),
                note="complexity was not measured; the cells change the widths of V without any effect"),
        claim("5.4", 19, "Q and K are distributed alike, V is more concentrated."),
        claim("6", 20, "Temperature 0.1 repeats, 1 is balanced, 10 is incoherent.", ("04", "s5")),
        shown("7", "Several heads make attention more expressive.", ("01", "s9"),
              note="one constructed task, in which one wide head needed 30 times the training; no trained GPT-2 with "
                   "one head was compared"),
        claim("7", 8, "A GPU is indispensable.", ("03", "s10")),
        missing("7", "The distributions of the weights reflect a deep structure of the model.", ("06", "shuffle"),
                note="an interpretation; a cell shuffles the entries, which keeps every distribution"),
        missing("7", "Later layers encode more complex information.", ("04", "s8"),
                note="the logit lens shows when a prediction becomes visible, not how complex it is"),
        shown("7", "Many choices of the design are empirical, not derived.", ("05", "s8"), ("09", "s2"), ("02", "why"),
              note="the course measures the consequences of some choices"),
        taught("8", "Conclusion: a summary of the sections above.", ("00", "s6")),
    ),
    "S1": (
        taught("2.1", "Embeddings, blocks, unembedding; the forward pass in three stages.", ("02", "gpt")),
        taught("2.2", "Hyperparameters: 12 blocks, 12 heads, 768 wide, 1024 positions, 50,257 tokens.", ("02", "gpt"),
               ("04", "config")),
        missing("3.1", "One fused matrix of E x 3E: fewer allocations, better transfer, simpler code.", ("03", "s7"),
                ("01", "s7"), note="the speed was measured (claim 2); allocations and traffic were not counted"),
        claim("3.2", 2, "Split, the fused matrix equals three matrices, and it is faster on a GPU.", ("01", "s7")),
        taught("4.1", "The pre-norm block and its formulas.", ("02", "block")),
        shown("4.1", "The norm and the sums stabilise training and keep gradients from vanishing.", ("02", "why"),
              ("02", "why-conclusions"), note="measured in fresh blocks, on gradients; no training runs were compared"),
        taught("4.2", "Separate names x_att and x_ff: easier to follow, fewer errors, extensible.", ("02", "block"),
               note="advice on style; errors were not counted"),
        taught("5.1", "Token and position embeddings.", ("02", "embed")),
        claim("5.1", 5, "Tying: in the lectures' notebook by lm_head.weight = nn.Parameter(wte.weight).",
              ("02", "tying")),
        shown("5.1", "Tying needs fewer parameters.", ("02", "saves")),
        claim("5.1", 28, "Tying improves generalisation."),
        shown("5.2", "A logit is the potential probability of the next token.", ("02", "logits-text"),
              note="a logit is a score; the softmax turns scores into probabilities"),
        shown("6.1", 'device = torch.device("cuda") puts everything on one device.', ("02", "device-name"),
              note="a cell uses the line with and without a GPU"),
        shown("6.2", "torch.arange on the CPU is the usual cause of errors; give it device=.", ("02", "devices-read")),
        shown("7.1", "torchinfo lists sizes, counts and the flow of data.", ("02", "counting"), ("05", "s3")),
        claim("7.1", 3, "torchinfo counts 163M parameters."),
        claim("7.2", 3, "163M without the 38M of the tied unembedding are 124M."),
        taught("8.1", "GPT-2 can be built from basic parts; fusing and tying save resources.", ("02", "gpt"),
               ("11", "s1")),
        shown("8.1", "The GPU is the key to working with the model.", ("03", "s10"),
              note="its speed, on recorded GPUs"),
        shown("8.2", "Not covered: trained weights and the quality of text.", ("04", "s6"), ("07", "s8"),
              note="the course measures both"),
        missing("8.2", "Not covered: several GPUs.", ("08", "s3"), ("08", "s4"),
                note="the course trains with several processes on one machine, and has not measured several GPUs"),
    ),
    "S2": (
        claim("3.1", 16, "Names are filtered by “attn” or “attention”, “mlp” or “fc”, and “ln”.", ("05", "s6")),
        taught("3.2", "Count with numel over named_parameters.", ("05", "s1")),
        taught("3.3", "Percentages as bar plots.", ("05", "s7")),
        taught("4.1", "Attention consists of C_attn and C_proj.", ("05", "s2")),
        taught("4.2", "The MLP expands and contracts.", ("02", "mlp"), ("05", "s2")),
        claim("4.3", 10, "Attention holds 22, 28, 30, 31 %, the MLPs 45, 56, 60, 63 %."),
        claim("4.3", 11, "The MLPs have about twice as many parameters as attention."),
        shown("4.4", "The MLP's expansion by four is the reason.", ("05", "s8")),
        claim("5.1", 14, "The embeddings occur once, with the same size in every version."),
        claim("5.2", 29, "With more blocks attention and MLPs grow linearly, the embeddings stay."),
        taught("6.1", "The formula of LayerNorm, with gamma and beta.", ("02", "norm"), ("05", "s5")),
        claim("6.2", 13, "LayerNorm has tens of thousands to about 100,000 parameters."),
        claim("6.2", 12, "LayerNorm is less than 0.01 % of the model."),
        claim("6.3", 15, "LayerNorm has as many weights as biases, unlike the whole model."),
        shown("7.1", "The shares are a balance of expressiveness and cost.", ("05", "s8"), ("09", "shape-figure"),
              note="small models with other shares, at equal parameters and at equal time; GPT-2's sizes are counted"),
        taught("7.2", "Counting helps learners to understand the model.", ("05", "s2")),
        shown("7.3", "A limit: counts alone say nothing about values or performance.", ("06", "s1"),
              ("09", "shape-figure"), note="notebook 06 measures values, notebook 09 the loss of small models of "
              "equal size; the performance of GPT-2's sizes was not measured"),
        shown("7.3", "A limit: no newer models.", ("05", "s10"), ("05", "s11"),
              note="the course counts ten models"),
    ),
    "S3": (
        shown("2.1", "The hub gives quick access, one interface, and extends to other models.", ("04", "s1"),
              ("04", "s9"), note="the same cells run with another architecture; speed of access was not measured"),
        taught("2.2", "AutoModelForCausalLM.from_pretrained, and the tokenizer.", ("04", "s1"),
               ("04", "tokenizers-text")),
        shown("2.2", "The model is the same as Model 5.", ("04", "s3"), note="a cell compares the logits of the two"),
        claim("2.2", 9, "GPT-2 small has about 124M parameters."),
        taught("3.1", "WTE, WPE, blocks, a last LayerNorm, the LM head.", ("04", "s1")),
        taught("3.2", "The blocks are the list h.", ("04", "blocks-text")),
        shown("4.1", "C_attn is 768 x 2304.", ("04", "s2")),
        shown("4.2", "W0 is 768 x 768.", ("04", "s2")),
        claim("5.1", 4, "named_parameters lists names, shapes and counts: 163M, after tying 124M.", ("04", "names")),
        shown("5.2", "The configuration: 1024 positions, 768 wide, 12 blocks, 12 heads.", ("04", "config")),
        taught("6.1", "Tokenize, tensor, model, sample, decode; or generate().", ("04", "s4")),
        claim("6.2", 20, "Near 0.1 one sentence is repeated, near 1 it is balanced, from 10 on chaotic.", ("04", "s5")),
        claim("6.3", 27, "Text is coherent locally, and less so over long stretches.", ("04", "s6")),
        shown("7.1", "Modular, accessible, and fit for mechanistic interpretability.", ("04", "s8"), ("10", "s2"),
              note="notebook 10 finds a circuit; “modular” and “accessible” were not measured"),
        taught("7.2", "Uses: quick experiments, prototypes, learning; the role of the hub.", ("04", "s9")),
        shown("7.3", "Limits: outdated, weak over long texts, no control of content.", ("04", "s10"), ("04", "s6"),
              note="one instruction to the model; the rest is taught"),
    ),
    "S4": (
        taught("1", "Pipelines differ in data, model and loss only; another way of sampling.", ("07", "s4"),
               ("07", "s7")),
        taught("2.1", "Language modelling: the probability of a token after those before it.", ("01", "s1")),
        shown("2.2", "Sampling from the tokens instead of a Dataset: simpler, flexible, quick.", ("07", "s4"),
              ("09", "epoch-live"), note="the time of both is compared; “simpler” and “flexible” were not measured"),
        claim("3.1", 21, "Fetched, cleaned and tokenized, the book has about 158,000 tokens.", ("07", "s1")),
        taught("3.2", "90 % for training, 10 % for the test.", ("07", "s3")),
        claim("3.2", 26, "The test part at the end of the book may be biased."),
        taught("3.3", "The function: random starts, a tensor of indices, X and Y of B x T.", ("07", "s4")),
        taught("3.4", "Targets are the inputs shifted by one.", ("07", "s4")),
        claim("4.1", 25, "A forward pass takes about 45 s on a CPU and 1 s on a GPU."),
        taught("4.2", "The model: 12 blocks, 768 wide, 12 heads.", ("07", "s6"), ("07", "model5")),
        taught("4.3", "500 independent random batches, no epoch.", ("07", "s7"), ("09", "s3")),
        claim("5.1", 23, "The loss is high at first, falls fast and converges early.", ("09", "budget-figure")),
        claim("5.2", 22, "Before training it writes “ions ions ions”.", ("07", "s6")),
        shown("5.2", "After training: line breaks, punctuation, simple sentences.", ("07", "s8"), ("07", "form")),
        shown("5.3", "Line spacing, line breaks and layout are learned quickly.", ("07", "form"),
              ("09", "form-figure")),
        shown("6.1", "Random sampling needs little code and is quick.", ("07", "batch-source-text"),
              ("09", "epoch-live"), note="a function of a few lines; its time is compared with a DataLoader's"),
        claim("6.2", 24, "A risk: regions are repeated, missed or weighted unevenly."),
        claim("6.3", 30, "Harmless for text, dangerous in biomedicine."),
        shown("6.4", "After a few hundred batches the model has learned the shape of the language.", ("07", "form")),
        shown("7", "Limits: no full epoch, and no comparison with a DataLoader.", ("09", "s3"), ("09", "epoch-live"),
              note="the course compares random windows with shuffled epochs; see claim 24"),
        claim("7", 26, "A limit: the test set's position."),
        missing("7", "A limit: one corpus.", ("09", "s10"),
                note="notebook 09 trains on a text of your own; its verdicts are about one book"),
        taught("8", "Conclusion: a summary of the sections above.", ("07", "takeaways")),
    ),
}

INTRODUCTION = """\
Five articles in Vietnamese retell lectures of M. X. Cohen's course on language models. This course began as a check of
what they say. Here every section of the articles has its rows: what it says, in our words; where the course treats it;
and what came out. The course cites the articles as S0 to S4, with the number of the section.

- **confirmed**, **corrected** and **open** repeat a verdict of a ledger; the link behind it leads to all of it. *Holds*
  is confirmed. *Does not hold* and *depends* are corrected: what follows was measured, or is the condition.
  *Inconclusive* and *unmeasured here* are open: what follows says what is missing.
- **shown**: a cell measures or shows it, and the ledger has no row for it. Look at the cell.
- **open** without a link: the course has not measured it.
- **taught**: a definition, a description or a way of working, in which there is nothing to measure.

A link opens a notebook at a cell, if the program that shows this page can do that, as JupyterLab can. Otherwise look
for the heading. Claims 31 to 36 of [CLAIMS.md](../CLAIMS.md) are the course's own: no article makes them.
"""


def outcome(part: Part, rows: dict[int, dict]) -> str:
    """The verdict on a statement. rows: {number: ledger row}."""
    if part.claim is None:
        return f"**{part.word}**" + (f": {markdown(part.note)}" if part.note else "")
    if part.claim not in rows:
        raise SystemExit(f"claims_table: docs/articles.md needs claim {part.claim}, which no notebook's ledger has")
    word, text = verdict_texts(rows[part.claim])
    text = textwrap.shorten(text, LONGEST, placeholder=" …")
    link = f"([claim {part.claim}](../CLAIMS.md#claim-{part.claim}))"
    return f"**{word}**" + (f": {markdown(text)}" if text else "") + f" {link}"


def places(part: Part, root: Path) -> list[Place]:
    """Where the course treats a statement: the cell of its claim first."""
    home = [home_of(root, part.claim)] if part.claim else []
    return home + [place_of(root, notebook, cell) for notebook, cell in part.cells]


def table(parts: tuple[Part, ...], root: Path, rows: dict[int, dict]) -> str:
    """The statements of one article as a table of Markdown."""
    lines = ["| Section | What it says | Where the course treats it | What came out |", "|---|---|---|---|"]
    for part in parts:
        found = places(part, root)
        links = [f"{place.link('../')}, cell `{place.cell}`" if part.claim and place is found[0] else place.link("../")
                 for place in found]
        lines.append(f"| {part.section} | {markdown(part.says)} | {'; '.join(links)} | {outcome(part, rows)} |")
    return "\n".join(lines) + "\n"


def page(root: Path, command: str) -> str:
    """The text of docs/articles.md. command: what writes it."""
    rows = {row["number"]: row for _, row in stored_claims(root)}
    parts = [INTRODUCTION]
    for name, statements in ARTICLES.items():
        parts.append(f"## {name}\n\n“{TITLES[name]}”\n\n{table(statements, root, rows)}")
    return generated_pages.with_note("The five articles, section by section", command, "\n".join(parts))
