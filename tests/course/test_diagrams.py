"""The diagrams: whole, readable in light and dark, without overlaps, and with the numbers that PyTorch computes."""

import functools
import math
import re
import xml.etree.ElementTree as ET

import nbformat
import pytest
import torch

from helpers import attention, corpus
from helpers.course import arms, diagrams
from helpers.course.diagrams import attention_pictures, data_pictures, model_pictures, sentence, svg
from helpers.loss import cross_entropy
from helpers.machine import assets

SVG = "{http://www.w3.org/2000/svg}"


@functools.cache
def picture(name):
    """(Drawing, the root of its SVG); each is drawn once for all tests."""
    drawing = diagrams.draw(name)
    return drawing, ET.fromstring(drawing.svg())


def texts(name):
    """All texts of a picture, in the order in which they were drawn."""
    return [node.text for node in picture(name)[1].iter(f"{SVG}text")]


# --- every picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", diagrams.NAMES)
def test_every_picture_is_well_formed_described_and_free_of_problems(name):
    drawing, root = picture(name)
    assert drawing.name == name == root.get("id")
    assert svg.problems(drawing) == []
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids)) and all(one == name or one.startswith(f"{name}-") for one in ids)
    assert 150 <= len(drawing.description) <= 1000 and drawing.description.count(".") >= 2
    assert drawing.width == svg.WIDTH and drawing.height <= 700
    assert "http" not in drawing.svg().replace("http://www.w3.org/2000/svg", "")  # it needs nothing from elsewhere


def test_no_two_pictures_share_an_id():
    ids = [node.get("id") for name in diagrams.NAMES for node in picture(name)[1].iter() if node.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", diagrams.NAMES)
def test_a_picture_is_the_same_each_time(name):
    assert diagrams.draw(name).svg() == picture(name)[0].svg()


def test_show_stores_the_picture_and_its_description(monkeypatch):
    shown = []
    monkeypatch.setattr(diagrams, "display", shown.append)
    diagrams.show("one-head")
    (data, metadata), = (drawing._repr_mimebundle_() for drawing in shown)
    description = picture("one-head")[0].description
    assert data["image/svg+xml"].startswith("<svg") and description in data["text/plain"]
    assert metadata == {"image/svg+xml": {"alt": description}}


def test_an_unknown_name_is_an_error_that_lists_the_names():
    with pytest.raises(ValueError, match="one-head"):
        diagrams.draw("two-heads")


# --- contrast, as the WCAG define it ---------------------------------------------------------------------------------


def luminance(colour):
    """The relative luminance of (red, green, blue), each 0 to 255."""
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a, b):
    """The contrast of two colours, 1 to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def rgb(value, dark):
    """The colour of var(--name) or of #rrggbb as three numbers."""
    name = value.removeprefix("var(--").removesuffix(")")
    if not value.startswith("#"):
        pair = svg.PAGE[name][dark] if name in svg.PAGE else svg.KINDS[name.removesuffix("-line")][dark]
        value = pair if isinstance(pair, str) else pair[name.endswith("-line")]
    return tuple(int(value[i:i + 2], 16) for i in (1, 3, 5))


def mixed(over, under, opacity):
    return tuple(opacity * a + (1 - opacity) * b for a, b in zip(over, under))


