"""Configuration of the documentation site. `python scripts/docs/build.py` builds it."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "docs"))

import bitvar  # noqa: E402

project = "bitvar"
author = "The bitvar founders"
copyright = "The bitvar founders, Apache-2.0"  # noqa: A001
release = bitvar.__version__
version = release

smartquotes = False  # it turns the dashes of options into others
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_extension",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
nitpicky = True
toc_object_entries = False
suppress_warnings = ["ref.python", "toc.empty_glob"]  # a word of an annotated shape may be the name of two attributes
default_role = "literal"

myst_enable_extensions = ["attrs_block", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"bitvar {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # it is fetched, which browsers refuse to pages from a disk
html_last_updated_fmt = None
html_theme_options = {"navigation_with_keys": False}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
