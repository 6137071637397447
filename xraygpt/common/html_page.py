"""What the HTML pages have in common: each is one file that asks nothing of a network."""

from __future__ import annotations

import base64
import io
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

STYLE = "html_page.css"
JPEG_QUALITY = 92


def page_environment() -> Environment:
    """Return what renders a page: every text is escaped, and `style` is the style sheet of all pages."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["style"] = Markup(files(__package__).joinpath(STYLE).read_text(encoding="utf-8"))
    return environment


def picture_url(picture: Image.Image, max_side: int) -> str:
    """Return a picture, shrunk if its longest side has more pixels than `max_side`, as a ``data:`` URL."""
    small = picture.copy()
    small.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
