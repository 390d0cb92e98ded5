"""Rules of language: words, names and docstrings (CONTRIBUTING.md says why).

Each rule is a function from a file's text to its offences, so that a test can plant
one and see it reported.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders.repository.layout import ROOT

PACKAGES = ("client", "builders", "ensembles", "loadtest")

Rule = Callable[[str], Iterator[str]]

WORDS = {
    r"whom|whoever|nobody|somebody": "name the role: the caller, the user, no person",
    r"lets? go(?: of)?": "close, release",
    r"lies|lands?|bears?|dearest": "is, is written, tolerates, most sensitive",
    r"stands?(?! ?-?(?:in|alone)s?\b)(?!ing)": "is, means",
    r"without a word": "silently",
    r"in words": "explains",
    r"comes? along": "is installed, is included",
    r"at hand": "available",
    r"beside (?:it|them|that)": "next to, compared with",
    r"who asks? again": "closed-loop load",
    r"a thread a core": "one thread per core",
    r"(?<!there )(?:is|are) (?-i:none)": "is not one, there are no",
    r"another one": "say what: a second file, the next model",
    r"so many(?: of)?": "this many",
    r"goes on where": "resumes where",
    r"has to say": "reports",
    r"asked for afresh": "requested again",
    r"passports?": "record (the JSON file beside an artefact)",
    r"rivals?": "baseline (a server to compare with)",
    r"pictures?": "image",
}
"""Words of a private dialect, as regular expressions, and what to write instead."""

DIALECT = {
    re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE): instead
    for pattern, instead in WORDS.items()
}
CODE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`|https?://\S+|\]\([^)]*\)", re.DOTALL)
"""What is code or an address in Markdown and docstrings, not prose."""

PARTICIPLES = {
    *("begun", "brought", "built", "chosen", "done", "drawn", "found", "given", "got"),
    *("held", "kept", "known", "left", "made", "said", "sent", "shown", "taken"),
    *("told", "written"),
}
VERBS_IN_ED = {"embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed"}
NOUNS_IN_ED = {"bed", "feed", "seed", "speed", "thread"}

SEED = re.compile(r"\bseeds? 00\d", re.IGNORECASE)


# ---- the rules -------------------------------------------------------------------


def dialect(text: str) -> Iterator[str]:
    """Yield the dialect's words in a piece of prose, each with a replacement."""
    prose = CODE.sub(" ", text)
    for pattern, instead in DIALECT.items():
        for match in pattern.finditer(prose):
            yield f"{match.group(0)!r}: write {instead!r}"


def dialect_in_docstrings(source: str) -> Iterator[str]:
    """Yield the dialect's words in docstrings and in attributes' docstrings."""
    for line, text in _docstrings(ast.parse(source)):
        for offence in dialect(text):
            yield f"{line}: docstring: {offence}"


def dialect_in_help(source: str) -> Iterator[str]:
    """Yield help texts in the dialect, or too short to teach anything."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "help":
            text = _constant_text(node.value)
            for offence in dialect(text):
                yield f"{node.value.lineno}: help: {offence}"
            if text and len(text.split()) < 3:
                yield f"{node.value.lineno}: help: {text!r} says too little"


def bare_participles(source: str) -> Iterator[str]:
    """Yield functions named by a past participle alone, such as `asked`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name.strip("_")
            regular = name.endswith("ed") and name not in VERBS_IN_ED | NOUNS_IN_ED
            if (name in PARTICIPLES or (regular and "_" not in name)) and not (
                _is_decorated(node, "property", "fixture")
            ):
                yield f"{node.lineno}: {node.name}(): name it by a verb and a noun"


def found_variables(source: str) -> Iterator[str]:
    """Yield variables called `found`."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)
            and node.id == "found"
        ):
            yield f"{node.lineno}: `found`: say what it is: rows, labels, matches"


def names_that_differ_by_a_capital(source: str) -> Iterator[str]:
    """Yield functions and classes of one module that differ by a capital only."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    seen: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, kinds):
            other = seen.setdefault(node.name.lower(), node.name)
            if other != node.name:
                yield f"{node.lineno}: {node.name} and {other}"


