"""The portable path uses only operations that are exact or correctly rounded, the same on every machine.

Anything else is marked where it stands, with a trailing comment `# portable: REASON`.
"""

import ast
import io
import tokenize

import pytest
from helpers import ROOT

# What a portable run computes with. Files and folders below distnet; of native arithmetic there is a list of its own.
PATH = (
    "portable",
    "nn/dropout.py",
    "nn/functional.py",
    "nn/optimizers.py",
    "nn/parameters.py",
    "nn/portable.py",
    "nn/schedules.py",
    "parallel/exchange.py",
    "training/batches.py",
    "training/evaluation.py",
    "training/summary.py",
    "training/trainer.py",
    "datasets/augmentation.py",
    "datasets/synthetic.py",
)
FILES = sorted(
    path
    for name in PATH
    for path in ((ROOT / "distnet" / name).rglob("*.py") if "." not in name else [ROOT / "distnet" / name])
)


def words(text):
    return set(text.split())


# NumPy's functions that are correctly rounded or exact, then those that allocate and move, and types.
NUMPY = words(
    """
    abs add subtract multiply divide negative sqrt floor ceil rint clip ldexp frexp where max maximum minimum
    less greater greater_equal equal isfinite array_equal count_nonzero flatnonzero argsort
    bincount searchsorted bitwise_and bitwise_xor left_shift right_shift
    array asarray arange empty empty_like zeros zeros_like ones full copyto concatenate stack transpose
    dtype bool_ uint8 int32 int64 uint64 intp float32 float64 inf errstate finfo
    """
)
REDUCED = {"maximum", "minimum"}  # whose `reduce` does not depend on order
MATH = words("sqrt ldexp frexp fsum isfinite isnan isqrt factorial prod inf pi")
METHODS = words("sum mean std var dot cumsum cumprod prod trace round random standard_normal normal integers")
BUILTINS = words("sum pow max min")  # with NaN, `max` and `min` depend on the order of their arguments
OPERATORS = {ast.Pow: "**", ast.MatMult: "@", ast.Mod: "%"}
MODULES = words(
    "__future__ collections contextlib dataclasses distnet functools hashlib itertools math mpi4py numpy time typing"
)
# What is an integer, or a sequence of them, wherever it has this name in these files.
INTEGERS = words(
    """
    batch_size before bits block classes columns count exponent features first functions height inputs itemsize k number
    outputs part pattern place purpose receive_counts rows samples seed send_counts shape size sizes start step stop
    terms total width
    BLOCK BLOCK_ROWS CACHE CHUNK GOLDEN_GAMMA LEAST MOST MOST_BITS PIXELS_AT_ONCE ROWS_AT_ONCE SIGNIFICAND TERMS TILE
    """
)
INTEGER_CALLS = words("draw_order exponent_above int len product_bits sum_bits")
INTEGER_TYPES = words("uint8 int32 int64 uint64 intp")
MARK = "# portable:"


def chain(node):
    """The names of a dotted expression, such as np.add.reduce; none if it starts with anything but a name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def is_integer(node):
    """Whether an expression is made of integers alone, by what they are named."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return (node.id if isinstance(node, ast.Name) else node.attr) in INTEGERS
    if isinstance(node, ast.BinOp):
        return not isinstance(node.op, ast.Div) and is_integer(node.left) and is_integer(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in INTEGER_CALLS or (node.func.id in BUILTINS and all(map(is_integer, node.args)))
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return is_integer(node.elt)
    return isinstance(node, (ast.Subscript, ast.UnaryOp)) and is_integer(
        node.value if isinstance(node, ast.Subscript) else node.operand
    )


def module_fault(node):
    """A module that the portable path may not import, or an import that hides what is used."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    for name in names:
        if name.split(".")[0] not in MODULES or (name.startswith("numpy.") and name != "numpy.typing"):
            return f"import of {name}"
        if isinstance(node, ast.ImportFrom) and name in ("math", "numpy"):
            return f"from {name} import"
    return ""


def method_fault(call):
    """A cast to integers, which is undefined out of range, or a view of words as smaller ones."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    kind = chain(call.args[0])[-1:] if call.args else []
    if name == "astype" and kind != ["float64"] and (not kind or kind[0] in INTEGER_TYPES):
        return ".astype() of integers"
    if name == "view" and kind != ["int64"]:
        return ".view() of another type"
    if any(word.arg == "casting" and getattr(word.value, "value", "") == "unsafe" for word in call.keywords):
        return "an unsafe cast"
    return ""


def fault(node):
    """What a node of the syntax tree does that may differ between machines, or ""."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return module_fault(node)
    if isinstance(node, ast.BinOp) and is_integer(node):
        return ""
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        return OPERATORS.get(type(node.op), "")
    if isinstance(node, ast.Attribute):
        first, *names = chain(node) or ["", ""]
        if first == "np" and names[0] not in NUMPY:
            return f"np.{names[0]}"
        if (
            first == "np"
            and names[0] not in REDUCED
            and names[1:] in (["reduce"], ["reduceat"], ["accumulate"], ["at"])
        ):
            return f"np.{names[0]}.{names[1]}"
        if first == "math" and names[0] not in MATH:
            return f"math.{names[0]}"
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS and not is_integer(node):
            return f"{node.func.id}()"
        if method_fault(node):
            return method_fault(node)
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in METHODS
            and chain(node.func)[:1] not in (["math"], ["np"])
        ):
            return f".{node.func.attr}()"
    return ""


def marks(source):
    """The line numbers of marks, with their reasons."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    return {line: text.partition(MARK)[2].strip() for line, text in comments if MARK in text}


def faults(source):
    """Each fault with the lines that it stands on, whether it is marked or not."""
    found = ((fault(node), node) for node in ast.walk(ast.parse(source)))
    return [(text, range(node.lineno, node.end_lineno + 1)) for text, node in found if text]


def unmarked(source):
    """Line and fault of all that is not marked."""
    lines = marks(source).keys()
    return sorted({(place.start, text) for text, place in faults(source) if not lines & set(place)})


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "distnet")))


