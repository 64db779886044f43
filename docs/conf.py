"""Sphinx configuration. The tables of settings and of commands are generated from their declarations at each build."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Cherimoya"
author = "The Cherimoya founders"
copyright = "2026, The Cherimoya founders"
release = importlib.metadata.version("cherimoya")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "generate"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_ivar = True
exclude_patterns = ["_build", "_generated/*.inc.md"]
html_theme = "furo"
html_title = f"Cherimoya {release}"
html_static_path = []
