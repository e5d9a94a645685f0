# SPDX-License-Identifier: Apache-2.0
"""The page around the report: one file, no network, for light, dark and print.

All functions return HTML; arguments not called `..._html` are text, and
escaped.
"""

import base64
import hashlib
import html
import math
import os
import re


# Characters that HTML cannot contain, or that change the direction of text.
_UNPRINTABLE = re.compile(
    u"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    u"\ufffe\uffff\u202a-\u202e\u2066-\u2069]")

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f6f7f9;
  --ink: #1c2128; --muted: #5b6572; --line: #dde2e8; --c1: #1b62ad;
  --c2: #c2500a; --c3: #13795b; --c4: #7a3fc4; --heat: 27, 98, 173;
  --warm: 194, 80, 10; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #13171c;
  --panel: #1b2027; --ink: #e4e8ed; --muted: #9ba6b3; --line: #303843;
  --c1: #6fb1f5; --c2: #f59a5b; --c3: #5cc9a0; --c4: #bd9cf5;
  --heat: 90, 160, 235; --warm: 235, 140, 75; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1080px; padding: 0 20px 60px;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Noto Sans CJK SC", sans-serif; overflow-wrap: anywhere; }
header { padding: 36px 0 14px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 0 0 8px; }
h3 { font-size: 15px; margin: 22px 0 6px; }
p { margin: 0 0 12px; max-width: 46em; }
.note, figcaption, .lead + p { color: var(--muted); }
.note, figcaption { font-size: 13px; max-width: 62em; }
.lead { font-size: 16.5px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 10px 0;
  border: solid var(--line); border-width: 1px 0; font-size: 14px; }
a { color: var(--c1); text-decoration: none; }
a:hover { text-decoration: underline; }
section { margin-top: 40px; }
.cards { display: grid; gap: 14px; margin: 18px 0;
  grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); }
.card { background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px; padding: 14px 16px; }
.card .name { color: var(--muted); font-size: 13.5px; }
.card .value { font-size: 32px; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card .range, .card .other { font-size: 13px; color: var(--muted);
  font-variant-numeric: tabular-nums; }
.scale { position: relative; height: 6px; border-radius: 3px; margin: 8px 0;
  background: var(--line); }
.scale i { position: absolute; top: 0; height: 6px; border-radius: 3px;
  background: var(--c1); opacity: .45; }
.scale b { position: absolute; top: -3px; width: 2px; height: 12px;
  background: var(--ink); }
.figures { display: grid; gap: 26px 30px; margin: 18px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; max-width: 520px; height: auto; }
figure h3 { margin-top: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px;
  margin-bottom: 6px; }
.legend i { display: inline-block; width: 20px; height: 0; margin-right: 6px;
  border-width: 3px 0 0; vertical-align: middle; }
.legend i.dot { width: 0; border-width: 4px; border-radius: 50%; }
.smalls { display: grid; gap: 16px; margin: 16px 0;
  grid-template-columns: repeat(auto-fill, minmax(116px, 1fr)); }
.smalls figure { font-size: 12.5px; line-height: 1.3; }
.smalls bdi { display: -webkit-box; -webkit-line-clamp: 3; overflow: hidden;
  -webkit-box-orient: vertical; }
.small path, .small polyline { fill: none; stroke-linejoin: round; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 13.5px; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 10px; vertical-align: baseline;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--muted); border-bottom-color: var(--muted); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.wide { width: 100%; }
.name { font-weight: 400; white-space: normal; overflow-wrap: anywhere;
  text-align: left; min-width: 13em; max-width: 24em; }
.labels th:nth-child(2), .pairs th:nth-child(2) { text-align: left; }
.labels .name { width: 26%; }
.bar { width: 22%; min-width: 150px; text-align: left; }
.scores thead th { white-space: normal; }
.short .name { min-width: 4em; }
.bar i { display: inline-block; height: 10px; margin-right: 7px;
  background: var(--c1); border-radius: 2px; vertical-align: baseline; }
.heat td, .heat thead th { padding: 3px 4px; text-align: center;
  min-width: 31px; }
.heat thead th { vertical-align: bottom; font-weight: 400;
  color: var(--ink); }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg);
  text-orientation: sideways; max-height: 200px; display: inline-block;
  overflow: hidden; text-overflow: ellipsis; line-height: 1.2; }
.heat th.name { white-space: nowrap; overflow: hidden; max-width: 190px;
  text-overflow: ellipsis; padding-right: 10px; min-width: 0; }
