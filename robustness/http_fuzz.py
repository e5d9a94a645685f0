# SPDX-License-Identifier: Apache-2.0
"""Fuzzes a server.

  python -m robustness.http_fuzz --requests=20000

hypothesis generates requests: valid ones with a part replaced, removed or
duplicated, arbitrary JSON, arbitrary bytes, wrong lengths, other methods, paths
and headers. Each must get a response in time, with JSON, and without status
5xx; from time to time, a valid request must still get its correct response.
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import json
import socket
import sys
import time

from absl import flags
import hypothesis
from hypothesis import strategies

from robustness import http_client


FLAGS = flags.FLAGS

# Seconds within which a response must start.
HANG = 20

ROW = {"input_ids": [2, 5, 3], "input_mask": [1, 1, 1],
       "segment_ids": [0, 0, 0]}

PREDICT = "/v1/models/multilabel:predict"
GOOD = [
    ("/v1/label", {"texts": ["a b", ["a", "b"]], "threshold": 0.5, "top_k": 2,
                   "always_one_label": True}),
    ("/v1/explain", {"text": "a b c"}),
    (PREDICT, {"instances": [ROW, ROW]}),
    (PREDICT, {"signature_name": "predict_labels",
               "inputs": {name: [row] for name, row in ROW.items()}}),
    (PREDICT, {"signature_name": "ids_only", "inputs": [[2, 5, 3]]}),
    (PREDICT, {"signature_name": "text", "instances": [{"b64": "YQ=="}]}),
    ("/v1/models/multilabel:classify",
     {"signature_name": "classify", "context": {"segment_ids": [0, 0]},
      "examples": [{"input_ids": [2, 3]}]}),
]
PATHS = sorted({path for path, _ in GOOD}) + [
    "/", "/healthz", "/readyz", "/metrics", "/openapi.json",
    "/v1/models/multilabel", "/v1/models/multilabel/metadata",
    "/v1/models/multilabel/versions/1", "/v1/models/x:predict", "/../x"]
KEYS = sorted({"texts", "text", "label", "threshold", "top_k", "instances",
               "inputs", "signature_name", "examples", "context", "b64",
               "always_one_label", "__proto__", ""} | set(ROW))

Request = collections.namedtuple("Request", ["method", "path", "headers",
                                             "body", "length", "pieces"])


def values():
  """Any JSON, likely numbers and keys more often."""
  leaves = strategies.one_of(
      strategies.none(), strategies.booleans(),
      strategies.sampled_from([0, 1, -1, 2, 99999, 2 ** 31, 2 ** 63, 10 ** 400,
                               0.5, 1e300, -0.0, "classify", "text",
                               "serving_default", "\ud800", "a" * 25000]),
      strategies.integers(), strategies.floats(), strategies.text(max_size=20))
  return strategies.recursive(
      leaves, lambda inner: strategies.one_of(
          strategies.lists(inner, max_size=4), strategies.dictionaries(
              strategies.sampled_from(KEYS) | strategies.text(max_size=5),
              inner, max_size=4)), max_leaves=12)


def places(value, place=()):
  """Yields the place of every part of a JSON value, as a tuple of keys."""
  yield place
  if isinstance(value, dict):
    for key in value:
      for inner in places(value[key], place + (key,)):
        yield inner
  elif isinstance(value, list):
    for number, part in enumerate(value):
      for inner in places(part, place + (number,)):
        yield inner


def changed(value, place, change):
  """Returns `value` with the part at `place` replaced by `change(part)`."""
  if not place:
    return change(value)
  made = dict(value) if isinstance(value, dict) else list(value)
  made[place[0]] = changed(value[place[0]], place[1:], change)
  return made


@strategies.composite
def bodies(draw):
  """(path, bytes)."""
  path, body = draw(strategies.sampled_from(GOOD))
  kind = draw(strategies.integers(0, 9))
  if kind == 0:
    return path, draw(strategies.binary(max_size=200))
  if kind == 1:
    return path, _dump(draw(values()))
  for _ in range(draw(strategies.integers(0, 2))):
    place = draw(strategies.sampled_from(sorted(places(body), key=repr)))
    other = draw(values())
    body = changed(body, place, draw(strategies.sampled_from([
        lambda part, other=other: other,
        lambda part, other=other: [part, other],
        lambda part: [part] * 40,
        lambda part, other=other: (
            dict(part, more=other) if isinstance(part, dict) else {"a": part}),
        lambda part: (part[1:] if isinstance(part, (list, str)) else
                      {} if isinstance(part, dict) else None)])))
  text = _dump(body)
  if kind == 2:
    end = draw(strategies.integers(0, len(text)))
    return path, text[:end] + draw(strategies.binary(max_size=3)) + text[end:]
  if kind == 3:
    return path, text.decode("ascii").encode(draw(strategies.sampled_from(
        ["utf-16", "utf-32", "utf-8-sig"])))
  if kind == 4:
    depth = draw(strategies.integers(1, 30000))
    return path, text[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
  return path, text


def _dump(value):
  return json.dumps(value).encode("ascii")


@strategies.composite
def requests(draw):
  """`Request`s; most of them with the right method, path and length."""
  path, body = draw(bodies())
  method = "POST"
  if not draw(strategies.integers(0, 9)):
    method = draw(strategies.sampled_from(
        ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"]))
  if not draw(strategies.integers(0, 7)):
    path = draw(strategies.sampled_from(PATHS))
  if not draw(strategies.integers(0, 9)):
    path += draw(strategies.text(
        "abc/:.%?#{}0123456789-_", max_size=10))
  headers = draw(strategies.lists(strategies.sampled_from([
      "Content-Type: application/json", "Content-Type: text/xml",
      "Content-Type: application/json; charset=latin-1",
      "Content-Encoding: gzip", "Expect: 100-continue", "Connection: close",
      "Upgrade: websocket\r\nConnection: upgrade", "Accept: */*",
      "X-API-Key: abc", "Authorization: Bearer \xff", "Cookie: a=b",
      "Host: other", "Transfer-Encoding: gzip"]), max_size=1))
  length = "chunked" if not draw(strategies.integers(0, 4)) else (
      str(len(body)) if draw(strategies.integers(0, 19)) else
      draw(strategies.sampled_from(["0", "-1", "x", "1e3", "9" * 30])))
  return Request(method, path, headers, body, length,
                 draw(strategies.integers(1, 3)))


def encode(request):
  """The bytes of a `Request`, as a list of pieces."""
  head = ["%s %s HTTP/1.1" % (request.method, request.path), "Host: localhost",
          "Connection: close"] + list(request.headers)
  body = request.body
  if request.length == "chunked":
    head.append("Transfer-Encoding: chunked")
    body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (
        b"0\r\n\r\n")
  else:
    head.append("Content-Length: " + request.length)
  data = "\r\n".join(head + ["", ""]).encode("latin-1") + body
  size = len(data) // request.pieces + 1
  return [data[start:start + size] for start in range(0, len(data), size)]


def exchange(port, pieces):
  """Sends pieces on a connection; returns all that comes back."""
  with socket.create_connection(("127.0.0.1", port), HANG) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    parts = []
    try:
      for piece in pieces:
        sock.sendall(piece)
      for part in iter(lambda: sock.recv(65536), b""):
        parts.append(part)
    except (ConnectionResetError, BrokenPipeError):
      pass  # The server has refused to read on.
    return b"".join(parts)


def check(request, answer, seconds):
  """Raises AssertionError for an invalid response; returns its status.
  """
  if seconds > HANG / 2:
    raise AssertionError("%.1f s until a response" % seconds)
  if not answer:
    return "closed"
  while answer.startswith(b"HTTP/1.1 100 "):
    answer = answer.partition(b"\r\n\r\n")[2]
  head, _, body = answer.partition(b"\r\n\r\n")
  status = int(head.split(b" ")[1])
  if status >= 500 or b"Traceback" in body:
    raise AssertionError("status %d: %r" % (status, body[:300]))
  # granian answers what is not HTTP by itself, without a body.
  if status >= 400 and request.method != "HEAD" and body:
    sentence = json.loads(body.decode("utf-8"))["error"]
    if not sentence.endswith(".") or "\n" in sentence:
      raise AssertionError("no sentence: %r" % sentence)
  return status


def run(port, number, seed=0):
  """Sends `number` requests.

  Args:
    port: int, of a server on this machine.
    number: int.
    seed: int; the same one, the same requests.

  Returns:
    Counter of status (int, or "closed" for no answer).

  Raises:
    AssertionError: an invalid response; hypothesis shows the request.
  """
  statuses = collections.Counter()
  control = http_client.post(*GOOD[2])
  client = http_client.Client(port)
  first = client.send(control)
  client.close()
  if first[0] != 200:
    raise AssertionError("the valid request has status %d" % first[0])

  @hypothesis.seed(seed)
  @hypothesis.settings(
      max_examples=number, deadline=None, database=None,
      suppress_health_check=list(hypothesis.HealthCheck),
      phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])
  @hypothesis.given(requests())
  def send(request):
    started = time.time()
    answer = exchange(port, encode(request))
    statuses[check(request, answer, time.time() - started)] += 1
    if sum(statuses.values()) % 50 == 0:
      client = http_client.Client(port)
      # No request may change another's answer.
      if client.send(control) != first:
        raise AssertionError("the valid request has a different response")
      client.close()

  send()
  return statuses


def define_flags():
  """Defines this script's flags; called where the script starts."""
  with command_line.flag_group("Fuzz"):
    flags.DEFINE_string("model_dir", "demo_work/output",
                        "--output_dir of a training run.")
    flags.DEFINE_integer("requests", 20000, "Total number of requests.")
    flags.DEFINE_integer("seed", 0, "Seed of the requests.")


def main(argv):
  del argv
  # Bodies that are announced and never come take as long as the time-out.
  with http_client.start_server(
      FLAGS.model_dir, "--head_timeout=0.5", "--body_timeout=0.5") as (port, _):
    started = time.time()
    done = 0
    statuses = collections.Counter()
    while done < FLAGS.requests:
      some = min(2000, FLAGS.requests - done)
      statuses.update(run(port, some, FLAGS.seed + done))
      done += some
    print("%d requests in %.0f s, none with status 5xx, none hung" % (
        sum(statuses.values()), time.time() - started))
  for status, count in sorted(statuses.items(), key=str):
    print("%-10s %d" % (status, count))
  sys.stdout.flush()


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
