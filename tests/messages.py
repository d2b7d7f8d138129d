"""The messages that distnet has for people, as they stand in its source: what is told, with … for what varies."""

import ast
from collections.abc import Iterator

from test_structure import FILES

# Whoever is called with a message among its arguments, and functions whose texts are messages or parts of them.
SPEAKERS = {"InputError", "input_error_on_every_rank", "ArgumentTypeError", "say", "write", "report", "_bad", "print"}
WORDED = {"without_effect"}


def told(node: ast.AST) -> str:
    """The fixed parts of an expression that is a string, with … between them."""
    match node:
        case ast.Constant(str(value)):
            return value
        case ast.JoinedStr():
            return "".join(map(told, node.values))
        case ast.BinOp(op=ast.Add()):
            return told(node.left) + told(node.right)
        case ast.BinOp(op=ast.Mult()):
            return told(node.left)
    return "…"


def texts(node: ast.AST) -> Iterator[str]:
    """Every string in a node, each as a whole."""
    if isinstance(node, ast.JoinedStr | ast.Constant):
        yield told(node)
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def spoken(node: ast.AST) -> Iterator[str]:
    """The messages anywhere in a node."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and each.args:
            name = ast.unparse(each.func)
            to_people = name.rpartition(".")[2] not in ("print", "write") or "sys.stderr" in ast.unparse(each)
            if name.rpartition(".")[2] in SPEAKERS and to_people:
                yield from map(told, each.args)
        if isinstance(each, ast.FunctionDef) and each.name in WORDED:
            yield from (text for part in each.body[1:] for text in texts(part) if ";" in text or "without" in text)


def worded(message: str) -> bool:
    """Whether it has words of its own, and isn't something that another one is put into."""
    return len(message.replace("…", "").split()) > 2


def messages() -> dict[str, str]:
    """Every message that is told, and the file that tells it."""
    files = sorted(FILES.items())
    found = {message: name for name, path in files for message in spoken(ast.parse(path.read_text()))}
    return {message: file for message, file in found.items() if worded(message)}


def strings() -> set[str]:
    """Every string of the source, messages or not."""
    return {text for path in FILES.values() for text in texts(ast.parse(path.read_text()))}
