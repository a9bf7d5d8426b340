"""The rooms of the package: imports run one way, read from the source, imports inside functions included."""

import ast
import sys

import pytest

from tests import tiny

PACKAGE = tiny.ROOT / "vpvae_jax"
# Each room may use those before it.
ROOMS = (
    "neighbors", "runtime", "models",
    "codebooks", "perturbation", "quantizers",
    "modality", "perceptual", "data", "images", "speech",
    "config", "tokenizer", "training", "evaluation", "generation", "reporting", "runs", "compare", "main", "__main__",
)  # fmt: skip
GROUND = {"neighbors", "runtime", "models"}
METHOD = {"neighbors", "codebooks", "perturbation", "quantizers"}  # importable into anyone's model
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "configs" not in path.parts
}


def _imports(path):
    """Modules that a file imports, wherever it does; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module) != "__init__"])
def test_a_room_uses_only_those_before_it(module):
    room = _room(module)
    assert room in ROOMS, f"{module}: a new room needs its place in ROOMS and docs/architecture.md"
    used = {_room(name) for name in _imports(MODULES[module]) if name in MODULES} - {room, "__init__"}
    above = {other for other in used if ROOMS.index(other) >= ROOMS.index(room)}
    assert not above, f"{module} imports {above}"
    if room in GROUND:
        assert not used, f"{module} imports {used}, but {room} uses nothing of ours"
    if room in METHOD:
        assert used <= METHOD, f"{module} imports {used - METHOD}"


@pytest.mark.parametrize("module", [module for module in MODULES if _room(module) in METHOD])
def test_the_method_needs_jax_numpy_and_numba_only(module):
    libraries = {name.partition(".")[0] for name in _imports(MODULES[module])} - set(sys.stdlib_module_names)
    assert libraries <= {"vpvae_jax", "jax", "numpy", "numba"}


def test_no_module_imports_itself_through_others():
    graph = {
        module: {name for name in _imports(path) if name in MODULES and name != "vpvae_jax"} - {module}
        for module, path in MODULES.items()
        if module != "vpvae_jax"
    }
    # A package's __init__ that offers what its modules hold is no circle: they do not import it.
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, f"circle: {' -> '.join([*under_way[under_way.index(module) :], module])}"
        if module in done:
            return
        under_way.append(module)
        for other in sorted(graph[module]):
            visit(other)
        under_way.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_few_modules_stand_loose_at_the_top():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "main"}
    assert len(loose) <= 6, loose
