"""Which checkers see which mistakes: mistakes planted by hand × losses × initial weights, ours against PyTorch, JAX and autograd.

    python benchmarks/detection.py [--quick] [--ours] [--cells elman,lstm] [--losses last,every] [--starts small,normal] [--verbose]

Every mistake of `planted` is made in a hand derivation and shown to each checker at the same point: `diagnose` here,
torch.autograd.gradcheck (slow and fast), jax.test_util.check_grads and autograd.test_util.check_grads, all with their default
tolerances in float64, first order, reverse mode. A mistake that moves no gradient by more than 1e-7 of its size is not
observable at that point. Of ours the table says how many mistakes were *named*, too: the words that belong to the mistake stand
in the finding, and nothing else was left unexplained. A right derivation is shown to everyone first; an accusation is a failure.

How to read it: a row is a cell, a loss and a start of the weights. *planted* mistakes were made, *observable* of them move a gradient
there at all, *ours* were found, *named* were named rightly; under each other checker stands how many it found, of the same
observable ones. What a checker did not find it passed as right, in silence. The last lines are the sums, what was found but not
named (we say so), and who accused a right derivation.

Checkers that are not installed are left out, all others with --ours. Exit status 1 when an observable mistake was missed by ours in silence, a right
derivation was accused, or fewer than 95 % were named.
"""

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import planted

from tinygrad_rnn import check

OBSERVABLE = 1e-7


def ours(loss, params, data, by_hand):
    """Whether `diagnose` finds something wrong, and what it says."""
    return check.diagnose(loss, params, data, by_hand)


def torch_checker(fast):
    """torch.autograd.gradcheck of the derivation as an autograd.Function."""
    import torch

    def sees(params, data, by_hand):
        names = list(params)

        class Derivation(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *arrays):
                ctx.save_for_backward(*arrays)
                return torch.tensor(by_hand(dict(zip(names, (a.detach().numpy() for a in arrays))), *data)[0], dtype=torch.float64)

            @staticmethod
            def backward(ctx, g):
                grads = by_hand(dict(zip(names, (a.detach().numpy() for a in ctx.saved_tensors))), *data)[1]
                return tuple(g * torch.tensor(np.ascontiguousarray(grads[name])) for name in names)

        inputs = tuple(torch.tensor(params[name], requires_grad=True) for name in names)
        torch.manual_seed(0)
        return not torch.autograd.gradcheck(Derivation.apply, inputs, raise_exception=False, fast_mode=fast)

    return sees


def jax_checker():
    """jax.test_util.check_grads of the derivation as a custom_vjp around callbacks."""
    import jax
    import jax.numpy as jnp
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)

    def sees(params, data, by_hand):
        shapes = {name: jax.ShapeDtypeStruct(value.shape, jnp.float64) for name, value in params.items()}
        plain = lambda p: {name: np.asarray(value) for name, value in p.items()}

        @jax.custom_vjp
        def f(p):
            return jax.pure_callback(lambda p: np.float64(by_hand(plain(p), *data)[0]), jax.ShapeDtypeStruct((), jnp.float64), p)

        def backward(p, g):
            grads = jax.pure_callback(lambda p: {name: np.asarray(by_hand(plain(p), *data)[1][name]) for name in p}, shapes, p)
            return ({name: g * value for name, value in grads.items()},)

        f.defvjp(lambda p: (f(p), p), backward)
        try:
            check_grads(f, (params,), order=1, modes=["rev"])
        except AssertionError:
            return True
        return False

    return sees


def autograd_checker():
    """autograd.test_util.check_grads of the derivation as a primitive."""
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    def sees(params, data, by_hand):
        names = list(params)

        @primitive
        def f(*arrays):
            return float(by_hand(dict(zip(names, arrays)), *data)[0])

        def rule(n):
            return lambda y, *arrays: lambda g: g * np.asarray(by_hand(dict(zip(names, arrays)), *data)[1][names[n]])

        defvjp(f, *(rule(n) for n in range(len(names))))
        np.random.seed(0)
        try:
            check_grads(f, tuple(range(len(names))), modes=["rev"], order=1)(*params.values())
        except AssertionError:
            return True
        return False

    return sees


