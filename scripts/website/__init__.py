"""The course as a website: `python -m scripts.website`. Sphinx makes the pages; conf.py and pages.py tell it how."""
