"""Commands for the course's notebooks and pages, each run as a module: python -m scripts.run_notebooks, for example."""
