# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG that takes its colors and its font from the page.

Matplotlib draws with placeholder colors, which become CSS variables afterwards,
so one figure is readable in light and dark mode. Only fixed words and numbers
are drawn: names from the user (labels, metrics) are in the page's HTML, which
can show any script and character.
"""

import collections
import html
import io
import re

import numpy as np


# One chart: its lines and its axes. `x_range` and `y_range` are (low, high),
# either end None to use the data; without an x_range the x axis shows integers.
Panel = collections.namedtuple(
    "Panel", ["lines", "steps", "marks", "x_label", "y_label", "x_range",
              "y_range", "height", "log_x", "log_y"])

# x, y: float arrays; color: name of a CSS variable; form: "-", "--", ":" for
# lines, "o" for points, "o-" for both; width: float, of points alone too.
Line = collections.namedtuple("Line", ["x", "y", "color", "form", "width"])

# A histogram's outline, filled or not: edges [B + 1], heights [B].
Steps = collections.namedtuple("Steps", ["edges", "heights", "color", "fill"])

# A line across the panel, at x.
Mark = collections.namedtuple("Mark", ["x", "color", "form"])

# Variables of the page's style; the number is the placeholder color.
_COLORS = {name: "#0102%02x" % (i + 3) for i, name in enumerate(
    ["ink", "muted", "line", "c1", "c2", "c3", "c4"])}


class ReportUnavailable(ImportError):
  """The report needs a package that is not installed."""


def require_matplotlib():
  """Imports matplotlib; raises `ReportUnavailable` if it is missing.

  Returns:
    (matplotlib, the class Figure, the class FigureCanvasSVG).
  """
  # pylint: disable=g-import-not-at-top
  try:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ReportUnavailable(
        "report.html needs matplotlib (%s); install it with: pip install "
        "\"matplotlib>=3.5\" (the extra \"report\")." % error)
  return matplotlib, Figure, FigureCanvasSVG


def panel(lines=(), steps=(), marks=(), x_label="", y_label="", x_range=None,
          y_range=None, height=1, log_x=False, log_y=False):
  """Makes a `Panel`; arguments that are not given are left out."""
  return Panel(lines, steps, marks, x_label, y_label, x_range, y_range, height,
               log_x, log_y)


def line(points, color, form="-", width=1.6):
  """Makes a `Line` of (x, y) arrays."""
  x, y = points
  return Line(np.asarray(x, np.float64), np.asarray(y, np.float64), color,
              form, width)


def draw(panels, name, description, width=400, height=250):
  """Draws panels below each other, with one x axis.

  Args:
    panels: list of `Panel`; only the last one's `x_label` is shown.
    name: str of letters, digits and -, unique for each figure of a page.
    description: str, for screen readers.
    width: int, in px at full size.
    height: int, in px at full size.

  Returns:
    str, an `<svg>` element; the same for the same arguments.
  """
  matplotlib, figure_class, canvas_class = require_matplotlib()
  settings = {
      "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10,
      "font.family": "DejaVu Sans", "text.color": _COLORS["ink"],
      "axes.edgecolor": _COLORS["muted"], "axes.labelcolor": _COLORS["ink"],
      "axes.linewidth": 0.8, "axes.spines.top": False,
      "axes.spines.right": False, "axes.grid": True,
      "grid.color": _COLORS["line"], "grid.linewidth": 0.7,
      "xtick.color": _COLORS["muted"], "ytick.color": _COLORS["muted"],
      "xtick.labelcolor": _COLORS["ink"], "ytick.labelcolor": _COLORS["ink"],
      "axes.formatter.useoffset": False, "axes.unicode_minus": True,
      "axes.axisbelow": True, "path.simplify": True, "text.usetex": False,
      # The user's matplotlibrc must not change the report.
      "axes.facecolor": "none", "figure.facecolor": "none",
      "savefig.facecolor": "none", "axes.prop_cycle": matplotlib.cycler(
          color=[_COLORS["ink"]])}
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(settings)
    figure = figure_class(figsize=(width / 72, height / 72), dpi=72)
    canvas_class(figure)
    axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": [one.height for one in panels]})[:, 0]
    for one, axis in zip(panels, axes):
      _draw_panel(one, axis)
    axes[-1].set_xlabel(panels[-1].x_label)
    figure.align_ylabels(axes)
    figure.tight_layout(pad=0.4)
    target = io.BytesIO()
    figure.savefig(target, format="svg", transparent=True, metadata={
        "Date": None, "Creator": None, "Format": None, "Type": None})
  return _to_inline(target.getvalue().decode("utf-8"), name, description)


def _draw_panel(one, axis):
  """Draws one panel into its axes."""
  for steps in one.steps:
    heights = np.append(steps.heights, steps.heights[-1:])
    if steps.fill:
      axis.fill_between(steps.edges, heights, step="post", linewidth=0,
                        facecolor=_COLORS[steps.color], alpha=0.25)
    axis.step(steps.edges, heights, where="post", linewidth=1.3,
              color=_COLORS[steps.color])
  for mark in one.marks:
    axis.axvline(mark.x, color=_COLORS[mark.color], linestyle=mark.form,
                 linewidth=1.2)
  for drawn in one.lines:
    has_points = drawn.form.startswith("o")
    axis.plot(
        drawn.x, drawn.y, color=_COLORS[drawn.color],
        linestyle=drawn.form.lstrip("o") or "none",
        marker="o" if has_points else None, markeredgewidth=0,
        markersize=drawn.width if drawn.form == "o" else 4,
        linewidth=drawn.width)
  axis.set_ylabel(one.y_label)
  axis.tick_params(length=3)
  if one.log_x:
    axis.set_xscale("log")
    _write_whole_numbers(axis.xaxis, (1, 2, 5))
  if one.log_y:
    axis.set_yscale("log")
    _write_whole_numbers(axis.yaxis, (1,))
  if one.x_range:
    axis.set_xlim(*one.x_range)
  elif not one.log_x:
    axis.xaxis.get_major_locator().set_params(integer=True)
  if one.y_range:
    axis.set_ylim(*one.y_range)


def _write_whole_numbers(axis, multiples):
  """Ticks of a logarithmic axis: multiples of powers of ten, in full."""
  # pylint: disable=g-import-not-at-top
  from matplotlib import ticker
  axis.set_major_locator(ticker.LogLocator(subs=multiples))
  axis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
  axis.set_minor_locator(ticker.NullLocator())


def draw_small(points, dot, description):
  """Draws one precision-recall curve without text: both axes from 0 to 1.

  Args:
    points: (recall, precision), float arrays.
    dot: (recall, precision) of the decisions, two floats; None: no dot.
    description: as in `draw`.

  Returns:
    str, an `<svg>` element, written without matplotlib: there are many.
  """
  corners = " ".join("%.4g,%.4g" % (100 * x + 2, 102 - 100 * y)
                     for x, y in zip(*points))
  circle = ""
  if dot is not None:
    circle = ('<circle cx="%.4g" cy="%.4g" r="3.5" style="fill:var(--c2)"/>' %
              (100 * dot[0] + 2, 102 - 100 * dot[1]))
  return (
      '<svg class="small" viewBox="0 0 104 104" role="img" '
      'aria-label="%s">'
      '<path d="M2 52H102M52 2V102" style="stroke:var(--line)"/>'
      '<path d="M2 2V102H102" style="stroke:var(--muted)"/>'
      '<polyline points="%s" style="stroke:var(--c1);stroke-width:2"/>%s'
      '</svg>' % (html.escape(description), corners, circle))


def _to_inline(svg, name, description):
  """Turns matplotlib's file into a part of a page."""
  svg = svg[svg.index("<svg"):]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
  view_box = re.search(r'viewBox="([^"]*)"', svg).group(1)
  # Groups need no ids; referenced elements need an id that is unique in the
  # page.
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  svg = re.sub(r'id="([^"]*)"', r'id="%s-\1"' % name, svg)
  svg = re.sub(r'(url\(|href=")#', r"\1#%s-" % name, svg)
  svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
  svg = re.sub(r"font: (?:[^;\"]*? )??([\d.]+)px [^;\"]*",
               r"font-size: \1px", svg)
  for color, stand_in in _COLORS.items():
    svg = svg.replace(stand_in, "var(--%s)" % color)
  svg = re.sub(r"\s*\n\s*", "\n", svg)
  return re.sub(
      r"^<svg[^>]*>", '<svg viewBox="%s" role="img" aria-label="%s">' % (
          view_box, html.escape(description)), svg)
