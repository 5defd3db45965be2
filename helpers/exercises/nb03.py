"""Exercises of notebook 03: a clock that waits, counting FLOPs, when memory is the limit, and what a lever can give."""

from statistics import median

from helpers.exercises import Exercise, NotYet, needs_answer
from helpers.model import GPTConfig

# --- a clock that waits ----------------------------------------------------------------------------------------------


def seconds_per_run(function, wait, clock):
    """The median of five runs in seconds, after one run that does not count."""
    function()
    wait()
    times = []
    for _ in range(5):
        start = clock()
        function()
        wait()
        times.append(clock() - start)
    return median(times)


class ToyGPU:
    """A device that works on its own, in a time that is only counted: the first run is slow, each fourth too, and
    now and then one is quick."""

    launch, usual, lucky, first, disturbed = 0.001, 0.020, 0.012, 0.500, 0.100

    def __init__(self):
        self.now, self.ready, self.calls = 0.0, 0.0, 0

    def function(self):
        self.calls += 1
        slow, quick = self.calls % 4 == 0, self.calls % 7 == 3
        work = self.first if self.calls == 1 else self.disturbed if slow else self.lucky if quick else self.usual
        self.now += self.launch
        self.ready = max(self.ready, self.now) + work

    def wait(self):
        self.now = max(self.now, self.ready)

    def clock(self):
        return self.now


def _test_clock(attempt):
    toy = ToyGPU()
    answer = needs_answer(attempt(toy.function, toy.wait, toy.clock))
    right, runs = toy.launch + toy.usual, toy.calls
    if runs < 4:
        raise NotYet(f"You ran the function {runs} times. Let one run pass uncounted, then take at least three.")
    if abs(answer - right) < 1e-9:
        return f"{answer * 1e3:.0f} ms, although the first run takes {toy.first * 1e3:.0f} ms and each fourth one more."
    if answer <= toy.launch + 1e-9:
        raise NotYet(f"{answer * 1e3:.0f} ms is the time to launch the work. wait() before you read the clock again.")
    if answer > right * runs:
        raise NotYet(f"{answer * 1e3:.0f} ms: is the slow first run in it, or several runs? Give the seconds of one.")
    raise NotYet(f"{answer * 1e3:.1f} ms; a usual run takes {right * 1e3:.0f} ms. Disturbed runs pull a mean up and a "
                 "lucky one pulls a minimum down: take the median, wait() in each run, and before the first start.")


# --- counting FLOPs --------------------------------------------------------------------------------------------------


def flops_per_token(config, T):
    """FLOPs of the forward pass per token: 2 per number in a matrix, and attention over T tokens."""
    C, L, V = config.n_embd, config.n_layer, config.vocab_size
    matrices = L * (3 * C * C + C * C + 4 * C * C + 4 * C * C) + V * C  # c_attn, c_proj, c_fc, c_proj; the head
    scores, sums = 2 * T * C, 2 * T * C  # q k' and the weighted sum of v, all heads together
    return 2 * matrices + L * (scores + sums)


def _test_flops(attempt):
    for config, T in ((GPTConfig(), 1024), (GPTConfig(n_layer=3, n_embd=96, n_head=4, vocab_size=500), 7)):
        answer, right = needs_answer(attempt(config, T)), flops_per_token(config, T)
        C, L, V, P = config.n_embd, config.n_layer, config.vocab_size, config.n_positions
        attention = 4 * L * T * C
        mistakes = {
            right / 2: "That counts multiplications only: each one comes with an addition.",
            right - 2 * V * C: "The head is missing: V x C numbers. It is tied, but it multiplies.",
            right + 2 * V * C: "Is the embedding counted as well as the head? A look-up multiplies nothing.",
            right + 2 * P * C: "The position embedding is looked up and added; it multiplies nothing.",
            right - attention: "Attention is missing: queries times keys, and weights times values.",
            right - attention / 2: "Half of attention is missing: there are two products with T tokens, not one.",
            right - attention + attention / L: "Attention happens in each of the L blocks.",
            right * T: "That is the whole sequence. One token is asked for.",
        }
        if answer != right:
            raise NotYet(mistakes.get(answer, f"Yours is {answer:,.0f}, the count {right:,} FLOPs per token for "
                                              f"{config.n_layer} blocks, width {C}, T = {T}."))
    return "Two terms: 2N with N the matrices, and 4LTC for attention."