@every_file
def test_the_portable_path_uses_portable_operations_alone(path):
    assert unmarked(path.read_text()) == []


@every_file
def test_a_mark_has_a_reason_and_something_to_excuse(path):
    source = path.read_text()
    needed = {line for _, place in faults(source) for line in place}
    assert {line for line, reason in marks(source).items() if len(reason) < 4 or line not in needed} == set()


def test_nothing_is_allowed_that_is_not_used():
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text()))]
    used = {tuple(chain(node)[:2]) for node in nodes if isinstance(node, ast.Attribute)}
    assert {name for name in NUMPY if ("np", name) not in used} == set()
    assert {name for name in MATH if ("math", name) not in used} == set()


PLANTED = {
    "y = x**0.5": "**",
    "x **= 2.0": "**",
    "y = a @ b": "@",
    "y = x % 1.0": "%",
    "y = x.sum()": ".sum()",
    "y = (a * b).mean(axis=0)": ".mean()",
    "y = x.T.dot(z)": ".dot()",
    "y = np.exp(x)": "np.exp",
    "f = np.tanh": "np.tanh",
    "y = np.log1p(x)": "np.log1p",
    "y = np.power(x, 2)": "np.power",
    "np.dot(a, b, out)": "np.dot",
    "y = np.matmul(a, b)": "np.matmul",
    "y = np.einsum('ij,jk', a, b)": "np.einsum",
    "y = np.add.reduce(x)": "np.add.reduce",
    "np.add.reduceat(x, places)": "np.add.reduceat",
    "np.add.at(x, places, 1.0)": "np.add.at",
    "y = np.random.default_rng(0)": "np.random",
    "y = np.linalg.norm(x)": "np.linalg",
    "y = math.exp(x)": "math.exp",
    "y = math.log2(count)": "math.log2",
    "y = math.sumprod(a, b)": "math.sumprod",
    "y = sum(losses)": "sum()",
    "y = sum(each * 0.5 for each in rows)": "sum()",
    "y = pow(beta, steps)": "pow()",
    "y = max(largest, float(np.max(x)))": "max()",
    "y = min(1.0, norm)": "min()",
    "y = x.astype(np.int32)": ".astype() of integers",
    "y = words.view('<u2')": ".view() of another type",
    "np.copyto(index, x, casting='unsafe')": "an unsafe cast",
    "import random": "import of random",
    "import numpy.fft": "import of numpy.fft",
    "from math import exp": "from math import",
    "from numpy import dot": "from numpy import",
    "from scipy.special import expit": "import of scipy.special",
}


@pytest.mark.parametrize("line", PLANTED)
def test_a_planted_violation_is_found_and_a_mark_with_a_reason_excuses_it(line):
    source = f"def function(x):\n    y = x + 1\n    {line}\n"
    assert [text for _, text in unmarked(source)] == [PLANTED[line]]
    assert unmarked(source)[0][0] == 3
    assert unmarked(source.rstrip() + "  # portable: for this reason\n") == []


@pytest.mark.parametrize(
    "line",
    [
        "y = x * 2 + np.sqrt(x) / 3 - abs(x)",
        "y = np.maximum.reduce(x, 0)",
        "y = sum(sizes[1:]) + max(rows * 2, len(x), 1)",
        "place = number % rows",
        "y = x.astype(np.float64)",
        "words = x.view(np.int64)",
        "y = math.fsum(x) + math.sqrt(2)",
        "text = '2**3 @ np.exp'  # np.exp(x) ** 2",
    ],
)
def test_what_is_portable_is_not_complained_of(line):
    assert unmarked(line) == []
