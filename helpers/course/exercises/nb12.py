"""Exercises of notebook 12: an update whose directions are equally long, shuffled epochs, embeddings from counts, noise
in the inputs, the test of a record."""

import math

import torch

from helpers import corpus
from helpers.course import speedrun_results
from helpers.course.checking import (Exercise, NotYet, as_floats, as_number, close, describe, name_the_mistake,
                                     needs_answer, same)
from helpers.course.judge import in_words

# --- all directions with the same length -----------------------------------------------------------------------------


def same_length(G):
    """G (rows, columns), of full rank -> the matrix with G's singular vectors, whose singular values are all 1."""
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return U @ Vh


def _test_directions(attempt):
    """Compares the matrices for a square, a tall and a wide gradient of different sizes."""
    for rows, columns, scale, seed in ((4, 4, 1.0, 1), (7, 3, 0.01, 1), (5, 8, 3.0, 4)):
        G = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
        answer = _matrix_of(attempt, G)
        if not answer.isfinite().all():
            raise NotYet("Your matrix contains values that are not finite. Is anything divided by 0?")
        if same(answer, same_length(G)):
            continue
        name_the_mistake(answer, _direction_mistakes(G))
        _explain_lengths(answer, G)
    longest = torch.linalg.svdvals(G)
    return ("This is what Muon approximates: every direction of the update gets the same length. In the check's last G "
            f"the longest direction was {longest[0] / longest[-1]:.0f} times as long as the shortest.")


def _matrix_of(attempt, G):
    """A learner's matrix for G. Raises NotYet for a product of matrices that do not fit together."""
    try:
        return as_floats(attempt(G.clone()), G.shape)
    except (RuntimeError, ValueError) as error:
        if "cannot be multiplied" not in in_words(error, str) and "core dimension" not in in_words(error, str):
            raise
        rows, columns = G.shape
        rank = min(rows, columns)
        raise NotYet(f"For a G of shape ({rows}, {columns}) you multiply two matrices that do not fit together. By "
                     f"default svd returns U ({rows}, {rows}) and Vh ({columns}, {columns}); with full_matrices=False "
                     f"it returns U ({rows}, {rank}) and Vh ({rank}, {columns}), whose rows are the singular vectors."
                     ) from None


def _direction_mistakes(G):
    """The results of typical mistakes: (message, result) pairs."""
    U, values, Vh = torch.linalg.svd(G, full_matrices=False)
    all_alike = ("Your matrix is G times one number, so the ratios of its singular values are still those of G. Each "
                 "singular value must become 1.")
    one_line = ("Your matrix has {0}s of length 1. The directions meant here are the singular vectors, which combine "
                "all {0}s.")
    mistakes = [
        (all_alike, G / G.norm()), (all_alike, G / values[0]), (all_alike, G / values.mean()),
        ("That is G again. Leave the singular values out of the product, so that they are all 1.", G),
        ("That is sign(G): all elements get the same size, as in Adam's first step. Its singular values still differ.",
         G.sign()),
        (one_line.format("row"), G / G.norm(dim=1, keepdim=True)),
        (one_line.format("column"), G / G.norm(dim=0, keepdim=True)),
        ("Your matrix is the right one times -1: it points away from G.", -(U @ Vh)),
    ]
    if len(U) == len(Vh.T):
        mistakes += [("You multiply by V instead of its transpose. torch.linalg.svd returns Vh, which is V transposed "
                      "already.", U @ Vh.T),
                     ("Your matrix is the transpose of the right one.", (U @ Vh).T)]
    return mistakes


def _explain_lengths(answer, G):
    """Raises NotYet with what is wrong about a matrix: its singular values, its singular vectors, or both."""
    U, values, Vh = torch.linalg.svd(G, full_matrices=False)
    lengths = (U.T @ answer @ Vh.T).diagonal()
    low, high, shape = lengths.min(), lengths.max(), tuple(G.shape)
    own = torch.linalg.svdvals(answer)
    if not same(answer, U @ lengths.diag() @ Vh, 1e-2):
        if same(own, torch.ones(len(own)), 1e-2):
            raise NotYet("All singular values of your matrix are 1, but its singular vectors are not those of G. Each "
                         "column of U belongs to the row of Vh with the same number.")
        raise NotYet(f"For a G of shape {shape} the singular values of your matrix go from {own[-1]:.3g} to "
                     f"{own[0]:.3g}, and its singular vectors are not those of G. Begin with torch.linalg.svd.")
    if low > 0.6 and high < 1.3:
        raise NotYet(f"The singular vectors are right, but the singular values go from {low:.2f} to {high:.2f}. Muon's "
                     "polynomial reaches only values near 1. That suffices for Muon: the longest direction of such an "
                     f"update is {high / low:.1f} times as long as the shortest; in this G it is "
                     f"{values[0] / values[-1]:.1f} times as long. Here, make all of them exactly 1.")
    raise NotYet(f"The singular vectors are right. For a G of shape {shape} your singular values go from {low:.3g} to "
                 f"{high:.3g}; expected 1 for all.")