# --- limited by memory -----------------------------------------------------------------------------------------------


def tokens_needed(peak, bandwidth, bytes_per_number):
    """Tokens per pass from which on the matrices of a model are limited by the peak and no longer by the bandwidth.

    n tokens cost 2 N n FLOPs and read N numbers: both take equally long when 2 N n / peak = N bytes / bandwidth.
    """
    return peak * bytes_per_number / (2 * bandwidth)


def _test_tokens(attempt):
    for peak, bandwidth, size in ((1e12, 1e11, 4), (4e14, 2e12, 2)):
        answer, right = needs_answer(attempt(peak, bandwidth, size)), tokens_needed(peak, bandwidth, size)
        mistakes = {
            2 * right: "An addition comes with each multiplication: two FLOPs per number and token.",
            peak / bandwidth: "That is FLOPs per byte. How many FLOPs does a token do with one number?",
            right / size: "The bandwidth counts bytes, and a number has several.",
            1 / right: "Turned over: more peak needs more tokens, more bandwidth fewer.",
        }
        if abs(answer - right) > 1e-6 * right:
            near = (text for value, text in mistakes.items() if abs(answer - value) < 1e-6 * value)
            raise NotYet(next(near, f"For {peak:.0e} FLOP/s, {bandwidth:.0e} byte/s and {size} bytes per number it "
                                    f"is {right:,.0f} tokens; yours is {answer:,.1f}."))
    return "Below it, reading the weights takes longer than multiplying: the tokens that you add are nearly free."


# --- what a lever can give -------------------------------------------------------------------------------------------


def whole_speedup(share, factor):
    """How many times faster a program becomes when one part of it, with this share of its time, becomes `factor` times
    faster. Source: Amdahl, 1967."""
    return 1 / ((1 - share) + share / factor)


def _test_lever(attempt):
    for share, factor in ((0.25, 8.0), (0.6, 3.0), (1.0, 2.0), (0.3, 0.5)):
        answer, right = needs_answer(attempt(share, factor)), whole_speedup(share, factor)
        mistakes = {
            1 / right: "That is the new time, as a share of the old. How many times faster is it?",
            share * factor: "Add up times, not speeds: what is left of the old time, and what does the part take now?",
            share * factor + 1 - share: "Add up times, not speeds: a part that is faster takes a smaller time.",
            factor: "All of the program would have to become faster for that. What does the rest do meanwhile?",
            whole_speedup(share / 100, factor): "The share is a fraction: 25 % comes as 0.25.",
            1 / (1 - share + 1e-12): "The part that became faster still takes some time.",
        }
        if abs(answer - right) > 1e-9:
            near = (text for value, text in mistakes.items() if abs(answer - value) < 1e-6)
            raise NotYet(next(near, f"A part with {share:.0%} of the time, {factor:g} times faster: the whole is "
                                    f"{right:.3f} times faster; yours is {answer:.3f}."))
    limit = whole_speedup(0.25, 1e12)
    return f"A part with 25% of the time, however fast it becomes, makes the whole {limit:.2f} times faster at most."


clock = Exercise(
    "A clock that waits", 1, 8,
    "First function() and wait(), not counted. Then at least three times: start = clock(), function(), wait(), and the "
    "difference. statistics.median gives the median.", _test_clock, seconds_per_run,
)
flops = Exercise(
    "FLOPs of a token", 2, 12,
    "A matrix with n numbers costs 2n for each token: one multiplication and one addition per number. Add up the four "
    "matrices of a block, times L, and the head. Then attention: each token's query meets T keys, in each block.",
    _test_flops, flops_per_token,
)
tokens = Exercise(
    "How many tokens until it computes", 2, 10,
    "Write two times for n tokens: 2 N n / peak to multiply, N x bytes / bandwidth to read the weights. Set them "
    "equal; N cancels.", _test_tokens, tokens_needed,
)
lever = Exercise(
    "What a lever can give", 1, 6,
    "Let the whole take 1. The rest takes 1 - share, as before. What does the part take now? The speed-up is the old "
    "time divided by the new one.", _test_lever, whole_speedup,
)
