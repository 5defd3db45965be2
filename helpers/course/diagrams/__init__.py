"""The course's diagrams: what a sentence cannot show, drawn by code, in one visual language (svg.py).

    diagrams.show("one-head")              shows one in a notebook
    diagrams.draw("one-head").svg()        the same as text
    python -m helpers.course.diagrams      writes all of them to build/diagrams, to look at
"""

from IPython.display import display

from helpers.course.diagrams import attention_pictures, course_pictures, data_pictures, model_pictures

_PICTURES = {**data_pictures.PICTURES, **attention_pictures.PICTURES, **model_pictures.PICTURES,
             **course_pictures.PICTURES}  # {name: function that returns a Drawing}
NAMES = tuple(_PICTURES)


def draw(name, **options):
    """The picture of this name as a Drawing. options: see the function that draws it. ValueError for another name."""
    if name not in _PICTURES:
        raise ValueError(f"There is no diagram {name!r}. Choose one of: {', '.join(NAMES)}.")
    return _PICTURES[name](**options)


def show(name, **options):
    """Shows the picture of this name in a notebook."""
    display(draw(name, **options))
