"""What decides a result, found in the code: the modules that a module imports, and the libraries they use.

Nothing is imported for it: sources are read and parsed once each.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

# Import name and distribution of every library whose version may change a result.
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
# Settings reach a result by their values, which stand in its recipe; the store and the errors don't reach it.
_NO_PART_OF_A_RESULT = ("settings", "errors", "store")


@dataclass(frozen=True)
class _Source:
    """A module's code without comments and docstrings, as a hash; and every name that it imports."""

    digest: bytes
    imports: frozenset[str]


@cache
def code_digest(roots: tuple[str, ...]) -> str:
    """Hash of the code of these modules and of all that they import from their own package.

    Raises:
        ValueError: there is no such module.
    """
    digest = hashlib.sha256()
    for module in import_closure(roots):
        digest.update(_source(module).digest)
    return digest.hexdigest()[:16]


@cache
def library_versions(roots: tuple[str, ...]) -> dict[str, str]:
    """Versions of those `LIBRARIES` that these modules, or what they import of their package, use."""
    used = {name.split(".")[0] for module in import_closure(roots) for name in _source(module).imports}
    return {LIBRARIES[name]: version(LIBRARIES[name]) for name in sorted(used & LIBRARIES.keys())}


@cache
def import_closure(roots: tuple[str, ...]) -> tuple[str, ...]:
    """The modules that decide what `roots` compute: themselves and, transitively, what they import from
    their own package, inside functions too; less settings, errors and the store.

    Raises:
        ValueError: there is no such module.
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
    """Reads every source anew: for tests that change some."""
    for cached in (code_digest, library_versions, import_closure, _source):
        cached.cache_clear()


def _own_modules(module: str, names: Iterable[str]) -> list[str]:
    """Those of the imported names that are modules of `module`'s package; packages without code are none."""
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
    """The file of a module, found without importing its parents; None where the name is no module."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return None
    base = Path(spec.submodule_search_locations[0], *parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _executed(tree: ast.AST) -> Iterable[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _executed(node)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return tree
