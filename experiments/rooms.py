"""The rooms of the code: which folder of tbptt/ imports which, on how many floors, and the longest functions.

    python -m experiments.rooms [CHECKOUT]

A folder stands one floor above the highest folder that it imports. Where folders import each other, directly or round
about, some import must run upwards: as few are counted as an order of the folders allows. A file at the root of tbptt/
counts as a folder. Needs the `dev` extra (grimp).
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).parents[1]
LONGEST = 8  # functions listed


def room_graph(checkout: Path) -> networkx.DiGraph:
    """An edge for every folder that imports another, `modules` being the pairs of files that do."""
    sys.path.insert(0, str(checkout))
    imports = grimp.build_graph("tbptt", cache_dir=None)
    rooms = networkx.DiGraph()
    for importer in imports.modules:
        for imported in imports.find_modules_directly_imported_by(importer):
            upper, lower = room_of(importer), room_of(imported)
            if upper and lower and upper != lower:
                rooms.add_edge(upper, lower)
                rooms.edges[upper, lower].setdefault("modules", []).append((importer, imported))
    return rooms


def room_of(module: str) -> str:
    """The second part of a module's name; empty for the package itself, which only shows others' names."""
    return module.split(".")[1] if "." in module else ""


def floors(rooms: networkx.DiGraph) -> dict[str, int]:
    """For every room of a graph without circles, from 1 for those that import no other."""
    floor: dict[str, int] = {}
    for room in reversed(list(networkx.topological_sort(rooms))):
        floor[room] = 1 + max((floor[lower] for lower in rooms.successors(room)), default=0)
    return floor


def without_circles(rooms: networkx.DiGraph) -> tuple[networkx.DiGraph, list[tuple[str, str]]]:
    """The graph without the imports that close circles, and those, taken where the fewest files import."""
    kept, upward = rooms.copy(), []
    while True:
        try:
            circle = networkx.find_cycle(kept)
        except networkx.NetworkXNoCycle:
            return kept, upward
        weakest = min(circle, key=lambda edge: (len(kept.edges[edge]["modules"]), edge))
        kept.remove_edge(*weakest)
        upward.append(weakest)


def functions(checkout: Path) -> list[tuple[int, str]]:
    """The length of every function in lines, the longest first."""
    found = []
    for path in (checkout / "tbptt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((length, f"{path.relative_to(checkout)}:{node.name}"))
    return sorted(found, reverse=True)


def main() -> None:
    checkout = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    kept, upward = without_circles(rooms := room_graph(checkout))
    floor = floors(kept)
    print(f"{len(floor)} rooms on {max(floor.values())} floors, {len(upward)} imports that run upwards")
    for room in sorted(floor, key=lambda room: (-floor[room], room)):
        print(f"{floor[room]:3}  {room}: {', '.join(sorted(rooms.successors(room))) or '-'}")
    for upper, lower in upward:
        pairs = ", ".join(f"{importer} -> {imported}" for importer, imported in rooms.edges[upper, lower]["modules"])
        print(f"upwards: {upper} -> {lower} ({pairs})")
    print("the longest functions, in lines")
    for length, name in functions(checkout)[:LONGEST]:
        print(f"{length:4}  {name}")


if __name__ == "__main__":
    main()
