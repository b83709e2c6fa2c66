"""Settings of Sphinx; `python -m docs.builder` stages the pages and runs it."""

from isbi_infer import __version__

project = "isbi-infer"
author = "the isbi-infer developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["builder", "demo"]
html_theme = "furo"
html_title = "isbi-infer"
html_favicon = "demo/icon.svg"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
highlight_language = "none"  # an indented block shows commands
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "none"  # docstrings say more: shapes, units and ranges
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False  # types are words for readers, as "ndarray of uint8, shape (Y, X)"
nitpicky = True
# Words for readers, values in braces, and classes of rooms that are not part of the interface.
nitpick_ignore_regex = [
    ("py:class", r'[{"].*|.*"\}?|mapping|str to float|Path|numpy\.dtype|Familiar|Scaling|Symmetry|Layout')
]
