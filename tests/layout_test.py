"""The house: rooms without loose modules, arrows one way, names that stand once, and tests beside what they test.

A room is a folder of kronecker/, or configs/, scripts/, train.py and eval.py.  It stands one floor above the highest of
the rooms that it imports; imports within functions count, those under TYPE_CHECKING too.
"""

import ast
import collections
import functools
import graphlib
import importlib.metadata
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_ROOMS, MOST_FLOORS, MOST_ARROWS = 20, 9, 90
MOST_LINES = 24_500  # of kronecker/: checks of what is read took 1,900, interop 1,900; it may fall, to 18,000 at last
FACES = ("nnx",)  # modules beside the rooms, for users alone: `import kronecker.nnx`
SOURCES = ("kronecker/**/*.py", "configs/**/*.py", "scripts/**/*.py", "train.py", "eval.py")


def sources() -> list[Path]:
    return sorted(file.relative_to(ROOT) for pattern in SOURCES for file in ROOT.glob(pattern))


def room(parts: tuple[str, ...]) -> str:
    """Returns the room of a file or of a dotted module, by its parts; the package's own face is no room."""
    if parts[0] == "kronecker":
        return parts[1] if len(parts) > 1 else ""
    return Path(parts[0]).stem


def imported(file: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the line and the dotted parts of each import of our own code."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (
            (node.lineno, tuple(name.split("."))) for name in names if name.startswith(("kronecker.", "configs."))
        )


def module_file(dotted: str) -> Path | None:
    base = ROOT.joinpath(*dotted.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists()), None)


@functools.cache
def names_in(dotted: str) -> set[str]:
    """Returns the names that a module of ours gives itself, and a package's modules."""
    file = module_file(dotted)
    symbols = symtable.symtable(file.read_text(), str(file), "exec").get_symbols()
    inner = {one.stem for one in file.parent.iterdir()} if file.stem == "__init__" else set()
    return {one.get_name() for one in symbols if one.is_assigned() or one.is_imported()} | inner


@pytest.fixture(scope="module")
def arrows() -> dict[str, dict[str, list[str]]]:
    """Room -> room it imports -> the places that do."""
    found = {
        room(file.parts): collections.defaultdict(list)
        for file in sources()
        if len(file.parts) != 2 or file.parts[0] != "kronecker"
    }
    for file in sources():
        here = room(file.parts) if len(file.parts) != 2 or file.parts[0] != "kronecker" else ""
        for line, parts in imported(file):
            if here and room(parts) not in ("", here):
                found[here][room(parts)].append(f"{file}:{line} imports {'.'.join(parts)}")
    return found


def floors(arrows: dict[str, dict[str, list[str]]]) -> dict[str, int]:
    floor: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(arrows).static_order():
        floor[name] = 1 + max((floor[below] for below in arrows[name]), default=0)
    return floor


@pytest.mark.parametrize("pattern", [*SOURCES, "examples/*.py", "tests/**/*.py"])
def test_what_is_taken_from_a_module_of_ours_is_there(pattern: str):
    for file in ROOT.glob(pattern):
        nodes, modules = list(ast.walk(ast.parse(file.read_text()))), {}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module and module_file(node.module):
                for alias in node.names:
                    if module_file(f"{node.module}.{alias.name}"):
                        modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    else:
                        assert alias.name in names_in(node.module), f"{file}:{node.lineno} imports {alias.name}"
        for node in nodes:  # a name that is also a variable's is not followed
            if isinstance(node, ast.Name | ast.arg) and not isinstance(getattr(node, "ctx", None), ast.Load):
                modules.pop(node.id if isinstance(node, ast.Name) else node.arg, None)
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                taken = f"{modules[node.value.id]}.{node.attr}"
                assert node.attr in names_in(modules[node.value.id]) | {"__file__"}, f"{file}:{node.lineno} {taken}"


def test_the_package_holds_rooms_alone():
    assert {file.stem for file in (ROOT / "kronecker").glob("*.py")} == {"__init__", *FACES}
    for face in FACES:  # it holds a docstring and imports
        body = ast.parse((ROOT / f"kronecker/{face}.py").read_text()).body[1:]
        assert body
        assert all(isinstance(node, ast.ImportFrom) for node in body)


