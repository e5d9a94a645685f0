# SPDX-License-Identifier: Apache-2.0
"""Draws what `benchmarks.growth` measured.

  python -m benchmarks.plot growth.json growth.png

Needs matplotlib.
"""

import json
import sys


def exponent_text(exponent):
  return ("exponent unknown" if exponent is None
          else "exponent %.2f" % exponent)


def draw(growth, path):
  """Writes an image of the curves, a panel each, on logarithmic scales.

  Args:
    growth: dict, the JSON of `benchmarks.growth`.
    path: str, ends in .png or .svg.
  """
  import matplotlib
  matplotlib.use("Agg")
  from matplotlib import pyplot

  curves = growth["curves"]
  figure, panels = pyplot.subplots(
      1, len(curves), figsize=(3.2 * len(curves), 3.2), squeeze=False)
  for panel, curve in zip(panels[0], curves):
    sizes = curve["sizes"]
    middle = [point["median"] for point in curve["points"]]
    low = [point["least"] for point in curve["points"]]
    high = [point["most"] for point in curve["points"]]
    panel.loglog(sizes, middle, "o-", color="#1f77b4", base=2, markersize=4)
    panel.fill_between(sizes, low, high, color="#1f77b4", alpha=0.2)
    panel.set_title("%s: %s" % (curve["name"], exponent_text(
        curve["exponent"])), fontsize=9)
    panel.set_xlabel(curve["of"], fontsize=8)
    panel.set_ylabel(curve["unit"], fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(True, which="major", alpha=0.3)
  figure.suptitle("commit %s, %s" % (growth["commit"][:12] or "unknown",
                                     growth["cpu"]), fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=130)
  pyplot.close(figure)


def main(argv):
  if len(argv) != 3:
    sys.exit("usage: python -m benchmarks.plot growth.json growth.png")
  with open(argv[1]) as reader:
    growth = json.load(reader)
  draw(growth, argv[2])


if __name__ == "__main__":
  main(sys.argv)
