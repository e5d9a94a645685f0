# SPDX-License-Identifier: Apache-2.0
"""Bytes of HTTP for tests that need them by hand; holds no tests."""

import json
import re
import threading
import time


LABEL_HEAD = b"POST /v1/label HTTP/1.1\r\nHost: x\r\n"


def label_request(*texts):
  """The bytes of a request."""
  body = json.dumps({"texts": texts}).encode("ascii")
  return LABEL_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def read_all(sock):
  """What comes until the other side closes."""
  parts = []
  try:
    for part in iter(lambda: sock.recv(65536), b""):
      parts.append(part)
  except ConnectionResetError:
    pass
  return b"".join(parts)


def read_answer(sock):
  """One answer with its body; the connection may go on."""
  answer = b""
  while b"\r\n\r\n" not in answer:
    answer += sock.recv(65536)
  head, _, body = answer.partition(b"\r\n\r\n")
  length = int(re.search(br"(?i)content-length: (\d+)", head).group(1))
  while len(body) < length:
    body += sock.recv(65536)
  return head + b"\r\n\r\n" + body


def status_of(answer):
  return int(answer.split(b" ")[1])


def error_of(answer):
  return json.loads(answer.split(b"\r\n\r\n", 1)[1].decode("utf-8"))["error"]


def in_thread(function, *arguments):
  """Starts a call; the function that is returned waits for its result."""
  results = []
  thread = threading.Thread(
      target=lambda: results.append(function(*arguments)))
  thread.start()

  def result():
    thread.join(60)
    return results[0]
  result.is_done = lambda: bool(results)
  return result


def wait_until(condition, seconds=30):
  """Waits until `condition()` is true."""
  end = time.time() + seconds
  while not condition():
    assert time.time() < end
    time.sleep(0.05)