def checkers():
    """Those of the other libraries that are installed, by name."""
    makers = {"torch": lambda: torch_checker(False), "torch fast": lambda: torch_checker(True), "jax": jax_checker, "autograd": autograd_checker}
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError:
            print(f"{name} is not installed: left out")
    return found


def effect(right, wrong):
    """How far a mistake moves the gradients: the largest relative change of an entry's tensor."""
    return max(float(np.abs(wrong[n] - g).max() / max(np.abs(g).max(), 1e-300)) for n, g in right.items())


def trial(cell, loss, start, others, verbose):
    """All mistakes at one point: counts by what happened, and the false accusations."""
    params, data = planted.point(cell, loss, start)
    f, right = planted.in_ops(cell, loss), planted.bptt(cell, loss)
    counts, accused = Counter(), []
    accused += ["ours"] * (not ours(f, params, data, right).ok) + [name for name, sees in others.items() if sees(params, data, right)]
    exact = right(params, *data)[1]
    for bug, words in planted.BUGS.items():
        if not planted.applies(bug, cell, loss):
            continue
        by_hand = planted.bptt(cell, loss, bug)
        counts["planted"] += 1
        if effect(exact, by_hand(params, *data)[1]) < OBSERVABLE:
            counts["unobservable"] += 1
            continue
        counts["observable"] += 1
        report = ours(f, params, data, by_hand)
        text = " ".join(f"{finding.bug} {finding.explanation}" for finding in report.findings)
        named = not report.ok and not report.unnamed and any(word in text for word in words)
        counts["ours"] += not report.ok
        counts["named"] += named
        counts["abstained"] += bool(report.unnamed)
        seen = {name: sees(params, data, by_hand) for name, sees in others.items()}
        counts.update(name for name, saw in seen.items() if saw)
        if verbose or report.ok or not named:
            kinds = ", ".join(dict.fromkeys(finding.bug for finding in report.findings)) or ("nothing" if report.ok else "wrong, not named")
            blind = ", ".join(name for name, saw in seen.items() if not saw)
            print(f"    {cell} {loss} {start}: {bug}: {kinds}" + (f"; passed by {blind}" if blind else ""))
    return counts, accused


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Elman and the custom cell, two losses, two starts")
    parser.add_argument("--ours", action="store_true", help="no other checker: they take most of the time")
    parser.add_argument("--cells", default="")
    parser.add_argument("--losses", default="")
    parser.add_argument("--starts", default="")
    parser.add_argument("--verbose", action="store_true", help="a line for every mistake")
    given = parser.parse_args()
    cells = given.cells.split(",") if given.cells else ["elman", "custom"] if given.quick else list(planted.CELLS)
    losses = given.losses.split(",") if given.losses else ["last", "every"] if given.quick else list(planted.LOSSES)
    starts = given.starts.split(",") if given.starts else ["small", "normal"] if given.quick else list(planted.STARTS)
    warnings.simplefilter("ignore")
    others, began = {} if given.ours else checkers(), time.perf_counter()
    heads = ["cell", "loss", "start", "planted", "observable", "ours", "named", *others]
    widths = [8, 8, 7, 8, 11, 6, 6, *(len(name) + 2 for name in others)]
    line = lambda cells: print("".join(str(c).rjust(w) for c, w in zip(cells, widths)), flush=True)
    line(heads)
    total, false = Counter(), Counter()
    for cell in cells:
        for loss in losses:
            for start in starts:
                counts, accused = trial(cell, loss, start, others, given.verbose)
                line([cell, loss, start, *(counts[head] for head in heads[3:])])
                total.update(counts)
                false.update(accused)
    line(["all", "", "", *(total[head] for head in heads[3:])])
    n = max(total["observable"], 1)
    print(f"of {total['observable']} observable mistakes (detected / missed): "
          + ", ".join(f"{name} {total[name]} / {total['observable'] - total[name]}" for name in ["ours", *others]))
    print(f"ours named {total['named']} ({total['named'] / n:.1%}), said it could not name {total['abstained']}")
    print(f"right derivations accused: {', '.join(f'{name} {count}' for name, count in false.items()) or 'none'}; {time.perf_counter() - began:.0f} s")
    return int(total["ours"] < total["observable"] or false["ours"] > 0 or total["named"] < 0.95 * total["observable"])


if __name__ == "__main__":
    sys.exit(main())