# --- shuffled epochs -------------------------------------------------------------------------------------------------


def epoch_starts(T, B, first, order, place):
    """The starts of the B windows of batch number `place`. Window 0 starts at `first`; order: the windows' numbers."""
    return [first + T * window for window in order[place * B : (place + 1) * B]]


def _test_epoch(attempt):
    """Compares the starts of all batches of three epochs with those of the course's own batches."""
    for N, T, B, seed in ((50, 5, 3, 0), (60, 7, 2, 0), (90, 8, 4, 2)):
        batches = (N - T) // T // B
        starts = [corpus.epoch_batch(torch.arange(N), B, T, place, seed)[0][:, 0] for place in range(batches)]
        starts = torch.stack(starts)  # (batches, B); the text's tokens are their own positions
        first = int(starts.min())
        order = ((starts - first) // T).flatten().tolist()
        answer = torch.stack([_as_starts(attempt(T, B, first, list(order), place), T, B, place)
                              for place in range(batches)])
        if torch.equal(answer, starts.float()):
            continue
        for message, wrong in _epoch_mistakes(T, B, first, order, batches):
            if torch.equal(answer, wrong.float()):
                raise NotYet(message)
        place = int((answer != starts).any(dim=1).nonzero()[0])
        raise NotYet(f"For T = {T}, B = {B}, first = {first}, order = {order} and place = {place} you return "
                     f"{answer[place].long().tolist()}; expected {starts[place].tolist()}.")
    return "Your windows are those of corpus.epoch_batch: over one epoch, each of them is read exactly once."


def _as_starts(answer, T, B, place):
    """A learner's starts as a tensor (B,). Raises NotYet if they have another form."""
    needs_answer(answer)
    if isinstance(answer, (int, float)) or (hasattr(answer, "shape") and tuple(answer.shape) == ()):
        raise NotYet(f"You return one start. A batch has B = {B} windows: return the start of each.")
    starts = as_floats(answer)
    if tuple(starts.shape) == (B, T):
        raise NotYet(f"You return all {T} positions of each window. Return only the B = {B} starts.")
    if tuple(starts.shape) != (B,):
        raise NotYet(f"For B = {B} and place = {place} you return {describe(answer)}; expected {B} starts. The first "
                     "batch has place 0 and takes the windows order[0] to order[B - 1].")
    return starts


def _epoch_mistakes(T, B, first, order, batches):
    """The results of typical mistakes for all batches: (message, starts (batches, B)) pairs."""
    windows = torch.tensor(order).view(batches, B)
    sliding = torch.stack([torch.tensor(order)[place:][:B] for place in range(batches)])
    right = first + T * windows
    overlap = "Your windows overlap: window number w begins w * T tokens after window 0, not w tokens after it."
    return [
        ("Your batches share windows: the next batch takes up where this one ends, so a batch begins at place * B in "
         "the order, not at place.", first + T * sliding),
        (overlap, first + windows),
        ("These are the numbers of the windows. Their starts are token positions: each window has T tokens.", windows),
        ("Window 0 does not begin at token 0, but at token `first`.", T * windows),
        ("`first` is a token, not a window: multiply only the number of the window by T.", (first + windows) * T),
        ("You leave a token out between the windows. Laid end to end, a window begins T tokens after the one before: "
         "the last target of one is the first input of the next.", first + (T + 1) * windows),
        ("You read the text from its beginning to its end. Look the windows' numbers up in `order`.",
         first + T * torch.arange(len(order)).view(batches, B)),
        ("Over the epoch each window comes once, but a batch should take B neighbours of the order, not entries that "
         f"are {batches} places apart.", first + T * windows.view(B, batches).T),
        ("These are the right windows in each batch, but not in the sequence in which `order` names them.",
         right.sort(dim=1).values),
    ]


# --- embeddings from counts ------------------------------------------------------------------------------------------


def positive_information(ids, V):
    """ids (N,) -> (V, V): the positive pointwise mutual information of tokens side by side, in nats."""
    pairs = torch.zeros(V, V)  # row a, column b: how often b followed a
    pairs.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    pairs = pairs + pairs.T  # in either order
    each = pairs.sum(dim=1)  # (V,)
    ratio = pairs * pairs.sum() / (each[:, None] * each)  # 0 / 0 for a token that never occurs
    return torch.where(pairs > 0, ratio, 1.0).clamp(min=1).log()


def _information(pairs, rows, columns, n):
    """ln(pairs n / (rows columns)), of any sign; 0 for pairs that never occur."""
    return torch.where(pairs > 0, pairs * n / (rows[:, None] * columns), 1.0).log()


def _pairs_of(ids, V):
    """(V, V): how often the token of the column followed that of the row."""
    return torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V).float()


