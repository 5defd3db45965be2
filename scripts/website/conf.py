"""How Sphinx makes the website: which files are pages, what they look like, and what is switched off."""

project = html_title = "GPT-2 from the inside"
language = "en"
extensions = ["myst_nb", "scripts.website.pages"]

# The pages. README.md is the first one; pages.py adds the contents of the side bar to it.
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "data/README.md", "notebooks/[0-9][0-9]_*.ipynb"]
exclude_patterns = [".git", ".venv", "build", "runs", "data/cache", "**/.ipynb_checkpoints"]

# Markdown and notebooks as GitHub and Jupyter show them.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "dollarmath"]
myst_dmath_double_inline = True  # a formula may follow a line of text
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a cell may begin with a heading of any level
highlight_language = "none"

html_theme = "furo"
html_static_path = ["website.css"]
html_favicon = "favicon.svg"
html_css_files = ["website.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = html_use_index = html_show_copyright = False
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"
