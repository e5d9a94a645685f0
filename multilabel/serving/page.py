# SPDX-License-Identifier: Apache-2.0
"""The page at /: a self-contained file, and its policy."""

import base64
import hashlib
import io
import os


_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                       "page_files")


class Page(object):
  """The page, assembled from its files.

  Attributes:
    html: bytes, UTF-8.
    headers: dict; its policy lets the page only run its own script, by hash,
      and call this server.
  """

  def __init__(self):
    html, style, script = [
        _read(name) for name in ("page.html", "page.css", "page.js")]
    html = _replace(html, '<link rel="stylesheet" href="page.css">',
                    "<style>%s</style>" % style)
    html = _replace(html, '<script src="page.js"></script>',
                    "<script>%s</script>" % script)
    self.html = html.encode("utf-8")
    self.headers = {
        "Content-Security-Policy": "; ".join([
            "default-src 'none'", "script-src '%s'" % _hash(script),
            "style-src '%s'" % _hash(style), "connect-src 'self'",
            "img-src data:", "base-uri 'none'", "form-action 'none'",
            "frame-ancestors 'none'", "require-trusted-types-for 'script'"]),
        "Referrer-Policy": "no-referrer"}


def _read(name):
  with io.open(os.path.join(_FOLDER, name), encoding="utf-8") as reader:
    return reader.read()


def _replace(html, old, new):
  if html.count(old) != 1:
    raise ValueError("page.html must have %s once." % old)
  return html.replace(old, new)


def _hash(text):
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return "sha256-" + base64.b64encode(digest).decode("ascii")
