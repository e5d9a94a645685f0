# SPDX-License-Identifier: Apache-2.0
"""A local server that speaks the part of the hub's API that is used.

  with fake_hub.serve({"owner/name": folder}) as hub:
    ... HF_ENDPOINT=hub.url ...; hub.requested is the list of files asked for.
"""

import contextlib
import hashlib
import http.server
import json
import os
import threading
import urllib.parse


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(object):
  """A running server: `url`, `requested` (names of files, each once)."""

  def __init__(self, url):
    self.url = url
    self.requested = []


@contextlib.contextmanager
def serve(models):
  """Serves folders as models of revision "main" with the commit `COMMIT`.

  Args:
    models: dict from a model's name to its folder.
  """
  hub = FakeHub(None)

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
      del args

    def do_HEAD(self):
      self._answer(False)

    def do_GET(self):
      self._answer(True)

    def _answer(self, with_body):
      path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
      for name, folder in models.items():
        api = "/api/models/%s" % name
        if path in (api, api + "/revision/main", api + "/revision/" + COMMIT):
          return self._send(200, json.dumps({
              "_id": "1", "id": name, "modelId": name, "sha": COMMIT,
              "private": False, "tags": [], "downloads": 0, "likes": 0,
              "siblings": [{"rfilename": f} for f in _files(folder)],
          }).encode(), {"Content-Type": "application/json"}, with_body)
        if path in (api + "/tree/main", api + "/tree/" + COMMIT):
          return self._send(200, json.dumps([
              {"type": "file", "path": f, "oid": _etag(_read(folder, f)),
               "size": len(_read(folder, f))} for f in _files(folder)
          ]).encode(), {"Content-Type": "application/json"}, with_body)
        if path.startswith(api + "/revision/"):
          return self._error(404, "RevisionNotFound", with_body)
        for revision in ("main", COMMIT):
          start = "/%s/resolve/%s/" % (name, revision)
          if path.startswith(start) and path[len(start):] in _files(folder):
            return self._file(folder, path[len(start):], with_body)
      self._error(401, "RepoNotFound", with_body)

    def _file(self, folder, name, with_body):
      if name not in hub.requested:
        hub.requested.append(name)
      data = _read(folder, name)
      self._send(200, data, {
          "ETag": '"%s"' % _etag(data),
          "X-Repo-Commit": COMMIT,
          "Content-Type": "application/octet-stream"}, with_body)

    def _error(self, status, code, with_body):
      self._send(status, b"{}", {"X-Error-Code": code}, with_body)

    def _send(self, status, data, headers, with_body):
      self.send_response(status)
      for key, value in headers.items():
        self.send_header(key, value)
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      if with_body:
        self.wfile.write(data)

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  server.daemon_threads = True
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  hub.url = "http://127.0.0.1:%d" % server.server_address[1]
  try:
    yield hub
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def _read(folder, name):
  with open(os.path.join(folder, name), "rb") as reader:
    return reader.read()


def _etag(data):
  return hashlib.sha1(data).hexdigest()


def _files(folder):
  return sorted(
      os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")
      for where, _, names in os.walk(folder) for name in names)
