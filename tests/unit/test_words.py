"""The words of the code: names say what things are, and long functions have paragraphs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "ray_distil").rglob("*.py"))}
# As names they tell nothing of the thing: what is it that was kept, or given?
VAGUE = {
    "told", "asked", "made", "given", "one", "own", "known", "found", "chosen", "kept", "seen", "held", "said",
    "shown", "other", "others", "whole", "apart", "most", "there", "here", "before", "after", "behind", "what", "how",
    "who", "named", "wanted", "begun", "of_it", "all_of_them",
}  # fmt: skip
# What is left of them. This list may only shrink: a new name finds a better word.
STILL_VAGUE = {
    "ray_distil/config/plan_config.py": {"kept"},
    "ray_distil/tiny/world.py": {"other"},
    "ray_distil/train/states.py": {"whole"},
}
LONG = 20  # lines of code


def bound_names(tree: ast.AST) -> set[str]:
    """The names of variables and parameters, without underscores at their ends."""
    nodes = list(ast.walk(tree))
    variables = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {name.strip("_") for name in variables | {node.arg for node in nodes if isinstance(node, ast.arg)}}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> list[str]:
    """The lines of a function's body behind its docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return lines[(first.end_lineno or 0) if has_docstring else first.lineno - 1 : function.end_lineno]


def is_code(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")


def walls(text: str) -> list[str]:
    """The long functions of a module in which no blank line and no comment parts the steps."""
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    bodies = [(function, body_lines(function, text.splitlines())) for function in functions]
    return [f"{f.name} at {f.lineno}" for f, body in bodies if len(body) >= LONG and all(map(is_code, body))]


def test_names_say_what_things_are() -> None:
    names = {file: bound_names(ast.parse(path.read_text("utf-8"))) for file, path in FILES.items()}
    vague = {file: words & VAGUE for file, words in names.items() if words & VAGUE}
    assert vague == STILL_VAGUE  # more: find a noun for the new name; fewer: take the word off the list


@pytest.mark.parametrize("file", FILES)
def test_long_functions_have_paragraphs(file: str) -> None:
    assert walls(FILES[file].read_text("utf-8")) == []