def _information_mistakes(ids, V):
    """The results of typical mistakes: (message, result) pairs."""
    one, count = _pairs_of(ids, V), torch.bincount(ids, minlength=V).float()
    pairs, once = one + one.T, one + one.T - one.diag().diag()
    each, n = pairs.sum(1), pairs.sum()
    signed, ratio = _information(pairs, each, each, n), torch.where(pairs > 0, pairs * n / (each[:, None] * each), 0)
    one_order = "You count neighbours in one order only. Add the transposed counts: n + n.T."
    not_n = "n is the sum of all elements of the symmetrised counts, not a number of tokens."
    return [
        (one_order, _information(one, one.sum(1), one.sum(0), one.sum()).clamp(min=0)),
        (one_order, _information(one, one.sum(1), one.sum(1), one.sum()).clamp(min=0)),
        (one_order, _information(one, count, count, len(ids)).clamp(min=0)),
        ("Negative values must become 0: only pairs that are more frequent than by chance are kept.", signed),
        ("Negative values must become 0; you drop their sign.", signed.abs()),
        ("These are bits. Use the natural logarithm.", signed.clamp(min=0) / math.log(2)),
        (not_n, _information(pairs, each, each, len(ids)).clamp(min=0)),
        (not_n, _information(pairs, each, each, len(ids) - 1).clamp(min=0)),
        ("n(a) is the sum of row a of the symmetrised counts, and n the sum of all of them. You count tokens.",
         _information(pairs, count, count, len(ids)).clamp(min=0)),
        ("You add 1 to the row sums. The course's start_from_counts does this to avoid a division by 0; here, set the "
         "rows of tokens that never occur to 0.", _information(pairs, each + 1, each + 1, n).clamp(min=0)),
        ("You add 1 inside the logarithm. Set the pairs that never occur to 0 instead.", (ratio + 1).log()),
        ("That is the ratio of a pair's count to the count by chance. Take its logarithm.", ratio),
        ("That is the ratio of a pair's count to the count by chance. Take its logarithm.", ratio.clamp(min=1)),
        ("These are the counts. Compare each with the count expected by chance.", pairs),
        ("A token that follows itself is counted once in your matrix. Adding the transpose counts it twice, as any "
         "other pair.", _information(once, once.sum(1), once.sum(1), once.sum()).clamp(min=0)),
    ]


def _test_information(attempt):
    """Compares the matrices for texts in which some tokens never occur, and some follow themselves."""
    skewed = torch.multinomial(torch.tensor([6.0, 4, 0, 3, 2, 1, 1]), 50, True,
                               generator=torch.Generator().manual_seed(0))
    for ids, V in ((torch.tensor([0, 1, 0, 1, 2, 2, 4, 0, 1, 2, 0, 4]), 5), (skewed, 9),
                   (torch.tensor([2, 0, 2, 1, 1, 0, 2]), 3)):
        answer, right = as_floats(attempt(ids.clone(), V), (V, V)), positive_information(ids, V)
        if same(answer, right):
            continue
        if not answer.isfinite().all():
            raise NotYet("Your matrix contains -inf, inf or nan. The logarithm of 0 is -inf, and 0 / 0 is nan: set the "
                         "pairs that never occur to 0.")
        if not answer.any():
            raise NotYet("All your values are 0. Have you multiplied n(a, b) by n, the sum of all counts?")
        name_the_mistake(answer, _information_mistakes(ids, V))
        _explain_pair(answer, right, ids, V)
    return ("The course's embeddings from counts are the leading singular vectors of such a matrix, times the roots of "
            "their singular values. (start_from_counts adds 1 to each row sum, so that it never divides by 0.)")


