"""Finds the code that a result depends on: the modules that a module imports, and the libraries they use.

Sources are parsed once each; nothing is imported.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

# Import and distribution name of every library whose version may change a result.
LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open_clip_torch",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "peft": "peft",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "onnxruntime": "onnxruntime",
}
# Settings affect a result through their values, which are in its recipe; the store and the errors do not.
_NO_PART_OF_A_RESULT = ("settings", "errors", "store")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class _Source:
    """Hash of a module's code without comments and docstrings, and the names that it imports."""

    digest: bytes
    imports: frozenset[str]


@cache
def code_digest(roots: tuple[str, ...]) -> str:
    """Hash of the code of the `import_closure` of these modules."""
    digest = hashlib.sha256()
    for module in import_closure(roots):
        digest.update(_source(module).digest)
    return digest.hexdigest()[:16]


@cache
def library_versions(roots: tuple[str, ...]) -> dict[str, str]:
    """Versions of the `LIBRARIES` that the `import_closure` of these modules uses."""
    used = {name.split(".")[0] for module in import_closure(roots) for name in _source(module).imports}
    return {LIBRARIES[name]: version(LIBRARIES[name]) for name in sorted(used & LIBRARIES.keys())}


@cache
def import_closure(roots: tuple[str, ...]) -> tuple[str, ...]:
    """`roots` and all modules that they import, transitively, from their package, including imports inside
    functions; without settings, errors and the store. Raises ValueError if a root does not exist.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in found or module.rpartition(".")[2] in _NO_PART_OF_A_RESULT:
            continue
        found.add(module)
        waiting += _own_modules(module, _source(module).imports)
    return tuple(sorted(found))


def forget_sources() -> None:
    """Clears the caches, for tests that change sources."""
    for cached in (code_digest, library_versions, import_closure, _source):
        cached.cache_clear()


def _own_modules(module: str, names: Iterable[str]) -> list[str]:
    """The imported names that are non-empty modules of `module`'s package."""
    package = module.split(".")[0]
    own = [name for name in names if name.split(".")[0] == package and name != package]
    return [name for name in own if (path := _path(name)) is not None and path.stat().st_size > 0]


@cache
def _source(module: str) -> _Source:
    path = _path(module)
    if path is None:
        raise ValueError(f"no module {module}")
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    code = ast.dump(_without_docstrings(tree)).encode()
    return _Source(hashlib.sha256(code).digest(), frozenset(names))


def _path(module: str) -> Path | None:
    """The file of a module, found without importing its parents; None if there is no such module."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return None
    base = Path(spec.submodule_search_locations[0], *parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _executed(tree: ast.AST) -> Iterable[ast.AST]:
    """All nodes except those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _executed(node)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            node.body = node.body[1:]
    return tree