def test_no_rooms_import_each_other_in_a_circle(arrows: dict[str, dict[str, list[str]]]):
    try:
        floors(arrows)
    except graphlib.CycleError as error:
        circle = error.args[1]
        ties = [place for a, b in zip(circle[1:], circle, strict=False) for place in arrows[a].get(b, [])]
        pytest.fail("rooms in a circle: " + "; ".join(ties))


def test_the_package_imports_nothing_from_above_it(arrows: dict[str, dict[str, list[str]]]):
    above = {"configs", "scripts", "train", "eval"}
    upward = [
        place for name, below in arrows.items() if name not in above for to in above & set(below) for place in below[to]
    ]
    assert not upward, "; ".join(upward)


def test_the_house_is_no_larger_than_agreed(arrows: dict[str, dict[str, list[str]]]):
    count = sum(len(below) for below in arrows.values())
    thin = sorted(
        place for below in arrows.values() for places in below.values() if len(places) == 1 for place in places
    )
    assert len(arrows) <= MOST_ROOMS, f"{len(arrows)} rooms: {', '.join(sorted(arrows))}"
    assert max(floors(arrows).values()) <= MOST_FLOORS, floors(arrows)
    assert count <= MOST_ARROWS, f"{count} arrows; the thinnest: {'; '.join(thin)}"


def test_the_package_stays_small():
    lines = sum(len((ROOT / file).read_text().splitlines()) for file in sources() if file.parts[0] == "kronecker")
    assert lines < MOST_LINES


def test_no_modules_import_each_other_in_a_circle():
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in sources()}
    graph = {
        name: {".".join(parts) if ".".join(parts) in modules else ".".join(parts[:-1]) for _, parts in imported(file)}
        - {name}
        for name, file in modules.items()
    }
    graphlib.TopologicalSorter({name: below & set(modules) for name, below in graph.items()}).prepare()


def test_no_file_name_stands_twice_or_shadows_a_library():
    names = collections.Counter(
        file.stem
        for file in sources()
        if file.parts[0] == "kronecker" and len(file.parts) > 2 and file.stem != "__init__"
    )
    assert [name for name, count in names.items() if count > 1] == []
    libraries = sys.stdlib_module_names | set(importlib.metadata.packages_distributions())
    rooms = {path.name for path in (ROOT / "kronecker").iterdir() if (path / "__init__.py").exists()}
    assert (set(names) | rooms) & libraries == set()


def test_no_file_of_tests_has_the_name_of_another():
    names = collections.Counter(file.name for file in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []  # pytest would import one for both


def test_no_import_renames_a_module_of_ours():
    renamed = [
        f"{file}:{node.lineno} import {alias.name} as {alias.asname}"
        for file in sources()
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kronecker")
        for alias in node.names
        if alias.asname and alias.asname != alias.name
    ]
    assert renamed == []


def test_text_files_are_utf8_whatever_the_locale():
    bare = [
        f"{file}:{node.lineno}"
        for file in sources()
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if len(node.args) == {"read_text": 0, "write_text": 1}.get(node.func.attr)
        or (
            node.func.attr == "open"
            and all(isinstance(one, ast.Constant) and "b" not in one.value for one in node.args)
        )
        if "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert bare == []


def test_tests_mirror_the_rooms():
    modules = {(room(file.parts), name) for file in sources() for name in (file.stem, file.parent.name)}
    modules |= {("examples", "examples"), ("examples", "notebook")}
    modules |= {("docs", page.stem) for page in (ROOT / "docs").glob("*.md")} | {("docs", "site"), ("docs", "blocks")}
    stray = []
    for file in sorted((ROOT / "tests").glob("*/*_test.py")):
        subject = file.stem.removesuffix("_test")
        if file.parent.name != "faults" and not any(  # faults are those of all rooms together
            name == file.parent.name and (subject == stem or subject.startswith(f"{stem}_")) for name, stem in modules
        ):
            stray.append(str(file.relative_to(ROOT)))
    assert stray == []