def _explain_pair(answer, right, ids, V):
    """Raises NotYet with the counts of the first pair whose value is wrong."""
    a, b = ((answer - right).abs() > 1e-4 * (1 + right)).nonzero()[0].tolist()
    pairs = _pairs_of(ids, V)
    pairs = pairs + pairs.T
    counts = f"n({a}, {b}) = {pairs[a, b]:g}, n({a}) = {pairs[a].sum():g}, n({b}) = {pairs[b].sum():g}"
    raise NotYet(f"In the text {ids.tolist()}, {counts} and n = {pairs.sum():g}. Expected {right[a, b]:.4f}; yours is "
                 f"{answer[a, b]:.4f}.")


# --- noise in the inputs ---------------------------------------------------------------------------------------------


def with_noise(x, random_ids, u, share):
    """x, random_ids, u, all (B, T) -> (B, T): random_ids where u, uniform from 0 to 1, lies below the share."""
    return torch.where(u < share, random_ids, x)


def _test_noise(attempt):
    """Compares the ids for several shares and shapes. Some u equal the share, and some are 0."""
    for B, T, share, seed in ((3, 5, 0.25, 8), (2, 7, 0.5, 1), (4, 3, 0.0, 2), (1, 6, 1.0, 3)):
        generator = torch.Generator().manual_seed(seed)
        text = torch.randint(1, 50, (B * T + 1,), generator=generator)
        random_ids = torch.randint(50, 100, (B, T), generator=generator)
        u = torch.randint(8, (B, T), generator=generator) / 8
        x = text[:-1].view(B, T)
        before = x.clone()
        returned = needs_answer(attempt(x, random_ids.clone(), u.clone(), share))
        if not torch.equal(x, before):
            raise NotYet("Your function changes x itself. A batch can be a view of the text, as it is here: then the "
                         "text is damaged for all later steps. Return a new tensor.")
        if isinstance(returned, torch.Tensor) and returned.is_floating_point():
            raise NotYet(f"You return {describe(returned)}. Token ids must stay int64: an embedding looks up rows.")
        answer, right = as_floats(returned, (B, T)), with_noise(x, random_ids, u, share)
        if torch.equal(answer, right.float()):
            continue
        for message, wrong in _noise_mistakes(x, random_ids, u, share):
            if torch.equal(answer, wrong.float()):
                raise NotYet(message)
        at = tuple((answer != right).nonzero()[0].tolist())
        raise NotYet(f"At {at} u is {u[at]:g} and the share {share:g}: expected {right[at]}, yours is {answer[at]:g}. "
                     f"(x has {x[at]} there, random_ids {random_ids[at]}.)")
    return "The targets stay as they are. As u is uniform, the share of the tokens that are replaced is about `share`."


def _noise_mistakes(x, random_ids, u, share):
    """The results of typical mistakes: (message, ids) pairs."""
    inverted = (f"You replace where u is at least the share, so {1 - share:.0%} of the tokens on average. Replace "
                 "where u < share.")
    return [
        (inverted, torch.where(u < share, x, random_ids)),
        (inverted, torch.where(u > share, random_ids, x)),
        ("You also replace where u equals the share. As u can be exactly 0, a share of 0 would replace tokens.",
         torch.where(u <= share, random_ids, x)),
        ("0 is a token, too. Put random_ids where tokens are dropped.", torch.where(u < share, 0, x)),
        ("You add the random ids. Replace the token instead: the sum can lie outside the vocabulary.",
         torch.where(u < share, x + random_ids, x)),
        ("You replace all tokens. Replace only where u < share.", random_ids),
        ("You replace no token.", x),
        ("You replace the same positions in each row. Each token has its own u.",
         torch.where(u[:1] < share, random_ids, x)),
        ("You replace whole rows. Each token has its own u.", torch.where(u[:, :1] < share, random_ids, x)),
        ("That is the mask. Use it to choose between random_ids and x.", u < share),
    ]


# --- is it a record? -------------------------------------------------------------------------------------------------


def t_statistic(losses, target):
    """The losses of several seeds and a target -> how many standard errors their mean lies below the target."""
    n = len(losses)
    mean = sum(losses) / n
    variance = sum((loss - mean) ** 2 for loss in losses) / (n - 1)
    return (target - mean) / math.sqrt(variance / n)


TEN = [4.86, 4.93, 4.81, 4.97, 4.84, 4.90, 4.79, 4.88, 4.95, 4.82]  # losses of ten seeds