def fills(root):
    """For each text of a picture: (text, its colour, [(colour, opacity) of the areas under its middle, in order])."""
    areas, hatch = [], float(root.find(f".//{SVG}pattern/{SVG}rect").get("opacity"))
    for node in root:
        fill = node.get("fill", "none")
        if node.tag == f"{SVG}text":
            size, x = float(node.get("font-size")), float(node.get("x"))
            width = svg.text_width(node.text, size, node.get("font-weight") == "600", node.get("class") == "mono")
            x += {"start": width / 2, "middle": 0, "end": -width / 2}[node.get("text-anchor")]
            y = float(node.get("y")) - 0.35 * size
            under = [look for (a, b, c, d), look in areas if a <= x <= c and b <= y <= d]
            yield node.text, fill, under
        elif node.tag in (f"{SVG}rect", f"{SVG}circle") and fill != "none":
            get = {key: float(value) for key, value in node.attrib.items() if re.fullmatch(r"-?[\d.]+", value)}
            r = get.get("r", 0)
            x, y = get.get("x", get.get("cx", 0) - r), get.get("y", get.get("cy", 0) - r)
            look = ("var(--muted)", hatch) if "hatch" in fill else (fill, get.get("fill-opacity", 1))
            areas.append(((x, y, x + get.get("width", 2 * r), y + get.get("height", 2 * r)), look))


@pytest.mark.parametrize("dark", (0, 1))
@pytest.mark.parametrize("name", diagrams.NAMES)
def test_every_text_can_be_read_on_what_is_under_it(name, dark):
    for text, colour, under in fills(picture(name)[1]):
        ground = rgb("var(--card)", dark)
        for fill, opacity in under:
            ground = mixed(rgb(fill, dark), ground, opacity)
        assert contrast(rgb(colour, dark), ground) >= 4.5, (text, colour, under)


def test_contrast_of_black_and_white():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # #777, a known near miss


# --- what problems() finds -------------------------------------------------------------------------------------------


def planted(draw):
    drawing = svg.Drawing("planted", "Planted", "A mistake.", 300)
    draw(drawing)
    return svg.problems(drawing)


def test_a_clean_drawing_has_no_problems():
    def clean(d):
        d.box(40, 40, 200, 60, "a box")
        d.arrow((240, 70), (400, 70), label="on", offset=(0, -16))
        d.grid(420, 40, [["1", ("2", "q", 0.5)], [("", "plain", "hatched"), "4"]], column_names="ab", row_names="cd")
    assert planted(clean) == []


@pytest.mark.parametrize("draw, says", [
    (lambda d: (d.text(300, 100, "first"), d.text(320, 105, "second")), "overlaps"),
    (lambda d: (d.text(300, 100, "crossed"), d.arrow((100, 100), (500, 100))), "an arrow crosses"),
    (lambda d: (d.text(300, 100, "crossed"), d.arrow((300, 20), (300, 200))), "an arrow crosses"),
    (lambda d: d.text(300, 100, "too small", size=15), "smaller than 20"),
    (lambda d: d.box(40, 40, 60, 40, "too long for it"), "larger than its box"),
    (lambda d: (d.box(250, 90, 50, 40), d.text(300, 100, "on an edge")), "the edge of a box crosses"),
    (lambda d: d.text(940, 100, "outside"), "leaves the picture"),
    (lambda d: d.grid(40, 40, [[("123456", "q", "hatched")]]), "larger than its box")])
def test_a_planted_mistake_is_found(draw, says):
    assert any(says in problem for problem in planted(draw))


# --- attention and data: the numbers are the notebook's and PyTorch's ------------------------------------------------


@functools.cache
def notebook_01():
    """The tensors of notebook 01's own cells, executed here: {name: value}."""
    path = next((assets.ROOT / "notebooks").glob("01_*.ipynb"))
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    names = {"show_table": lambda *args, **options: None, "math": math, "torch": torch, "F": torch.nn.functional,
             "attention": attention, "cross_entropy": cross_entropy}
    for cell in ("toy", "loss", "blind", "weights", "loops", "matrices", "slips", "whole", "trace"):
        exec(compile(cells[cell], cell, "exec"), names)
        if cell == "matrices":
            one_head = {name: names[name] for name in ("q", "k", "v", "scores", "weights", "y")}
    return {**names, **one_head}


def shown(tensor, digits):
    return [svg.number(value, digits) for value in tensor.flatten()]


def contains(name, numbers):
    """Whether a picture has these texts one after the other."""
    found = texts(name)
    return any(found[i:i + len(numbers)] == numbers for i in range(len(found)))


