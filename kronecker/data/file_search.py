"""The files that a path, a folder or a glob names: each once, whatever links lead to it, in an order without links."""

import fnmatch
import glob
import os
import pathlib
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

_Part = str | Callable[[str], bool]  # of a path: a name or a pattern, or a function that chooses names
DEEP = "**"  # any number of folders


class Found(NamedTuple):
    """Files in order of their resolved paths, and how many names of files and folders were left out as further ones."""

    files: dict[pathlib.Path, os.stat_result]
    left_out: int


def search(root: pathlib.Path, wanted: Callable[[str], bool]) -> Found:
    """Returns the files that `root` names; if it is a folder, those below it whose lower-case name is `wanted`.

    A part of a glob that is the name of a file or folder as it stands, such as data[1], means that one.  Links are
    followed.  A file with several names, by symbolic or hard links, is taken once, under the first resolved path.

    Raises ValueError if something that was found is neither file nor folder; OSError if a folder cannot be read or a
    link leads nowhere.
    """
    if root.is_dir():
        places, left_out = _places(str(root), (DEEP, lambda name: wanted(name.lower())))
    else:
        places, left_out = _places(root.anchor or ".", root.relative_to(root.anchor).parts)
    stats = {place: place.stat() for place in sorted(set(places))}
    files: dict[pathlib.Path, os.stat_result] = {}
    inodes: set[tuple[int, int]] = set()
    for place, found in stats.items():
        if stat.S_ISDIR(found.st_mode):
            continue
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{place} is neither a file nor a folder; move it away, or give a glob without it")
        if found.st_nlink > 1 and (found.st_dev, found.st_ino) in inodes:
            left_out += 1
            continue
        inodes.add((found.st_dev, found.st_ino))
        files[place] = found
    return Found(files, left_out + len(places) - len(stats))


def _places(start: str, parts: tuple[_Part, ...]) -> tuple[list[pathlib.Path], int]:
    """Returns the resolved paths that `parts` lead to, and how many further names of folders were met."""
    parts = [*parts, "*"] if parts[-1:] == (DEEP,) else parts
    places: list[pathlib.Path] = []
    todo = [(os.path.realpath(start), 0)]
    met, folders = set(todo), {todo[0][0]: todo[0][0]}  # name -> resolved path
    while todo:
        folder, at = todo.pop()
        deep, last = parts[at] == DEEP, at + 1 == len(parts)
        steps = [(folder, at + 1)] if deep else []
        for name, place, is_folder in _entries(folder, (lambda name: True) if deep else parts[at], last):
            if last:
                places.append(pathlib.Path(place))
            elif is_folder:
                folders[name] = place
                steps.append((place, at if deep else at + 1))
        todo += [step for step in dict.fromkeys(steps) if step not in met]
        met.update(steps)
    return places, len(folders) - len(set(folders.values()))


def _entries(folder: str, part: _Part, last: bool) -> Iterator[tuple[str, str, bool]]:
    """Yields path and resolved path of each entry of a folder that `part` names, and whether it is a folder."""
    if isinstance(part, str):
        named = os.path.join(folder, part)  # noqa: PTH118  strings: there may be millions
        if os.path.lexists(named) and part != "*" and not (last and "*" in part):
            place = _resolved(named)
            yield place, place, os.path.isdir(place)  # noqa: PTH112
            return
        if not glob.has_magic(part):
            return
    with os.scandir(folder) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not (isinstance(part, str) and part.startswith("."))
            chosen = fnmatch.fnmatchcase(entry.name, part) if isinstance(part, str) else part(entry.name)
            if chosen and not hidden:
                yield entry.path, _resolved(entry.path) if entry.is_symlink() else entry.path, entry.is_dir()


def _resolved(path: str) -> str:
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        raise OSError(f"{path} leads to no file or folder ({error.strerror}); mend or delete the link") from error
