"""The two notations of an equation: Unicode text, and LaTeX within what KaTeX and MathJax know.

Knows how a name with a step, a product, a sum or a function is written. Refuses to know what an equation says: the same
calls are made for both. Nothing of the library stands below it.
"""

import re

_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau",
          "phi", "chi", "psi", "omega"}


class Text:
    """The words of Unicode mathematics; every method returns a text."""

    times, scaled, minus, beside = " ∘ ", " · ", "−", " "

    def name(self, name, step="", plus=False):
        return name + "⁺" * plus + {"t": "ₜ", "t-1": "ₜ₋₁", "0": "₀", "T": "_T", "": ""}[step]

    def cotangent(self, name, step="", plus=False):
        return self.name(f"d{name}", step, plus)

    def gradient(self, what):
        return f"∂L/∂{what}"

    def transposed(self, text):
        return f"{text}ᵀ"

    def power(self, text, exponent):
        return f"{text}²" if exponent == "2" else f"{text}^{exponent}"

    def ratio(self, a, b):
        return None

    def apply(self, name, args):
        return f"{_FUNCTIONS.get(name, (name,))[0]}({', '.join(args)})"

    def root(self, text):
        return f"√({text})"

    def total(self, letters, text):
        return f"Σ{'ₜ' if letters == 't' else '_' + letters} {text}"

    def number(self, number):
        return repr(number).replace("-", "−")

    def page(self, title, parts):
        lines = [title]
        for head, rows in parts:
            lines += ["", head.replace("DHT", "dh⁺_T"), *(f"    {left} = {right}" for left, right in rows)]
        return "\n".join(lines)


class Latex:
    """The words of LaTeX mathematics, within what KaTeX and MathJax know."""

    times, scaled, minus, beside = r" \circ ", r" \cdot ", "-", r" \, "

    def name(self, name, step="", plus=False):
        base, *rest = name.strip("_").split("_")
        digits = re.fullmatch(r"([A-Za-z]+)(\d+)", base)
        if digits:
            base, rest = digits[1], [digits[2], *rest]
        base = f"\\{base}" if base in _GREEK else base if len(base) == 1 else f"\\mathrm{{{base}}}"
        below = ",".join([*(r if len(r) == 1 else f"\\mathrm{{{r}}}" for r in rest), *([step] if step else [])])
        return base + "^{+}" * plus + (f"_{{{below}}}" if below else "")

    def cotangent(self, name, step="", plus=False):
        return f"\\mathrm{{d}}{self.name(name, step, plus)}"

    def gradient(self, what):
        return f"\\frac{{\\partial L}}{{\\partial {what}}}"

    def transposed(self, text):
        return f"{{{text}}}^{{\\top}}"

    def power(self, text, exponent):
        return f"{{{text}}}^{{{exponent}}}"

    def ratio(self, a, b):
        return f"\\frac{{{a}}}{{{b}}}"

    def apply(self, name, args):
        word = _FUNCTIONS.get(name, ("", ""))[1] or f"\\operatorname{{{name.replace('_', ' ')}}}"
        return f"{word}({', '.join(args)})"

    def root(self, text):
        return f"\\sqrt{{{text}}}"

    def total(self, letters, text):
        return f"\\sum_{{{letters}}} {text}"

    def number(self, number):
        text = repr(number)
        if "e" not in text:
            return text
        mantissa, exponent = text.split("e")
        return ("" if mantissa == "1" else f"{mantissa} \\cdot ") + f"10^{{{int(exponent)}}}"

    def page(self, title, parts):
        rows = []
        for head, equations in parts:
            words = head.replace("DHT", r"$\mathrm{d}h^{+}_{T}$").replace("…", r"$\dots$")
            rows.append(f"&\\text{{{words}}}")
            rows += [f"{left} &= {right}" for left, right in equations]
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


_FUNCTIONS = {"tanh": ("tanh", r"\tanh"), "sigmoid": ("σ", r"\sigma"), "exp": ("exp", r"\exp"), "log": ("log", r"\log"), "sin": ("sin", r"\sin"),
              "cos": ("cos", r"\cos"), "maximum": ("max", r"\max"), "minimum": ("min", r"\min"), "max": ("max", r"\max"), "min": ("min", r"\min"),
              "absolute": ("abs", r"\operatorname{abs}"), "split_": ("split", r"\operatorname{split}"), "scatter_add": ("place", r"\operatorname{place}")}
