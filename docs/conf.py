import inspect
import shutil
from importlib import import_module
from importlib.metadata import version as package_version
from pathlib import Path

import sphinx.ext.autosummary
from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "mixvi"
author = "the mixvi developers"
copyright = "2026, the mixvi developers"
release = version = package_version("mixvi")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
autosummary_generate = True
autodoc_typehints = "description"
# arguments are listed once, where they are explained
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# a class's attributes are listed in its own docstring
napoleon_use_ivar = True
# long signatures have a line for each argument
maximum_signature_line_length = 88
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"mixvi {release}"
suppress_warnings = ["autosummary.import_cycle", "config.cache"]
# a summary does not end at these
sphinx.ext.autosummary.WELL_KNOWN_ABBREVIATIONS += (" eq.", " eqs.", " l.", " no.")

# sphinx reads sources below docs/ alone, and the notebooks live beside it
_docs = Path(__file__).parent
(_docs / "generated").mkdir(exist_ok=True)
for _notebook in (_docs.parent / "tutorials").glob("*.ipynb"):
    shutil.copy(_notebook, _docs / "generated")


def _own_members(fullname: str) -> list[tuple[str, str]]:
    """Directive and name of the methods and properties that mixvi defines or redefines."""
    module, name = fullname.rsplit(".", 1)
    cls = getattr(import_module(module), name)
    definers = {}
    for base in cls.__mro__:
        for member in vars(base):
            definers.setdefault(member, base)
    own = []
    for member, base in definers.items():
        value = vars(base)[member]
        is_property = isinstance(value, property)
        if member.startswith("_") or not base.__module__.startswith("mixvi"):
            continue
        if is_property or inspect.isroutine(value):
            own.append(("autoproperty" if is_property else "automethod", member))
    return own


autosummary_context = {"own_members": _own_members}


_prose = {}


def _take_returns_in_prose(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep a Returns section that is prose from napoleon, which takes its lines for types."""
    heads = [i for i in range(1, len(lines)) if lines[i] and not lines[i].strip("-")]
    ends = [head - 1 for head in heads[1:]] + [len(lines)]
    for head, end in zip(heads, ends, strict=False):
        body = lines[head + 1 : end]
        if lines[head - 1] == "Returns" and not any(line.startswith(" ") for line in body):
            _prose[name] = body
            del lines[head - 1 : end]
            return


def _give_returns_in_prose(app, what, name, obj, options, lines: list[str]) -> None:
    if name in _prose:
        first, *rest = _prose.pop(name)
        lines += ["", f":returns: {first}", *(f"    {line}".rstrip() for line in rest), ""]


def _draw_math(self, node) -> None:
    display = "block" if node.tagname == "math_block" else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app) -> None:
    # napoleon connects at 500
    app.connect("autodoc-process-docstring", _take_returns_in_prose, priority=400)
    app.connect("autodoc-process-docstring", _give_returns_in_prose, priority=600)
    # equations are MathML, which browsers draw themselves: no script, no network
    app.add_html_math_renderer("mathml", (_draw_math, None), (_draw_math, None))