def missing_arguments(source: str, protocols: Protocols | None = None) -> Iterator[str]:
    """Yield public functions with parameters whose docstring has no `Args:`.

    Exempt are methods of a protocol and of classes that implement one, methods that
    override a documented one, overloads, whose implementation has the docstring, and
    Typer's commands, whose docstring is their help.
    """
    tree = ast.parse(source)
    known = protocols or Protocols([tree])
    for function, owner in _public_functions(tree):
        exempt = ("property", "setter", "command", "callback", "overload")
        if _is_decorated(function, *exempt):
            continue
        if owner is not None and known.document(function.name, owner):
            continue
        if _parameters(function, is_method=owner is not None) and not re.search(
            r"^ *Args:$", ast.get_docstring(function) or "", re.MULTILINE
        ):
            yield f"{function.lineno}: {function.name}(): its docstring has no Args:"


def seed_numbers(text: str) -> Iterator[str]:
    """Yield the numbers under which the reimplemented systems were once filed."""
    for match in SEED.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield f"{line}: {match.group(0)!r}: name the published system"


# ---- reading the tree ------------------------------------------------------------


class Protocols:
    """Which methods are documented by a protocol or a base class of our own.

    Args:
        trees: The parsed modules that declare them.
    """

    TRITON = frozenset({"initialize", "execute", "finalize", "auto_complete_config"})

    def __init__(self, trees: list[ast.Module]) -> None:
        self.methods: dict[str, set[str]] = {}
        self.protocols: set[str] = set()
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    names = {m.name for m in node.body if isinstance(m, _FUNCTIONS)}
                    self.methods.setdefault(node.name, set()).update(names)
                    if "Protocol" in _base_names(node):
                        self.protocols.add(node.name)

    def document(self, method: str, owner: ast.ClassDef) -> bool:
        """Return whether a method's arguments are documented elsewhere.

        Args:
            method: Name of the method.
            owner: The class that has it.
        """
        if owner.name == "TritonPythonModel":
            return method in self.TRITON
        if any(method in self.methods.get(b, ()) for b in _base_names(owner)):
            return True
        public = {
            node.name
            for node in owner.body
            if isinstance(node, _FUNCTIONS) and not node.name.startswith("_")
        }
        if "Protocol" in _base_names(owner):
            return True  # one line for each method; the class explains the values
        return any(
            method in required and {n for n in required if n[0] != "_"} <= public
            for required in (self.methods[name] for name in self.protocols)
        )


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _base_names(node: ast.ClassDef) -> set[str]:
    return {
        re.sub(r"\[.*", "", ast.unparse(base)).rpartition(".")[2] for base in node.bases
    }


def _is_decorated(node: Function, *names: str) -> bool:
    decorators = (ast.unparse(d).partition("(")[0] for d in node.decorator_list)
    return any(name in decorator for decorator in decorators for name in names)


def _parameters(function: Function, *, is_method: bool) -> list[str]:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if is_method and not _is_decorated(function, "staticmethod"):
        names = names[1:]
    names += [a.arg for a in arguments.kwonlyargs]
    names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [name for name in names if not name.startswith("_")]


def _public_functions(
    tree: ast.Module | ast.ClassDef,
) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    for node in tree.body:
        if isinstance(node, _FUNCTIONS) and not node.name.startswith("_"):
            yield node, tree if isinstance(tree, ast.ClassDef) else None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node)


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def _constant_text(node: ast.expr) -> str:
    parts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return "".join(part for part in parts if isinstance(part, str))


