"""The reference of messages: what the library's errors say, by exit code, collected from its source."""

from __future__ import annotations

import ast
from pathlib import Path

from isbi_infer import errors

_PACKAGE = Path(errors.__file__).parent
_LEAST_WORDS = 4  # of a message that can be searched for


def page() -> str:
    """Return the page in Markdown: every sentence, with … where a run puts a name or a number."""
    found: dict[str, set[str]] = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                kind = getattr(errors, node.func.id, None)
                if isinstance(kind, type) and issubclass(kind, errors.IsbiError):
                    text = _text(node.args[0])
                    if len(text.replace("…", " ").split()) >= _LEAST_WORDS:
                        found.setdefault(kind.__name__, set()).add(text)
    parts = [
        "# All messages\n\nEvery sentence of an error, as the source has it: … stands for what the run puts there. "
        "Search this page, or the site, for words of the message that you see. [The commonest are "
        "explained](errors.md)."
    ]
    for name in sorted(found, key=lambda name: (getattr(errors, name).exit_code, name)):
        lines = "\n".join(f"- {_escaped(text)}" for text in sorted(found[name]))
        parts.append(f"## {name}, exit code {getattr(errors, name).exit_code}\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_[]<>{}#|$~" else character for character in text)
