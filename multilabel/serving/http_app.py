# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: paths and their handlers.

Requests are read and checked (`http_body`, `http_requests`), texts become ids,
all wait in one bounded queue for a shared run of the model (the batcher), and
the response is written (`http_answers`).
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import json
import threading

from absl import logging
import msgspec
from starlette.responses import Response
from starlette.routing import Route
from starlette.routing import Router

from multilabel import decisions
from multilabel.serving import http_answers
from multilabel.serving import http_body
from multilabel.serving import http_errors
from multilabel.serving import http_gate
from multilabel.serving import http_metrics
from multilabel.serving import openapi
from multilabel.serving import page


# Larger inputs (bytes, characters or numbers) are processed in a separate
# thread, so that others are served meanwhile.
_SMALL = 4096

# An explanation takes one run per word. One text is explained at a time, this
# many may wait, and the model runs on this many texts at once, so that
# labelling keeps most of the cores.
_MAX_EXPLAINING = 4
_EXPLAIN_TEXTS = 8

# One class from Python 3.11 on.
_TIMEOUTS = (TimeoutError, concurrent.futures.TimeoutError)

# name: str; example: str, the example text on the page; timeouts: float,
# seconds; max_words: int, maximum words to explain; loopback: bool, whether the
# server listens on this machine alone.
Settings = collections.namedtuple("Settings", [
    "name", "example", "max_body_bytes", "body_timeout", "request_timeout",
    "max_words", "max_unfinished", "loopback", "log_requests", "log_texts"])


class Served(object):
  """A loaded model and what belongs to it; a request uses only one.

  Attributes:
    predictor: `SessionPredictor` or one with the same interface.
    batcher: batches the features of several requests.
    requests: `http_requests.Requests`.
    version: str.
    users: int, requests that are using it; changed only by the event loop.
  """

  def __init__(self, predictor, batcher, requests, version):
    self.predictor = predictor
    self.batcher = batcher
    self.requests = requests
    self.version = version
    self.users = 0