def _committed(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sorted({p for p in paths if p.suffix in suffixes and p.is_file()})


def _ours(suffix: str = ".py") -> list[Path]:
    return [p for p in _committed(suffix) if p.relative_to(ROOT).parts[0] in PACKAGES]


def _offences(paths: list[Path], rule: Rule) -> list[str]:
    assert paths
    return [
        f"{path.relative_to(ROOT)}:{offence}"
        for path in paths
        for offence in rule(path.read_text(encoding="utf-8"))
    ]


# ---- the tests -------------------------------------------------------------------

RULES = {
    "dialect in docstrings": dialect_in_docstrings,
    "dialect in help texts": dialect_in_help,
    "bare participles": bare_participles,
    "found": found_variables,
    "capitals": names_that_differ_by_a_capital,
}


@pytest.mark.parametrize("name", RULES)
def test_code_keeps_the_rule(name: str) -> None:
    assert _offences(_ours(), RULES[name]) == []


def test_markdown_is_plain_english() -> None:
    def offences(text: str) -> Iterator[str]:
        # blank lines keep the numbers of those that follow a block of code
        prose = CODE.sub(lambda match: "\n" * match.group(0).count("\n"), text)
        for number, line in enumerate(prose.splitlines(), 1):
            for offence in dialect(line):
                yield f"{number}: {offence}"

    assert _offences(_committed(".md"), offences) == []


def test_public_functions_document_their_arguments() -> None:
    # an example's functions are not an interface, and short ones teach better
    paths = [p for p in _ours() if "examples" not in p.parts]
    protocols = Protocols([ast.parse(p.read_text(encoding="utf-8")) for p in paths])
    assert _offences(paths, lambda source: missing_arguments(source, protocols)) == []


def test_systems_are_named_not_numbered() -> None:
    kinds = (".md", ".pbtxt", ".py", ".sh", ".toml", ".yaml", ".yml")
    paths = [path for path in _committed(*kinds) if path != Path(__file__)]
    assert _offences(paths, seed_numbers) == []


PLANTED: list[tuple[Rule, str]] = [
    (dialect_in_docstrings, '"""What whoever asks gets."""'),
    (dialect_in_docstrings, 'class A:\n    x = 1\n    """Of whom it is asked."""'),
    (dialect_in_docstrings, 'def f():\n    """Return the picture."""'),
    (dialect_in_help, 'Option(help="So many of a video\'s frames.")'),
    (dialect_in_help, 'Option(help="Another.")'),
    (bare_participles, "def asked(): ..."),
    (bare_participles, "async def _kept(): ..."),
    (bare_participles, "class A:\n    def measured(self): ..."),
    (found_variables, "found = 1"),
    (found_variables, "for found in rows: ..."),
    (found_variables, "if (found := 1): ..."),
    (names_that_differ_by_a_capital, "def measure(): ...\nclass Measure: ..."),
    (missing_arguments, 'def f(x):\n    """Return x."""'),
    (missing_arguments, 'class A:\n    def f(self, *, x=1):\n        """Return x."""'),
    (missing_arguments, 'class A:\n    def f(self, *x):\n        """Return x."""'),
    (seed_numbers, "as seed 004 has it"),
]


@pytest.mark.parametrize(("rule", "source"), PLANTED)
def test_a_planted_offence_is_reported(rule: Rule, source: str) -> None:
    assert len(list(rule(source))) == 1


FINE: list[tuple[Rule, str]] = [
    (dialect_in_docstrings, '"""Stand-in weights; stands in for `nobody`."""'),
    (dialect_in_docstrings, '"""A landscape image, believes, outstanding."""'),
    (dialect_in_docstrings, 'x = "whoever"'),
    (dialect_in_help, 'Option(help="Seconds per round.")'),
    (bare_participles, "def embed(): ...\ndef needs_seed(): ...\ndef is_built(): ..."),
    (bare_participles, "class A:\n    @property\n    def failed(self): ..."),
    (found_variables, "rows = [r for r in found]"),
    (names_that_differ_by_a_capital, "def measure(): ...\nclass Measurement: ..."),
    (
        missing_arguments,
        'def f(x):\n    """Return x.\n\n    Args:\n        x: It.\n    """',
    ),
    (missing_arguments, "def _f(x): ...\nclass _A:\n    def f(self, x): ..."),
    (missing_arguments, "@app.command()\ndef serve(x): ..."),
    (
        missing_arguments,
        """class P(Protocol):
    def f(self, x):
        '''F.

        Args:
            x: It.
        '''

class A:
    def f(self, x): ...""",
    ),
    (seed_numbers, "seed=7, seed 0"),
]


@pytest.mark.parametrize(("rule", "source"), FINE)
def test_plain_language_is_left_alone(rule: Rule, source: str) -> None:
    assert list(rule(source)) == []
