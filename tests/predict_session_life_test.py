# SPDX-License-Identifier: Apache-2.0
"""Tests of a predictor's long life: reload, time limits, threads, leaks."""

import asyncio
import gc
import json
import os
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model
from tiny_bert import error_of

from multilabel import decisions
from multilabel.inference import call_deadline
from multilabel.storage import trained_model
import predict_session


TEXTS = [u"the apple", u"plum , pear and \u732b", u"", u"un see one"]
SECONDS = 60  # Nothing takes so long, unless it hangs.


def expected(weights, texts=TEXTS):
  return tiny_model.probabilities(
      weights, [tiny_model.encode(text) for text in texts])


def is_near(result, weights):
  return np.abs(result - expected(weights)).max() < 1e-5


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("life") / "model")
  tiny_model.make(folder)
  with predict_session.SessionPredictor(folder) as loaded:
    yield loaded


@pytest.fixture
def folder(tmp_path):
  """A trained directory that may be changed."""
  path = str(tmp_path / "model")
  tiny_model.make(path)
  return path


@pytest.fixture
def loaded(folder):
  with predict_session.SessionPredictor(folder) as found:
    yield found


def write_best(folder, step):
  tiny_bert.write_text(os.path.join(folder, "best_checkpoint.json"), json.dumps(
      {"checkpoint": "model.ckpt-%d" % step, "step": step, "metric": "map",
       "value": 0.5, "evaluations": []}))


# Which checkpoint.


def test_best_checkpoint_and_a_named_one(folder):
  old, new = tiny_model.random_weights(3, 3), tiny_model.random_weights(3, 5)
  tiny_model.write_checkpoint(folder, new, step=11)
  write_best(folder, 7)
  for name, step, weights in (
      (None, 7, old), ("model.ckpt-11", 11, new),
      (os.path.join(folder, "model.ckpt-11"), 11, new)):
    with predict_session.SessionPredictor(folder, checkpoint=name) as loaded:
      assert loaded.step == step
      assert loaded.checkpoint == os.path.join(folder, "model.ckpt-%d" % step)
      assert is_near(loaded.predict(TEXTS), weights)
      assert loaded.reload() is False
  assert "there is no checkpoint" in error_of(
      predict_session.SessionPredictor, folder, checkpoint="model.ckpt-12")


def spoiled(name, value, place=0):
  """Weights with one number changed."""
  weights = tiny_model.random_weights(3, 5)
  weights[name] = weights[name].copy()
  weights[name].flat[place] = value
  return weights


BROKEN = [
    (spoiled("output_bias", np.nan), "NaN or infinite weights"),
    (spoiled("bert/embeddings/word_embeddings", np.inf, -1),
     "NaN or infinite weights"),
    (spoiled("bert/encoder/layer_1/output/LayerNorm/gamma", -np.inf, 5),
     "bert/encoder/layer_1/output/LayerNorm/gamma"),
    (dict(tiny_model.random_weights(3, 5),
          output_bias=np.zeros([4], np.float32)),
     "output_bias has shape [4] in the checkpoint but [3] in the model"),
    ({name: value for name, value in tiny_model.random_weights(3, 5).items()
      if name != "output_weights"}, "lacks output_weights, shape [3, 16]"),
]


@pytest.mark.parametrize("weights, message", BROKEN)
def test_broken_checkpoint_is_never_served(weights, message, loaded, folder):
  """Neither loaded anew, nor in the place of one that works."""
  tiny_model.write_checkpoint(folder, weights, step=8)
  assert message in error_of(loaded.reload)
  assert message in error_of(predict_session.SessionPredictor, folder)
  assert loaded.step == 7
  assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))
  # It is refused each time, and a good one after it is taken.
  assert message in error_of(loaded.reload)
  new = tiny_model.random_weights(3, 6)
  tiny_model.write_checkpoint(folder, new, step=9)
  assert loaded.reload() is True
  assert is_near(loaded.predict(TEXTS), new)


