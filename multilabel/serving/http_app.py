# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: paths, and what stands behind each.

Requests are read and checked (`http_body`, `http_requests`), texts become
ids, all wait in one bounded queue for a run of the model that they share (the
batcher), and the answer is written (`http_answers`).
"""

import asyncio
import collections
import concurrent.futures
import json
import threading

from absl import logging
from starlette.responses import Response
from starlette.routing import Route
from starlette.routing import Router

from multilabel import decisions
from multilabel.serving import http_answers
from multilabel.serving import http_body
from multilabel.serving import http_errors
from multilabel.serving import http_gate
from multilabel.serving import http_json
from multilabel.serving import http_metrics
from multilabel.serving import http_requests
from multilabel.serving import openapi
from multilabel.serving import page


# Work on more than so many bytes, characters or numbers has a thread of its
# own, so that others are served meanwhile.
_SMALL = 4096

# Explaining takes a run a word: so many at a time, so many texts at once.
_MAX_EXPLAINING = 2
_EXPLAIN_TEXTS = 16

# One class from Python 3.11 on.
_TIMEOUTS = (TimeoutError, concurrent.futures.TimeoutError)

# name: str; version: str or None for the checkpoint's step; timeout: float,
# seconds; keys: list of bytes; max_words: int, words that are explained.
Settings = collections.namedtuple("Settings", [
    "name", "version", "max_body_bytes", "body_timeout", "request_timeout",
    "max_words", "keys", "log_requests", "log_texts"])


class Application(object):
  """One model behind HTTP; `asgi` is what a server runs.

  Attributes:
    asgi: ASGI application.
    metrics: `http_metrics.Metrics`.
    stopping: bool; set by the server, seen in /readyz.
    gauges: function without arguments that returns more gauges.
  """

  def __init__(self, predictor, batcher, queue_full, explain, settings, limits,
               metrics_folder=None):
    """Puts the parts together.

    Args:
      predictor: `predict_session.SessionPredictor`.
      batcher: what makes features of several requests one run.
      queue_full: class of the exception of a batcher whose queue is full.
      explain: function of (predict, text, label index, max_words), see
        `word_importance.explain`.
      settings: `Settings`.
      limits: `http_requests.Limits`.
      metrics_folder: str or None, see `http_metrics.SharedFolder`.
    """
    self._predictor = predictor
    self._batcher = batcher
    self._queue_full = queue_full
    self._explain = explain
    self._settings = settings
    self._limits = limits
    self._bodies = http_body.BodyReader(settings.max_body_bytes,
                                        settings.body_timeout)
    self._threads = concurrent.futures.ThreadPoolExecutor(2, "prepare")
    self._explainers = concurrent.futures.ThreadPoolExecutor(
        _MAX_EXPLAINING, "explain")
    self._explaining = 0
    self._folder = http_metrics.SharedFolder(metrics_folder)
    self._page = page.Page()
    self.metrics = http_metrics.Metrics()
    self.stopping = False
    self.gauges = dict
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
        ("POST", ["/v1/label"], self._label),
        ("POST", ["/v1/explain"], self._explain_text),
        ("POST", [model + ":predict", version + ":predict"], self._predict),
        ("POST", [model + ":classify", version + ":classify"], self._classify),
        ("POST", [model + ":{verb}", version + ":{verb}"], self._no_verb),
        ("GET", [model + "/metadata", version + "/metadata"], self._metadata),
        ("GET", [model, version], self._status),
    ]
    # A redirect would be made of what the client says is the host.
    router = Router([Route(path, endpoint, methods=[method])
                     for method, paths, endpoint in table for path in paths],
                    redirect_slashes=False)
    return http_gate.Gate(
        router, {endpoint: paths[0] for _, paths, endpoint in table},
        self.metrics, self._settings.keys, ("/", "/healthz", "/readyz"),
        self._settings.log_requests)

  def close(self):
    """Ends the threads; what they do for a request that is cut is dropped."""
    self._threads.shutdown(wait=False)
    self._explainers.shutdown(wait=False)

  def write_metrics(self):
    """Lets the other processes of this server know what was counted."""
    self._folder.write(self._snapshot())

  # What is asked and answered without the model.

  async def _get_page(self, request):
    del request
    return Response(self._page.html, media_type="text/html",
                    headers=self._page.headers)

  async def _healthz(self, request):
    del request
    return _answer({"status": "alive"})

  async def _readyz(self, request):
    del request
    if self.stopping:
      raise http_errors.overloaded("the server is stopping.")
    return _answer({"status": "ready"})

  async def _get_metrics(self, request):
    del request
    return Response(
        http_metrics.exposition([self._snapshot()] + self._folder.others()),
        headers={"Content-Type": http_metrics.CONTENT_TYPE})

  async def _openapi(self, request):
    del request
    return _answer(openapi.describe(
        self._settings.name, self._version(), self._predictor.labels,
        self._limits, bool(self._settings.keys)))

  async def _status(self, request):
    self._check_model(request)
    return _answer(http_answers.status(self._version()))

  async def _metadata(self, request):
    self._check_model(request)
    return _answer(http_answers.metadata(
        self._settings.name, self._version(), len(self._predictor.labels)))

  async def _no_verb(self, request):
    self._check_model(request)
    raise http_errors.Refused(404, "a model has :predict and :classify.")

  # What the model answers.

  async def _predict(self, request):
    self._check_model(request)
    asked = await self._read(request, http_requests.parse_predict,
                             self._limits)
    probabilities = await self._probabilities(
        request, asked.texts, asked.features)
    return await self._write(
        probabilities.size, http_answers.predict, asked, probabilities,
        self._predictor.labels, self._predictor.decision)

  async def _classify(self, request):
    self._check_model(request)
    features = await self._read(request, http_requests.parse_classify,
                                self._limits)
    probabilities = await self._probabilities(request, None, features)
    return await self._write(
        probabilities.size, http_answers.classify, probabilities,
        self._predictor.labels)

  async def _label(self, request):
    asked = await self._read(request, http_requests.parse_label, self._limits)
    probabilities = await self._probabilities(request, asked.texts, None)
    return await self._write(probabilities.size, self._labelled, asked,
                             probabilities)

  def _labelled(self, asked, probabilities):
    predictor = self._predictor
    which = asked.probabilities or decisions.default_answer(
        len(predictor.labels))
    described = predictor.describe(probabilities, asked.threshold, asked.top_k,
                                   asked.always_one_label, which=which)
    threshold = (predictor.decision.thresholds if asked.threshold is None
                 else asked.threshold)
    return http_answers.label(self._settings.name, self._version(), described,
                              predictor.labels, threshold)

  async def _explain_text(self, request):
    labels = self._predictor.labels
    asked = await self._read(request, http_requests.parse_explain, labels,
                             self._limits)
    self._log_texts([asked.text])
    if self._explaining >= 4 * _MAX_EXPLAINING:
      raise http_errors.overloaded(
          "too many explanations at a time; send it again later.")
    stop = threading.Event()
    self._explaining += 1
    try:
      answer = await self._unless_gone(
          request, asyncio.get_running_loop().run_in_executor(
              self._explainers, self._explain, self._predict_for(stop),
              asked.text, asked.label, labels, self._settings.max_words))
    finally:
      stop.set()
      self._explaining -= 1
    return _answer(answer)

  def _predict_for(self, stop):
    """A blocking `predict` through the queue, a few texts at a time."""
    def predict(texts):
      rows = []
      for start in range(0, len(texts), _EXPLAIN_TEXTS):
        if stop.is_set():
          raise http_errors.ClientGone()
        future = self._submit(
            self._predictor.encode(texts[start:start + _EXPLAIN_TEXTS]))
        try:
          rows.extend(future.result(self._settings.request_timeout))
        except _TIMEOUTS:
          future.cancel()
          raise self._too_slow()
      return rows
    return predict

  # Steps that they share.

  def _version(self):
    return str(self._settings.version or self._predictor.step)

  def _check_model(self, request):
    """Refuses a model or a version that is not the one that is served."""
    asked = request.path_params
    if asked["model"] != self._settings.name or asked.get(
        "version", self._version()) != self._version():
      raise http_errors.Refused(
          404, "there is no such model or version; this server has %s, "
          "version %s." % (self._settings.name, self._version()))

  async def _read(self, request, parse, *arguments):
    """Reads the body and parses it."""
    body = await self._bodies.read(request)
    try:
      return await _in_thread_if(len(body) > _SMALL, self._threads, parse,
                                 body, *arguments)
    finally:
      self._bodies.release(body)

  async def _probabilities(self, request, texts, features):
    """float32 `[n, num_labels]` of either texts or features."""
    if features is None:
      self._log_texts(texts)
      size = sum(len(part) for text in texts for part in (
          text if isinstance(text, tuple) else (text,)))
      encoded = await _in_thread_if(size > _SMALL, self._threads,
                                    self._predictor.encode, texts)
    else:
      encoded = self._predictor.check_features(features)
    future = self._submit(encoded)
    probabilities = await self._unless_gone(
        request, asyncio.wrap_future(future))
    self.metrics.count("texts_total", by=len(probabilities))
    return probabilities

  def _submit(self, encoded):
    try:
      return self._batcher.submit(encoded, self._settings.request_timeout)
    except self._queue_full:
      raise http_errors.overloaded(
          "the server has too much to do; send it again later.")
    except ValueError:  # it is closed
      raise http_errors.overloaded("the server is stopping.")

  async def _unless_gone(self, request, future):
    """Waits for `future`; drops it if the client goes or time is over."""
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

  def _too_slow(self):
    return http_errors.Refused(
        504, "the answer was not ready within %g seconds." %
        self._settings.request_timeout)

  async def _write(self, size, make, *arguments):
    """The response of `make(*arguments)`, which has `size` numbers."""
    return await _in_thread_if(
        size > _SMALL, self._threads, lambda: _answer(make(*arguments)))

  def _log_texts(self, texts):
    if self._settings.log_texts:
      for text in texts:
        logging.info("text: %s", json.dumps(text))

  def _snapshot(self):
    stats = self._batcher.stats()
    gauges = {"queue_texts": stats["queue_texts"], "workers": 1,
              "resident_memory_bytes": http_metrics.resident_memory(),
              "model_info": ([["name", self._settings.name],
                              ["version", self._version()]], 1)}
    gauges.update(self.gauges())
    return self.metrics.snapshot(gauges, stats["batch_sizes"])


async def _in_thread_if(large, threads, function, *arguments):
  if large:
    return await asyncio.get_running_loop().run_in_executor(
        threads, function, *arguments)
  return function(*arguments)


async def _disconnect(receive):
  while (await receive())["type"] != "http.disconnect":
    pass


def _answer(value):
  return Response(http_json.dump(value), media_type="application/json")