.heat td { border: 1px solid var(--paper); font-size: 12px; }
.heat .self, .heat .zero { color: var(--muted); }
.stick th:first-child { position: sticky; left: 0; background: var(--paper); }
.tall { max-height: 420px; overflow: auto; border: 1px solid var(--line);
  border-radius: 6px; padding: 0 10px; }
.tall thead th { position: sticky; top: 0; background: var(--paper); }
details { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: 7px 0; }
summary .note { margin-left: 8px; }
.mistake { display: grid; grid-template-columns: 52px minmax(0, 1fr);
  gap: 0 12px; padding: 7px 0; border-top: 1px solid var(--line);
  font-size: 14px; }
.mistake b { font-variant-numeric: tabular-nums; font-weight: 600; }
.mistake .note { display: block; max-width: none; }
.kind { font-weight: 600; font-size: 13.5px; margin: 8px 0 4px; }
.false b, .kind.false { color: var(--c2); }
.missed b, .kind.missed { color: var(--c4); }
.mistake bdi { background: var(--panel); border: 1px solid var(--line);
  border-radius: 4px; padding: 0 5px; display: inline-block; overflow: hidden;
  max-width: min(100%, 20em); text-overflow: ellipsis; white-space: nowrap;
  vertical-align: bottom; }
pre { background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px; padding: 12px 14px; font-size: 13px; line-height: 1.45;
  white-space: pre; overflow-x: auto; }
input { font: inherit; color: inherit; background: var(--paper); width: 100%;
  max-width: 320px; padding: 6px 10px; border: 1px solid var(--muted);
  border-radius: 6px; }