def test_weights_that_give_no_number(loaded, folder):
  """All finite, and so large that what comes of them is not."""
  weights = tiny_model.random_weights(3, 5)
  for name in weights:
    if "/kernel" in name:
      weights[name] = np.full_like(weights[name], 3e38)
  tiny_model.write_checkpoint(folder, weights, step=8)
  assert "model.ckpt-8 gives NaN or infinite probabilities" in error_of(
      loaded.reload)
  assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))
  with predict_session.SessionPredictor(folder) as other:
    with pytest.raises(FloatingPointError, match="model.ckpt-8"):
      other.predict(TEXTS)


# Reload.


def test_reload(loaded, folder):
  assert loaded.reload() is False
  new = tiny_model.random_weights(3, 5)
  tiny_model.write_checkpoint(folder, new, step=12)
  assert loaded.reload() is True
  assert (loaded.step, loaded.checkpoint) == (
      12, os.path.join(folder, "model.ckpt-12"))
  assert is_near(loaded.predict(TEXTS), new)
  assert loaded.reload() is False


def test_reload_follows_the_directory_back(loaded, folder):
  new = tiny_model.random_weights(3, 5)
  tiny_model.write_checkpoint(folder, new, step=12)
  assert loaded.reload()
  write_best(folder, 7)
  assert loaded.reload()
  assert loaded.step == 7
  assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))


def test_reload_of_a_checkpoint_written_anew(loaded, folder):
  new = tiny_model.random_weights(3, 5)
  tiny_model.write_checkpoint(folder, new, step=7)
  assert loaded.reload() is True
  assert is_near(loaded.predict(TEXTS), new)
  assert loaded.reload() is False


def test_reload_takes_new_thresholds(loaded, folder):
  before = loaded._served._loaded
  trained_model.update_decision(trained_model.read(folder), "tune",
                                decisions.DecisionRule(0.375, top_k=2))
  assert loaded.reload() is True
  assert loaded.decision == (0.375, 2, False)
  assert loaded.reload() is False
  assert loaded._served._loaded is before  # not loaded again
  assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))


@pytest.mark.parametrize("changes, name", [
    ({"labels": ("x", "y", "z")}, "labels"),
    ({"labels": tiny_bert.LABELS[::-1]}, "labels"),
    ({"max_seq_length": 16}, "max_seq_length"),
    ({"long_text": "windows", "stride": 9}, "long_text"),
    ({"pooling": "cls"}, "pooling"),
])
def test_reload_refuses_another_model(changes, name, loaded, folder):
  tiny_model.make(folder, seed=9, **changes)
  message = error_of(loaded.reload)
  assert "(%s differs)" % name in message
  assert "create a new SessionPredictor for it" in message
  assert loaded.labels == list(tiny_bert.LABELS)
  assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))


def test_reload_of_a_directory_that_is_broken(loaded, folder):
  os.remove(os.path.join(folder, "vocab.txt"))
  assert "has no vocab.txt" in error_of(loaded.reload)
  assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))


def test_reload_when_closed(loaded, folder):
  loaded.close()
  assert "closed" in error_of(loaded.reload)
  tiny_model.write_checkpoint(folder, tiny_model.random_weights(3, 5), step=8)
  assert "closed" in error_of(loaded.reload)


def test_reload_under_load(loaded, folder):
  """No call fails, none is answered by two models, none by an old one."""
  made = {seed: tiny_model.random_weights(3, seed) for seed in range(3, 8)}
  wanted = {seed: expected(weights) for seed, weights in made.items()}
  newest, stop, problems, counts = [3], threading.Event(), [], []

  def work():
    count = 0
    while not stop.is_set():
      least = newest[0]
      try:
        result = loaded.predict(TEXTS * 3)
      except Exception as error:  # pylint: disable=broad-except
        problems.append(error)
        return
      found = [seed for seed in wanted if np.abs(
          result - np.tile(wanted[seed], [3, 1])).max() < 1e-5]
      if len(found) != 1 or found[0] < least:
        problems.append((found, least))
      count += 1
    counts.append(count)

  threads = [threading.Thread(target=work) for _ in range(6)]
  for thread in threads:
    thread.start()
  for seed in range(4, 8):
    tiny_model.write_checkpoint(folder, made[seed], step=seed + 10)
    assert loaded.reload() is True
    newest[0] = seed
    time.sleep(0.05)
  stop.set()
  for thread in threads:
    thread.join(SECONDS)
  assert not problems
  assert len(counts) == 6 and min(counts) > 0
  # Only one is left open.
  assert not loaded._served._users