def test_the_sentence_is_that_of_notebook_01():
    names = notebook_01()
    assert (sentence.WORDS, sentence.TEXT) == (names["words"], names["text"])
    for ours, its in (("IDS", "ids"), ("TARGETS", "after"), ("WTE", "wte"), ("WPE", "wpe"), ("W_Q", "whole_q"),
                      ("W_K", "whole_k"), ("W_V", "whole_v"), ("W_0", "w_0")):
        assert torch.equal(getattr(sentence, ours), names[its]), ours
    assert torch.equal(sentence.vectors(), names["x"])
    torch.testing.assert_close(sentence.logits(), names["logits"][0])


@pytest.mark.parametrize("name", ("q", "k", "v", "y"))
def test_one_head_shows_the_vectors_of_notebook_01(name):
    names = notebook_01()
    assert contains("one-head", shown(names[name], 1)) and contains("one-head", shown(names["x"], 2))


@pytest.mark.parametrize("name", ("one-head", "causal-mask"))
def test_scores_and_weights_are_those_of_pytorch(name):
    names, hidden = notebook_01(), "−∞" if name == "causal-mask" else None
    q, k, v = (names[one][None] for one in "qkv")
    torch.testing.assert_close(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0], names["y"])
    past = torch.ones(6, 6).tril().bool()
    scores = [svg.number(a, 1) if seen else hidden for a, seen in zip(names["scores"].flatten(), past.flatten())]
    assert contains(name, [text for text in scores if text])
    assert contains(name, shown(names["weights"][past], 2))


def test_the_slips_are_those_of_notebook_01():
    names, ours = notebook_01(), attention_pictures.slips()
    for mine, its in zip(ours.values(), names["mistakes"].values(), strict=True):
        assert torch.equal(mine(names["scores"]), its(names["scores"]))
        again = names["positions_that_change"](lambda ids: names["head"](ids, its), names["ids"], 5)
        assert attention_pictures.changed_rows(mine) == again
    after = ours["0 after"](names["scores"]).sum(dim=1)
    assert all(text in texts("causal-mask") for text in shown(after, 2)) and after[:-1].max() < 1
    assert ours["0 before"](names["scores"]).triu(1).max() > 0.1


def test_the_captions_of_the_mask_say_how_earlier_rows_depend_on_the_last_token():
    """Only its value reaches earlier outputs in slip 1, only its key in slip 2; only slip 2 changes their weights."""
    names = notebook_01()
    earlier, found = [0, 1, 2, 3, 4], {}
    for slip, weigh in attention_pictures.slips().items():
        for part in "kv":
            changed = []
            for plus in (0, 1):
                q, k, v = (names[name].clone() for name in "qkv")
                {"k": k, "v": v}[part][-1] += plus
                weights = weigh(q @ k.T / math.sqrt(2))
                changed.append((weights, weights @ v))
            rows = [(a != b).any(dim=1).nonzero().flatten().tolist() for a, b in zip(*changed)]
            assert rows == attention_pictures.rows_changed_by(weigh, part)
            found[slip, part] = tuple([row for row in each if row < 5] for each in rows)
    assert found == {("right", "k"): ([], []), ("right", "v"): ([], []), ("0 before", "k"): ([], []),
                     ("0 before", "v"): ([], earlier), ("0 after", "k"): (earlier, earlier), ("0 after", "v"): ([], [])}
    for line in ("no output depends on later tokens", "tokens: their v gets weight (red)",
                 "tokens: their k is in softmax’s sum"):
        assert texts("causal-mask").count(line) == 1