class Application(object):
  """One model behind HTTP; `asgi` is what a server runs.

  Attributes:
    asgi: ASGI application.
    served: `Served`; serves the next requests; may be replaced.
    keys: list of bytes, one of which a request must have; empty: no key needed.
  """

  def __init__(self, served, queue_full, explain, settings, keys=(),
               metrics=None):
    """Puts the parts together.

    Args:
      served: `Served`.
      queue_full: class of the exception of a batcher whose queue is full.
      explain: function of (predict, text, label or None, labels, max_words),
        see `word_importance.explain`.
      settings: `Settings`.
      keys: list of bytes.
      metrics: `http_metrics.Metrics`, or None for one of its own.
    """
    self.served = served
    self.keys = list(keys)
    self._queue_full = queue_full
    self._explain = explain
    self._settings = settings
    self._bodies = http_body.BodyReader(
        settings.max_body_bytes, settings.body_timeout,
        settings.max_unfinished)
    self._threads = concurrent.futures.ThreadPoolExecutor(2, "prepare")
    self._explainer = concurrent.futures.ThreadPoolExecutor(1, "explain")
    self._explaining = 0
    self._page = page.Page()
    self._metrics = metrics or http_metrics.Metrics()
    self.asgi = self._make_asgi()

  def _make_asgi(self):
    model = "/v1/models/{model}"
    version = model + "/versions/{version}"
    table = [
        ("GET", ["/"], self._get_page),
        ("GET", ["/healthz"], self._healthz),
        ("GET", ["/readyz"], self._readyz),
        ("GET", ["/metrics"], self._get_metrics),
        ("GET", ["/openapi.json"], self._openapi),
        ("GET", ["/v1/labels"], self._labels),
        ("POST", ["/v1/label"], self._label),
        ("POST", ["/v1/explain"], self._explain_text),
        ("POST", [model + ":predict", version + ":predict"], self._predict),
        ("POST", [model + ":classify", version + ":classify"], self._classify),
        ("POST", [model + ":{verb}", version + ":{verb}"], self._no_verb),
        ("GET", [model + "/metadata", version + "/metadata"], self._metadata),
        ("GET", [model, version], self._status),
    ]
    # A redirect would use the client's Host header.
    router = Router([Route(path, endpoint, methods=[method])
                     for method, paths, endpoint in table for path in paths],
                    redirect_slashes=False)
    return http_gate.Gate(
        router, {endpoint: paths[0] for _, paths, endpoint in table},
        self._metrics, lambda: self.keys, ("/", "/healthz", "/readyz"),
        self._settings.loopback, self._settings.log_requests,
        self._settings.max_body_bytes)

  def close(self):
    """Ends the threads; work for unfinished requests is dropped."""
    self._threads.shutdown(wait=False)
    self._explainer.shutdown(wait=False)

  def refresh_metrics(self):
    """Brings the gauges up to date."""
    self._metrics.refresh(self.served.batcher.stats()["queue_texts"],
                          self._settings.name, self.served.version)

  @contextlib.contextmanager
  def _serving(self):
    """The `Served` of one request, which is not closed meanwhile."""
    served = self.served
    served.users += 1
    try:
      yield served
    finally:
      served.users -= 1

  # Endpoints that do not use the model.

  async def _get_page(self, request):
    del request
    return Response(self._page.html, media_type="text/html",
                    headers=self._page.headers)

  async def _healthz(self, request):
    del request
    return _answer({"status": "alive"})

  async def _readyz(self, request):
    del request
    return _answer({"status": "ready"})

  async def _get_metrics(self, request):
    del request
    self.refresh_metrics()
    return Response(self._metrics.exposition(),
                    headers={"Content-Type": self._metrics.content_type})

  async def _openapi(self, request):
    del request
    return _answer(openapi.describe(
        self._settings.name, self.served.version, self.served.requests,
        bool(self.keys)))

  async def _labels(self, request):
    del request
    return _answer(http_answers.LabelsAnswer(
        self._settings.name, self.served.version,
        list(self.served.predictor.labels), self._settings.example))

  async def _status(self, request):
    self._check_model(request, self.served)
    return _answer(http_answers.status(self.served.version))

  async def _metadata(self, request):
    self._check_model(request, self.served)
    return _answer(http_answers.metadata(
        self._settings.name, self.served.version,
        len(self.served.predictor.labels)))

  async def _no_verb(self, request):
    self._check_model(request, self.served)
    raise http_errors.Refused(404, "a model supports :predict and :classify.")

  # Endpoints that use the model.

  async def _predict(self, request):
    body = await self._bodies.read(request)
    with self._serving() as served:
      self._check_model(request, served)
      asked = await self._parse(body, served.requests.parse_predict)
      probabilities = await self._probabilities(
          request, served, asked.texts, asked.features)
      return await self._write(
          probabilities.size, http_answers.predict, asked, probabilities,
          served.predictor.labels, served.predictor.decision)

  async def _classify(self, request):
    body = await self._bodies.read(request)
    with self._serving() as served:
      self._check_model(request, served)
      features = await self._parse(body, served.requests.parse_classify)
      probabilities = await self._probabilities(
          request, served, None, features)
      return await self._write(
          probabilities.size, http_answers.classify, probabilities,
          served.predictor.labels)

  async def _label(self, request):
    body = await self._bodies.read(request)
    with self._serving() as served:
      asked = await self._parse(body, served.requests.parse_label)
      probabilities = await self._probabilities(
          request, served, asked.texts, None)
      return await self._write(probabilities.size, self._labelled, served,
                               asked, probabilities)

  def _labelled(self, served, asked, probabilities):
    predictor = served.predictor
    which = asked.probabilities or decisions.default_answer(
        len(predictor.labels))
    decision = predictor.decision_for(asked.threshold, asked.top_k,
                                      asked.always_one_label)
    described = predictor.describe(probabilities, *decision, which=which)
    return http_answers.label(self._settings.name, served.version, described,
                              predictor.labels, decision)

  async def _explain_text(self, request):
    body = await self._bodies.read(request)
    with self._serving() as served:
      labels = served.predictor.labels
      text, label = await self._parse(
          body, served.requests.parse_explain, labels)
      self._log_texts([text])
      if self._explaining > _MAX_EXPLAINING:
        raise http_errors.overloaded(
            "too many explanations at a time; try again later.")
      stop = threading.Event()
      self._explaining += 1
      try:
        found = await self._unless_gone(
            request, asyncio.get_running_loop().run_in_executor(
                self._explainer, self._explain, _predict_for(served, stop),
                text, label, labels, self._settings.max_words))
      finally:
        stop.set()
        self._explaining -= 1
      return _answer(http_answers.ExplainAnswer(
          self._settings.name, served.version, **found))

  # Shared steps.

  def _check_model(self, request, served):
    """Rejects a model or a version other than the one being served."""
    asked = request.path_params
    if asked["model"] != self._settings.name or asked.get(
        "version", served.version) != served.version:
      raise http_errors.Refused(
          404, "there is no such model or version; this server has %s, "
          "version %s." % (self._settings.name, served.version))

  async def _parse(self, body, parse, *arguments):
    return await _in_thread_if(len(body) > _SMALL, self._threads, parse,
                               body, *arguments)

  async def _probabilities(self, request, served, texts, features):
    """float32 `[n, num_labels]` of either texts or features."""
    if features is None:
      self._log_texts(texts)
      size = sum(len(part) for text in texts for part in (
          text if isinstance(text, tuple) else (text,)))
      encoded = await _in_thread_if(size > _SMALL, self._threads,
                                    served.predictor.encode, texts)
    else:
      encoded = served.predictor.check_features(features)
    try:
      future = served.batcher.submit(encoded, self._settings.request_timeout)
    except self._queue_full:
      raise http_errors.overloaded(
          "the server is overloaded; try again later.")
    except ValueError:  # it is closed
      raise http_errors.overloaded("the server is stopping.")
    probabilities = await self._unless_gone(
        request, asyncio.wrap_future(future))
    self._metrics.texts.inc(len(probabilities))
    return probabilities

  async def _unless_gone(self, request, future):
    """Waits for `future`; drops it on disconnect or timeout."""
    gone = asyncio.ensure_future(_disconnect(request.receive))
    try:
      await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED,
                         timeout=self._settings.request_timeout)
      if future.done():
        try:
          return future.result()
        except _TIMEOUTS:
          raise self._too_slow()
      if gone.done():
        raise http_errors.ClientGone()
      raise self._too_slow()
    finally:
      future.cancel()
      gone.cancel()
      # The exception's traceback would keep them alive, and they the exception.
      del future, gone

  def _too_slow(self):
    return http_errors.Refused(
        504, "the response was not ready within %g seconds." %
        self._settings.request_timeout)

  async def _write(self, size, make, *arguments):
    """The response of `make(*arguments)`, which has `size` numbers."""
    return await _in_thread_if(
        size > _SMALL, self._threads, lambda: _answer(make(*arguments)))

  def _log_texts(self, texts):
    if self._settings.log_texts:
      for text in texts:
        logging.info("text: %s", json.dumps(text))


def _predict_for(served, stop):
  """A blocking `predict`, a few texts at a time, outside the batcher."""
  def predict(texts):
    rows = []
    for start in range(0, len(texts), _EXPLAIN_TEXTS):
      if stop.is_set():
        raise http_errors.ClientGone()
      rows.extend(served.predictor.predict_encoded(
          served.predictor.encode(texts[start:start + _EXPLAIN_TEXTS])))
    return rows
  return predict


async def _in_thread_if(large, threads, function, *arguments):
  if large:
    return await asyncio.get_running_loop().run_in_executor(
        threads, function, *arguments)
  return function(*arguments)


async def _disconnect(receive):
  while (await receive())["type"] != "http.disconnect":
    pass


def _answer(value):
  return Response(msgspec.json.encode(value), media_type="application/json")