def test_old_weights_close_after_their_last_call(loaded, folder, monkeypatch):
  old = loaded._served._loaded
  begun, go = threading.Event(), threading.Event()
  run = old._run

  def run_slowly(*arguments):
    begun.set()
    assert go.wait(SECONDS)
    return run(*arguments)

  monkeypatch.setattr(old, "_run", run_slowly)
  results = []
  thread = threading.Thread(
      target=lambda: results.append(loaded.predict(TEXTS)))
  thread.start()
  assert begun.wait(SECONDS)
  new = tiny_model.random_weights(3, 5)
  tiny_model.write_checkpoint(folder, new, step=8)
  assert loaded.reload() is True
  assert is_near(loaded.predict(TEXTS), new)
  assert old._session is not None
  go.set()
  thread.join(SECONDS)
  assert is_near(results[0], tiny_model.random_weights(3, 3))
  assert old._session is None


# Time limits.


def test_timeout(predictor):
  want = predictor.predict(TEXTS)
  np.testing.assert_allclose(predictor.predict(TEXTS, timeout=SECONDS), want,
                             atol=1e-6)
  for timeout in (1e-9, 0, -1):
    for call in (predictor.predict,
                 lambda texts, timeout: predictor.predict_encoded(
                     predictor.encode(texts), timeout=timeout)):
      with pytest.raises(TimeoutError, match="within its timeout of"):
        call(TEXTS, timeout=timeout)
  assert "timeout is nan" in error_of(predictor.predict, TEXTS, float("nan"))
  np.testing.assert_allclose(predictor.predict(TEXTS), want, atol=1e-6)


def test_timeout_between_batches(tmp_path):
  folder = str(tmp_path / "model")
  tiny_model.make(folder)
  with predict_session.SessionPredictor(folder, batch_size=1) as loaded:
    loaded.warm_up()
    start = time.time()
    with pytest.raises(TimeoutError):
      loaded.predict([u"the apple"] * 200000, timeout=0.3)
    assert time.time() - start < SECONDS / 2


def test_timeout_inside_a_run(predictor):
  """TensorFlow itself stops; the session is as good as before."""
  weights = predictor._served._loaded
  inference = predictor._engine.model.inference
  rows = np.ones([6000, 64], np.int32)
  feed = {inference.input_ids: rows, inference.input_mask: rows,
          inference.segment_ids: 0 * rows}
  deadline = call_deadline.Deadline(0.02)
  with pytest.raises(TimeoutError, match="timeout of 0.02 seconds"):
    weights._run([inference.probabilities], feed, deadline)
  assert is_near(predictor.predict(TEXTS), tiny_model.random_weights(3, 3))


# Event loops.


def test_async(predictor):
  want = predictor.predict(TEXTS)

  async def clients():
    return await asyncio.gather(*[
        predictor.predict_async(TEXTS[n % 4:] + TEXTS[:n % 4])
        for n in range(12)])

  for number, result in enumerate(asyncio.run(clients())):
    np.testing.assert_allclose(
        result, np.roll(want, -(number % 4), axis=0), atol=1e-6)


def test_async_errors(predictor):
  async def client(*arguments, **options):
    return await predictor.predict_async(*arguments, **options)

  assert "not one text" in error_of(
      lambda: asyncio.run(client(u"the apple")))
  with pytest.raises(TimeoutError):
    asyncio.run(client(TEXTS, timeout=0))