def _test_target(attempt):
    """Compares t for 10, 4 and 6 seeds, below the target and above it."""
    for losses, target_loss in ((TEN, 4.96), ([5.3, 5.1, 5.6, 5.2], 5.05), ([3.2, 2.9, 3.5, 2.7, 3.1, 3.0], 3.6)):
        answer = as_number(attempt(list(losses), target_loss), "t, one number")
        right = t_statistic(losses, target_loss)
        if close(answer, right, 1e-3):
            continue
        for message, wrong in _t_mistakes(losses, target_loss):
            if close(answer, wrong, 1e-3):
                raise NotYet(message)
        raise NotYet(f"For the losses {losses} and the target {target_loss} t is {right:.3f}; you return {answer:.3f}.")
    n = len(TEN)
    limit = speedrun_results.quantile(1 - speedrun_results.LEVEL, n - 1)
    return (f"With {n} seeds, p < {speedrun_results.LEVEL:g} means t > {limit:.1f}. The ten losses of the check reach "
            f"t = {t_statistic(TEN, 4.96):.1f}.")


def _t_mistakes(losses, target_loss):
    """The results of typical mistakes: (message, number) pairs."""
    n, t = len(losses), t_statistic(losses, target_loss)
    difference = target_loss - sum(losses) / n
    error = difference / t
    spread = error * math.sqrt(n)
    return [
        ("The sign is wrong: t is positive if the mean lies below the target, and negative if it lies above.", -t),
        ("Divide the sum of squares by n - 1: the mean comes from the same data. (torch.std does this by default, "
         "numpy.std with ddof=1.)", t * math.sqrt(n / (n - 1))),
        ("You divide by the standard deviation of one loss. The mean of n losses varies less: divide it by sqrt(n) "
         "first.", difference / spread),
        ("You divide by the standard deviation of one loss, computed with n. Divide the sum of squares by n - 1, and "
         "the standard deviation by sqrt(n).", difference / spread * math.sqrt(n / (n - 1))),
        ("Divide the standard deviation by sqrt(n), not by n.", difference / (spread / n)),
        ("You divide by the square of the standard error: take the root of variance / n.", difference / error**2),
        ("You divide the variance by sqrt(n). Take its root first: the standard deviation.",
         difference / (spread**2 / math.sqrt(n))),
        ("That is the square of t, which does not say on which side of the target the mean lies.", t**2),
        ("That is the difference alone. Divide it by its standard error, to see how much of it chance can explain.",
         difference),
        ("That is the standard error. Divide the difference between the target and the mean by it.", error),
        ("That is p. Return t.", speedrun_results.p_below(losses, target_loss)),
    ]


directions = Exercise(
    "All directions with the same length", 2, 10,
    ("The singular value decomposition writes G as U @ diag(S) @ Vh. Which of the three holds the lengths, and which "
     "the directions?",
     "torch.linalg.svd(G, full_matrices=False) returns U, S and Vh, in shapes that fit together. Vh is transposed "
     "already.",
     "With all singular values 1, diag(S) is the identity and falls out of the product: U @ Vh."),
    _test_directions, same_length,
)
epoch = Exercise(
    "Shuffled epochs", 2, 15,
    ("Write down an order for 6 windows and batches of B = 2. Which entries does batch 0 take? Batch 1?",
     "Batch number place takes the entries from place * B to (place + 1) * B - 1 of the order.",
     "The windows lie end to end, so window number w starts at first + T * w."),
    _test_epoch, epoch_starts,
)
information = Exercise(
    "Embeddings from counts", 3, 20,
    ("Count first: a (V, V) matrix, row a, column b, with how often b followed a. Then add its transpose.",
     "torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V) counts the pairs without a loop. With each = "
     "pairs.sum(1), each[:, None] * each is the matrix of all products n(a) n(b).",
     "Give pairs that never occur the ratio 1 with torch.where(pairs > 0, ratio, 1.0). Then .clamp(min=1).log() gives "
     "0 for them and for all pairs that are rarer than by chance."),
    _test_information, positive_information,
)
noise = Exercise(
    "Noise in the inputs", 1, 5,
    ("A comparison of u with the share gives a Boolean mask (B, T): where is it True?",
     "torch.where(mask, a, b) returns a new tensor with a where the mask is True, and b elsewhere."),
    _test_noise, with_noise,
)
target = Exercise(
    "Is it a record?", 2, 10,
    ("How far does the mean lie below the target? How much would this mean vary if you drew other seeds?",
     "The standard deviation is the root of the sum of squared distances from the mean, divided by n - 1.",
     "The mean of n losses has the standard error deviation / sqrt(n). Return (target - mean) / error."),
    _test_target, t_statistic,
)
