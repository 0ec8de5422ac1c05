import shutil
from importlib.metadata import version as package_version
from pathlib import Path

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
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# a class's attributes are listed in its own docstring
napoleon_use_ivar = True
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_title = f"mixvi {release}"
suppress_warnings = ["autosummary.import_cycle"]

# sphinx reads sources below docs/ alone, and the notebooks live beside it
_docs = Path(__file__).parent
(_docs / "generated").mkdir(exist_ok=True)
for _notebook in (_docs.parent / "tutorials").glob("*.ipynb"):
    shutil.copy(_notebook, _docs / "generated")
