"""Writes llama_cpp_api.json: the public names of a release of llama-cpp-python.

    python tests/python/llama_cpp_api.py FOLDER VERSION

FOLDER is the package `llama_cpp` of a source distribution, which needs not be built: only the names
of functions, of their parameters and of the keys of results are read.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

TABLE = Path(__file__).with_suffix(".json")


def read(folder: Path, version: str) -> dict[str, object]:
    """The names: parameters of each public member of Llama, keys of each result."""
    members: dict[str, list[str]] = {}
    for node in ast.parse((folder / "llama.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Llama":
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    arguments = member.args.args[1:] + member.args.kwonlyargs
                    members[member.name] = [argument.arg for argument in arguments]
    public = {
        k: v for k, v in members.items() if not k.startswith("_") or k in ("__init__", "__call__")
    }
    keys: dict[str, list[str]] = {}
    for node in ast.parse((folder / "llama_types.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            required = [f for f in node.body if isinstance(f, ast.AnnAssign)]
            keys[node.name] = [
                field.target.id
                for field in required
                if isinstance(field.target, ast.Name)
                and not ast.unparse(field.annotation).startswith("NotRequired")
            ]
    wanted = {k: v for k, v in keys.items() if k.startswith(("C", "E")) and "Request" not in k}
    return {"version": version, "Llama": public, "results": wanted}


if __name__ == "__main__":
    table = read(Path(sys.argv[1]), sys.argv[2])
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