def test_split_and_merge_is_what_pytorch_does():
    x, viewed, right, wrong = attention_pictures.split_tables()
    batch = torch.arange(24).view(1, 6, 4)
    assert torch.equal(x, batch[0]) and torch.equal(viewed, batch.view(1, 6, 2, 2)[0])
    assert torch.equal(right, batch.view(1, 6, 2, 2).transpose(1, 2)[0]) and right.shape == wrong.shape
    assert torch.equal(attention.merge_heads(right[None]), batch)
    assert set((wrong[0] // 4).flatten().tolist()) == {0, 1, 2}  # head 0 holds the first three tokens, and no other
    red = [node for node in picture("split-and-merge")[1].iter(f"{SVG}rect") if node.get("fill") == "var(--wrong)"]
    assert len(red) == int((right != wrong).sum())


def test_text_to_logits_shows_the_probabilities_and_the_loss():
    names = notebook_01()
    logits, after = names["logits"][0], names["after"]
    chances = logits.softmax(dim=-1)[range(6), after]
    found = texts("text-to-logits")
    assert [text for text in found if text in names["words"]] == [
        word for pair in zip(names["text"], (names["words"][i] for i in after)) for word in pair]
    assert all(text in found for text in shown(chances, 2))
    assert any(text.endswith(f"= {torch.nn.functional.cross_entropy(logits, after):.2f}") for text in found)
    for row in names["x"]:
        assert contains("text-to-logits", shown(row, 2))


def test_the_windows_are_a_random_batch_of_the_course():
    tape = data_pictures.TAPE
    x, y = corpus.random_batch(torch.arange(len(tape)), data_pictures.BATCH, data_pictures.WINDOW,
                               torch.Generator().manual_seed(1))
    assert torch.equal(x[:, :1], data_pictures.window_starts()) and torch.equal(y, x + 1)
    for part in (x, y):
        assert contains("windows", [tape[i] for i in part.flatten()])


@pytest.mark.parametrize("tokens", (1000, 123_456))
def test_the_three_sets_are_cut_as_the_course_cuts_a_book(tokens):
    train, validation, test = data_pictures.set_sizes(tokens)
    assert train + validation + test == tokens
    assert (train / tokens, validation / tokens, test / tokens) == pytest.approx((0.81, 0.09, 0.1), abs=1 / tokens**0.5)


def test_the_bar_of_the_book_shows_each_set_with_its_share_and_its_use():
    found = texts("three-sets")
    for text in ("training set: 81%", "9%", "training + validation: 90%", "training: the weights",
                 "validation: every choice", "test: looked at once"):
        assert found.count(text) == 1, text
    assert found.count("10%") == 2
    first, *_, last = (node for node in picture("three-sets")[1].iter(f"{SVG}rect") if node.get("height") == "58.0")
    left, right = float(first.get("x")), float(last.get("x")) + float(last.get("width"))
    assert float(first.get("width")) == pytest.approx(0.81 * (right - left), abs=0.2)


def test_a_split_by_window_shares_tokens_and_a_split_by_passage_shares_none():
    for by_passage in (False, True):
        windows, is_test = data_pictures.split_windows(by_passage)
        assert len(windows) == 20 and is_test.sum() == 5 and windows.shape[1] == data_pictures.PASSAGE_WINDOW
        trained = set(windows[~is_test].flatten().tolist())
        shared = [token in trained for token in windows[is_test].flatten().tolist()]
        assert data_pictures.share_trained_on(windows, is_test) == pytest.approx(sum(shared) / len(shared))
        assert (sum(shared) == 0) == by_passage and (by_passage or sum(shared) > len(shared) / 2)
        assert f"test tokens that are also trained on: {sum(shared) / len(shared):.0%}" in texts("leakage")
        passages = {token // data_pictures.PASSAGE_T for token in windows[is_test].flatten().tolist()}
        assert (len(passages) == 1) == by_passage
    assert texts("leakage").count("test") == 10 and texts("leakage").count("train") == 30


def test_the_shapes_are_drawn_to_scale():
    base = arms.settings(arms.ARMS["base"], "laptop", 0)[0]
    deep, wide = model_pictures.shapes_of(0), model_pictures.shapes_of(2)
    assert [depth for depth, _, _ in deep] == [1, 2, 4, 8, 16] and {ratio for *_, ratio in deep} == {4}
    assert [ratio for *_, ratio in wide] == [1, 2, 4, 8, 16] and {depth for depth, _, _ in wide} == {base.n_layer}
    assert (base.n_layer, base.n_embd, 4) in deep and (base.n_layer, base.n_embd, 4) in wide
    boxes = [(float(node.get("width")), float(node.get("height"))) for node in picture("shapes")[1].iter(f"{SVG}rect")]
    blocks = [width for width, height in boxes if height == 14]
    assert blocks == [width for depth, width, _ in deep for _ in range(depth)]
    hidden = [width for width, height in boxes if height == 28]
    for ratio, above, below in zip((1, 2, 4, 8, 16), hidden[::2], hidden[1::2]):
        assert above / below == pytest.approx(ratio, rel=0.02)


def test_random_windows_leave_gaps_and_an_epoch_reads_each_token_once():
    random, shuffled = data_pictures.strip_starts()
    T, N = data_pictures.STRIP_T, data_pictures.STRIP
    counts, once = data_pictures.times_read(random), data_pictures.times_read(shuffled)
    positions = torch.tensor(random)[:, None] + torch.arange(T)
    assert counts == torch.bincount(positions.flatten(), minlength=N).tolist()
    assert sum(counts) == sum(once) == T * data_pictures.STRIP_WINDOWS
    assert max(counts) > 2 and counts.count(0) > once.count(0) == T
    offset = min(shuffled)
    assert 0 < offset < T and once[offset:offset + T * len(shuffled)] == [1] * T * len(shuffled)
    assert shuffled != sorted(shuffled), "the order is not shuffled"
    assert counts.count(0) / N == pytest.approx(1 - corpus.expected_coverage(N, T, len(random)), abs=0.05)


def test_the_picture_of_epochs_shows_the_counts_and_names_them():
    random, shuffled = data_pictures.strip_starts()
    counts, once = data_pictures.times_read(random), data_pictures.times_read(shuffled)
    description = picture("epochs")[0].description
    for each in (counts, once):
        assert contains("epochs", [str(times) for times in each if times])
    for starts in (random, shuffled):
        in_order = [str(starts.index(start) + 1) for start in sorted(starts)]
        assert set(in_order) <= set(texts("epochs"))
    never = f"{counts.count(0) / len(counts):.0%}"
    assert f"never read: {never} · most often: {max(counts)} times" in texts("epochs")
    assert f"{never} of the tokens are never read" in description and f"more than {max(counts)} times" in description
    assert contains("epochs", [str(shuffled.index(start) + 1) for start in sorted(shuffled)])
    hatched = [node for node in picture("epochs")[1].iter(f"{SVG}rect") if node.get("fill") == "url(#epochs-hatch)"]
    assert len(hatched) == counts.count(0) + once.count(0)


def test_the_loop_draws_the_likeliest_of_the_kept_tokens():
    last, cooled, probabilities, drawn = data_pictures.next_token()
    kept = probabilities.nonzero().flatten()
    torch.testing.assert_close(last, notebook_01()["logits"][0, -1])
    assert len(kept) == data_pictures.TOP_K and drawn == probabilities.argmax() == sentence.WORDS.index("sank")
    torch.testing.assert_close(probabilities[kept], (last / data_pictures.TEMPERATURE)[kept].softmax(dim=0))
    assert contains("generation-loop", shown(cooled, 1)) and contains("generation-loop", shown(probabilities[kept], 2))


@pytest.mark.parametrize("value, text", [(-0.04, "0.0"), (-1.414, "−1.4"), (2.828, "2.8"), (0.0, "0.0")])
def test_numbers_have_a_real_minus_sign(value, text):
    assert svg.number(value) == text