def test_async_cancelling_stops_the_thread(predictor, monkeypatch):
  weights = predictor._served._loaded
  runs, begun = [], threading.Event()
  run = weights._run

  def run_slowly(fetches, feed_dict, deadline):
    result = run(fetches, feed_dict, deadline)
    runs.append(1)
    begun.set()
    time.sleep(0.02)
    return result

  monkeypatch.setattr(weights, "_run", run_slowly)
  monkeypatch.setattr(predictor, "_batch_size", 1)

  async def client():
    task = asyncio.ensure_future(predictor.predict_async([u"a"] * 3000))
    while not begun.is_set():
      await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
      await task

  asyncio.run(client())
  end = time.time() + SECONDS
  while predictor._served._users and time.time() < end:
    time.sleep(0.01)
  assert not predictor._served._users
  assert len(runs) < 3000


# Devices, threads, leaks.


def test_warm_up(predictor):
  assert predictor.warm_up() is None
  assert is_near(predictor.predict(TEXTS), tiny_model.random_weights(3, 3))


@pytest.mark.parametrize("options", [
    {"device": "/cpu:0"}, {"device": "/device:CPU:0"},
    {"inter_op_threads": 1, "intra_op_threads": 1},
    {"inter_op_threads": 3, "device": "/cpu:0", "batch_size": 2},
])
def test_devices_and_threads(options, folder):
  with predict_session.SessionPredictor(folder, **options) as loaded:
    assert is_near(loaded.predict(TEXTS), tiny_model.random_weights(3, 3))
    placed = {op.device for op in loaded._engine.model.graph.get_operations()
              if op.name.startswith("bert/")}
    assert (placed == {""}) == ("device" not in options)


@pytest.mark.parametrize("options, message", [
    ({"device": "tpu"}, "device is tpu; it must be one like /cpu:0 or /gpu:0."),
    ({"device": "/cpu:1"}, "device /cpu:1 is not on this machine; it has "),
    ({"device": "/gpu:77"}, "device /gpu:77 is not on this machine; it has "),
    ({"inter_op_threads": 0}, "inter_op_threads is 0; it must be 1 or more."),
    ({"intra_op_threads": -2}, "intra_op_threads is -2; it must be 1 or more."),
])
def test_devices_and_threads_that_cannot_be(options, message, folder):
  assert message in error_of(
      predict_session.SessionPredictor, folder, **options)


def count_threads():
  return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc")
@pytest.mark.parametrize("options", [
    {}, pytest.param({"inter_op_threads": 4}, marks=pytest.mark.slow)])
def test_nothing_stays_of_closed_predictors(options, folder):
  graphs, counts = [], []
  for _ in range(10):
    with predict_session.SessionPredictor(folder, **options) as loaded:
      loaded.predict(TEXTS)
      graphs.append(weakref.ref(loaded._engine.model.graph))
      sessions = weakref.ref(loaded._served._loaded._session)
    # A session is freed at once; a graph is a knot that Python cuts later.
    assert sessions() is None
    del loaded
    gc.collect()
    counts.append((count_threads(), len(os.listdir("/proc/self/fd"))))
  assert [graph() for graph in graphs] == [None] * 10
  assert counts[2:] == [counts[2]] * 8


def test_nothing_stays_of_reloads(loaded, folder):
  weights = tiny_model.random_weights(3, 5)
  for name in ("adam_m", "adam_v"):
    weights = {key: value for key, value in weights.items()
               if not key.endswith(name)}
  operations = len(loaded._engine.model.graph.get_operations())
  sessions = []
  for step in range(8, 18):
    sessions.append(weakref.ref(loaded._served._loaded._session))
    tiny_model.write_checkpoint(folder, weights, step=step)
    assert loaded.reload()
  assert [session() for session in sessions] == [None] * 10
  assert len(loaded._engine.model.graph.get_operations()) == operations
  assert isinstance(loaded._served._loaded._session, tf.Session)