footer { margin-top: 48px; color: var(--muted); font-size: 13px; }
@media (max-width: 560px) {
  body { padding: 0 12px 40px; }
  header { padding-top: 22px; }
  .cards { grid-template-columns: 1fr; gap: 10px; }
  .bar { min-width: 120px; }
  .name { min-width: 8.5em; }
  th, td { padding: 4px 7px; }
}
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 12px; }
  nav, input { display: none; }
  section { margin-top: 26px; }
  figure, .card, .mistake, tr, pre { break-inside: avoid; }
  h2, h3, summary, .kind { break-after: avoid; }
  .scroll, .tall { overflow: visible; max-height: none; border: 0; }
  .tall { padding: 0; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .cards { grid-template-columns: 1fr 1fr 1fr; }
  .figures { grid-template-columns: 1fr 1fr; }
  #all-mistakes { columns: 2; column-gap: 24px; }
  .mistake { font-size: 10px; line-height: 1.35; padding: 4px 0;
    grid-template-columns: 34px minmax(0, 1fr); }
  .note, figcaption, .mistake .note { font-size: 10px; }
  .kind { font-size: 11px; }
  table { font-size: 10.5px; }
  th, td { padding: 3px 6px; }
  .heat td, .heat thead th { font-size: 8.5px; padding: 2px; min-width: 0; }
  .heat th.name { max-width: 110px; }
  .bar i, .scale, .scale *, .heat td, .card, .mistake bdi {
    -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""

# A search box hides rows without its words; printing opens everything.
_SCRIPT = """
document.querySelectorAll("input[data-rows]").forEach(function (box) {
  box.hidden = false;
  var rows = document.querySelectorAll(box.dataset.rows);
  box.addEventListener("input", function () {
    var wanted = box.value.trim().toLowerCase();
    rows.forEach(function (row) {
      row.hidden = row.dataset.name.toLowerCase().indexOf(wanted) < 0;
    });
  });
});
addEventListener("beforeprint", function () {
  document.querySelectorAll("details:not([open])").forEach(function (one) {
    one.open = true;
    one.dataset.closed = "1";
  });
});
addEventListener("afterprint", function () {
  document.querySelectorAll("details[data-closed]").forEach(function (one) {
    one.open = false;
    delete one.dataset.closed;
  });
});
"""


def clean(value):
  """Returns text that any page can contain; other characters become U+FFFD.
  """
  return _UNPRINTABLE.sub(u"\ufffd", str(value))


def escape(value):
  """Returns text as HTML, for content and for quoted attributes."""
  return html.escape(clean(value), quote=True)


def isolate(value):
  """Returns text as HTML whose direction does not affect its surroundings."""
  return "<bdi>%s</bdi>" % escape(value)


def number(value, decimals=3):
  """Returns a score as text: 0.825, or an en dash if it is undefined."""
  if value is None or math.isnan(value):
    return u"\u2013"
  return "%.*f" % (decimals, value)


def count(value):
  """Returns an integer as text: 12,875."""
  return "{:,}".format(int(value))


def plural(value, noun):
  """Returns "1 text", "1,430 texts"."""
  return "%s %s%s" % (count(value), noun, "" if value == 1 else "s")


def section(name, title, *content_html):
  """Returns a section with an anchor."""
  return '<section id="%s">\n<h2>%s</h2>\n%s\n</section>' % (
      name, escape(title), "\n".join(content_html))


def paragraph(text, css=None):
  """Returns a paragraph."""
  return "<p%s>%s</p>" % (' class="%s"' % css if css else "", escape(text))


def note(text):
  """Returns a paragraph that explains, in smaller type."""
  return paragraph(text, "note")


def figure(title, svg_html, caption="", legend=()):
  """Returns a figure.

  Args:
    title: str.
    svg_html: str.
    caption: str.
    legend: list of (text, name of a CSS variable, CSS border style or "dot").
  """
  legend_html = "".join(
      '<span><i%s style="border-color:var(--%s);border-style:%s"></i>%s'
      '</span>' % (
          ' class="dot"' if form == "dot" else "", color,
          "solid" if form == "dot" else form, isolate(text))
      for text, color, form in legend)
  return ('<figure><h3>%s</h3>\n%s%s\n%s</figure>' % (
      escape(title),
      '<div class="legend">%s</div>\n' % legend_html if legend else "",
      svg_html,
      "<figcaption>%s</figcaption>" % escape(caption) if caption else ""))


def table(head, rows_html, css="", scroll_css="scroll"):
  """Returns a table that scrolls if it is too wide.

  Args:
    head: list of str, the columns.
    rows_html: list of str, `<tr>` elements.
    css: str, class of the table.
    scroll_css: str, class of the element around it.
  """
  return (
      '<div class="%s"><table class="%s"><thead><tr>%s</tr></thead>\n<tbody>\n'
      '%s\n</tbody></table></div>' % (
          scroll_css, css, "".join('<th scope="col">%s</th>' % escape(cell)
                                   for cell in head), "\n".join(rows_html)))


def row(name, cells, data_name=None):
  """Returns a table's row: a heading, then cells, all text."""
  return '<tr%s><th scope="row" class="name">%s</th>%s</tr>' % (
      "" if data_name is None else ' data-name="%s"' % escape(data_name),
      isolate(name), "".join("<td>%s</td>" % escape(cell) for cell in cells))


def search_box(what, rows_selector):
  """Returns an input that filters rows (with `data-name`) while typing."""
  return ('<input type="search" hidden placeholder="%s" aria-label="%s" '
          'data-rows="%s">' % (escape(what), escape(what),
                               escape(rows_selector)))


def details(summary_html, content_html, data_name=None):
  """Returns a part that opens on a click, and when the page is printed."""
  return "<details%s><summary>%s</summary>\n%s\n</details>" % (
      "" if data_name is None else ' data-name="%s"' % escape(data_name),
      summary_html, content_html)


_START = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta http-equiv="Content-Security-Policy" content="')


def is_document(path):
  """Whether a file was made by `document`, or is empty; False for links."""
  if os.path.islink(path) or not os.path.isfile(path):
    return False
  with open(path, "rb") as reader:
    start = reader.read(len(_START))
  return start in (b"", _START.encode("ascii"))


def document(title, subtitle, sections):
  """Returns the complete page.

  Args:
    title: str.
    subtitle: str.
    sections: list of (name, short title, HTML of the section).

  Returns:
    str.
  """
  digest = base64.b64encode(
      hashlib.sha256(_SCRIPT.encode("utf-8")).digest()).decode("ascii")
  policy = ("default-src 'none'; style-src 'unsafe-inline'; script-src "
            "'sha256-%s'; base-uri 'none'; form-action 'none'" % digest)
  links = "".join('<a href="#%s">%s</a>' % (name, escape(short))
                  for name, short, _ in sections)
  return (
      '%s%s">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      '<meta name="referrer" content="no-referrer">\n'
      '<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<header>\n'
      '<h1>%s</h1>\n<div class="note">%s</div>\n</header>\n<nav>%s</nav>\n'
      '<main>\n%s\n</main>\n<script>%s</script>\n</body>\n</html>\n' % (
          _START, policy, escape(title), _STYLE, escape(title),
          escape(subtitle), links,
          "\n".join(body for _, _, body in sections), _SCRIPT))
