"""Convert glyphs to SVG, SVG to images, and images to signatures for the detection of near-duplicates."""

import io

import numpy as np
from PIL import Image, ImageFilter

_CANVAS = 192  # width in pixels at which the SVG is drawn before it is cropped and resized
_MIN_INK = 50  # minimum number of dark pixels on this canvas


def draw(svg: str, size: int) -> Image.Image | None:
    """Draw an SVG black on white, cropped and centred, with a margin of one twelfth; None if there is no ink.

    Args:
        svg: the SVG text.
        size: side of the image in pixels.
    """
    import resvg_py

    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_CANVAS))
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), np.float32) / 255
    alpha = rgba[..., 3:]
    rgb = rgba[..., :3] * alpha + (1 - alpha)
    ink = np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]) < 0.9  # three times as fast as min(axis=2)
    if ink.sum() < _MIN_INK:
        return None
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    rgb = rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = rgb.shape[:2]
    side = max(height, width)
    canvas = np.ones((side, side, 3), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = rgb
    margin = size // 12
    inner = size - 2 * margin
    small = Image.fromarray((canvas * 255 + 0.5).astype(np.uint8)).resize((inner, inner), Image.Resampling.BOX)
    page = Image.new("RGB", (size, size), (255, 255, 255))
    page.paste(small, (margin, margin))
    return page


def signature(image: Image.Image) -> np.ndarray:
    """The blurred image at 32 x 32 pixels as a centred unit vector (1024,), whose dot products are correlations."""
    blurred = image.convert("L").filter(ImageFilter.GaussianBlur(image.width / 48))
    values = np.asarray(blurred.resize((32, 32), Image.Resampling.BOX), np.float64).ravel()
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-9)


def glyph_svg(glyph, glyphs) -> str | None:
    """Convert a glyph of a font to SVG, cropped to its outline; None if it is empty.

    Args:
        glyph: a glyph of fontTools.
        glyphs: its glyph set.
    """
    from fontTools.pens.boundsPen import BoundsPen
    from fontTools.pens.svgPathPen import SVGPathPen

    bounds, outline = BoundsPen(glyphs), SVGPathPen(glyphs)
    glyph.draw(bounds)
    if bounds.bounds is None:
        return None
    x0, y0, x1, y1 = bounds.bounds
    if min(x1 - x0, y1 - y0) < 1:
        return None
    glyph.draw(outline)
    body = f'<g transform="scale(1,-1)"><path d="{outline.getCommands()}"/></g>'
    return wrap_svg(f"{x0} {-y1} {x1 - x0} {y1 - y0}", body)


def wrap_svg(box: str, body: str) -> str:
    """An SVG document with the given view box ("left top width height") and elements."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'
