# SPDX-License-Identifier: Apache-2.0
"""Tests of micro-batching, most with a predictor that does what it is told."""

import asyncio
import concurrent.futures
import random
import threading
import time

import numpy as np
import pytest
import tiny_bert
import tiny_model

from multilabel.inference import micro_batching
import predict_session


SECONDS = 60  # Nothing takes so long, unless it hangs.


class Predictor(object):
  """Answers a text of windows [n, ...] with [n, number of windows].

  Attributes:
    runs: list of lists, the first numbers of the texts of each run.
    timeouts: list, the `timeout` of each run.
    go: `threading.Event` that a run waits for.
    begun: `threading.Semaphore`, counts the runs that have begun.
  """

  def __init__(self):
    self.runs, self.timeouts = [], []
    self.go = threading.Event()
    self.go.set()
    self.begun = threading.Semaphore(0)

  def predict_encoded(self, encoded, timeout=None):
    numbers = [windows[0] for windows in encoded]
    self.runs.append(numbers)
    self.timeouts.append(timeout)
    self.begun.release()
    assert self.go.wait(SECONDS)
    if "bad" in numbers:
      raise FloatingPointError("no number")
    return np.array([[windows[0], len(windows)] for windows in encoded],
                    np.float32)


@pytest.fixture
def fake():
  return Predictor()


@pytest.fixture
def batcher(fake):
  with micro_batching.MicroBatcher(
      fake, max_batch_size=8, max_delay_ms=0, max_queue=20) as started:
    yield started
    fake.go.set()


def hold(fake, batcher, encoded=((0,),)):
  """Submits a call and returns its future once its run has begun."""
  fake.go.clear()
  while fake.begun.acquire(blocking=False):
    pass  # Runs of before.
  future = batcher.submit([list(windows) for windows in encoded])
  assert fake.begun.acquire(timeout=SECONDS)
  return future


def answers(futures):
  return [future.result(SECONDS).tolist() for future in futures]


# Sharing.


def test_each_gets_its_own(fake, batcher):
  future = hold(fake, batcher)
  futures = [batcher.submit([[n], [n + 0.5, "second window"]])
             for n in (3, 1, 2)]
  fake.go.set()
  assert answers([future] + futures) == [
      [[0, 1]], [[3, 1], [3.5, 2]], [[1, 1], [1.5, 2]], [[2, 1], [2.5, 2]]]


def test_calls_that_wait_share_a_run_in_their_order(fake, batcher):
  future = hold(fake, batcher)
  futures = [batcher.submit([[n]]) for n in range(1, 6)]
  assert batcher.stats()["queue_texts"] == 5
  assert batcher.stats()["queue_calls"] == 5
  fake.go.set()
  assert answers([future] + futures) == [[[n, 1]] for n in range(6)]
  assert fake.runs == [[0], [1, 2, 3, 4, 5]]
  stats = batcher.stats()
  assert stats["batch_sizes"] == {1: 1, 5: 1}
  assert (stats["calls"], stats["queue_texts"], stats["queue_rows"]) == (
      6, 0, 0)


def test_runs_hold_no_more_rows_than_fit(fake, batcher):
  future = hold(fake, batcher)
  sizes = [3, 3, 3, 8, 1, 7, 1]
  futures = [batcher.submit([[size] * size]) for size in sizes[:5]]
  assert batcher.stats()["queue_rows"] == 18
  fake.go.set()
  answers([future] + futures)
  future = hold(fake, batcher)
  futures = [batcher.submit([[size] * size]) for size in sizes[5:]]
  fake.go.set()
  answers([future] + futures)
  assert fake.runs == [[0], [3, 3], [3], [8], [1], [0], [7, 1]]


def test_no_texts(batcher):
  assert answers([batcher.submit([])]) == [[]]


def test_many_threads(fake, batcher):
  wrong, start = [], threading.Barrier(16)

  def work(number):
    rng = random.Random(number)
    start.wait()
    for _ in range(100):
      texts = [[rng.randint(0, 999)] * rng.randint(1, 3)
               for _ in range(rng.randint(1, 4))]
      while True:
        try:
          future = batcher.submit(texts)
          break
        except micro_batching.QueueFull:
          time.sleep(0.001)
      if future.result(SECONDS).tolist() != [
          [windows[0], len(windows)] for windows in texts]:
        wrong.append(texts)

  threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong
  sizes = batcher.stats()["batch_sizes"]
  assert sum(size * times for size, times in sizes.items()) == sum(
      map(len, fake.runs))
  assert sum(sizes.values()) < 1600


def test_one_alone_is_not_held_back(fake):
  with micro_batching.MicroBatcher(fake, max_delay_ms=1e6) as batcher:
    for number in range(5):
      assert answers([batcher.submit([[number]])]) == [[[number, 1]]]
  assert fake.runs == [[0], [1], [2], [3], [4]]


def test_run_waits_for_as_many_as_before(fake):
  with micro_batching.MicroBatcher(fake, max_delay_ms=1e6) as batcher:
    future = hold(fake, batcher)
    futures = [batcher.submit([[n]]) for n in (1, 2)]
    fake.go.set()
    answers([future])
    # Three clients were seen; two wait for the one that was answered.
    time.sleep(0.1)
    assert fake.runs == [[0]]
    futures.append(batcher.submit([[3]]))
    assert answers(futures) == [[[1, 1]], [[2, 1]], [[3, 1]]]
  assert fake.runs == [[0], [1, 2, 3]]


def test_run_waits_no_longer_than_the_delay(fake):
  with micro_batching.MicroBatcher(fake, max_delay_ms=30) as batcher:
    future = hold(fake, batcher)
    futures = [batcher.submit([[n]]) for n in (1, 2, 3)]
    fake.go.set()
    answers([future] + futures)
    assert answers([batcher.submit([[4]])]) == [[[4, 1]]]
    # Nobody came, so nobody is waited for.
    start = time.time()
    for number in range(50):
      answers([batcher.submit([[number]])])
    assert time.time() - start < 50 * 0.03
  assert fake.runs[:3] == [[0], [1, 2, 3], [4]]


def test_full_batch_waits_for_nobody(fake):
  with micro_batching.MicroBatcher(
      fake, max_batch_size=4, max_delay_ms=1e6) as batcher:
    future = hold(fake, batcher)
    futures = [batcher.submit([[n]]) for n in range(1, 5)]
    fake.go.set()
    answers([future] + futures)
    assert answers([batcher.submit([[5], [6], [7], [8]])]) == [
        [[5, 1], [6, 1], [7, 1], [8, 1]]]


def test_long_call_holds_nobody_up(fake, batcher):
  long_call = hold(fake, batcher, [[1] * 9])

  def predict_short(encoded, timeout=None):
    del timeout
    return np.array([windows[:1] for windows in encoded])

  fake.predict_encoded = predict_short
  assert answers([batcher.submit([[2]]), batcher.submit([[3]])]) == [
      [[2]], [[3]]]
  assert not long_call.done()
  fake.go.set()
  assert answers([long_call]) == [[[1, 9]]]


# Errors.


def test_error_is_its_own(fake, batcher):
  future = hold(fake, batcher)
  futures = [batcher.submit([[n]]) for n in (1, "bad", 2)]
  fake.go.set()
  assert answers([future, futures[0], futures[2]]) == [
      [[0, 1]], [[1, 1]], [[2, 1]]]
  with pytest.raises(FloatingPointError, match="no number"):
    futures[1].result(SECONDS)
  assert fake.runs == [[0], [1, "bad", 2], [1], ["bad"], [2]]
  assert batcher.stats()["failed"] == 1
  # The thread lives on.
  assert answers([batcher.submit([[4]])]) == [[[4, 1]]]


def test_full_queue_refuses_at_once(fake, batcher):
  future = hold(fake, batcher)
  futures = [batcher.submit([[n] * 5]) for n in range(4)]
  with pytest.raises(micro_batching.QueueFull, match="20 texts or windows"):
    batcher.submit([[9]])
  assert batcher.stats()["rejected"] == 1
  fake.go.set()
  answers([future] + futures)
  assert answers([batcher.submit([[9]])]) == [[[9, 1]]]


def test_call_larger_than_the_queue(fake, batcher):
  assert answers([batcher.submit([[1] * 100])]) == [[[1, 100]]]
  assert fake.runs == [[1]]


@pytest.mark.parametrize("arguments, message", [
    ({"max_batch_size": 0}, "max_batch_size is 0; it must be 1 or more."),
    ({"max_queue": 0}, "max_queue is 0; it must be 1 or more."),
    ({"max_delay_ms": -1}, "max_delay_ms is -1; it must be 0 or more."),
    ({"max_delay_ms": float("nan")},
     "max_delay_ms is nan; it must be 0 or more."),
])
def test_wrong_arguments(arguments, message, fake):
  with pytest.raises(ValueError) as raised:
    micro_batching.MicroBatcher(fake, **arguments)
  assert str(raised.value) == message


# Cancelling and deadlines.


def test_cancelled_call_never_runs_and_makes_room(fake, batcher):
  future = hold(fake, batcher)
  futures = [batcher.submit([[n] * 5]) for n in range(1, 5)]
  assert futures[1].cancel()
  assert batcher.stats()["queue_rows"] == 15
  futures.append(batcher.submit([[6] * 5]))
  assert not future.cancel()  # It has begun.
  fake.go.set()
  del futures[1]
  assert answers([future] + futures) == [
      [[0, 1]], [[1, 5]], [[3, 5]], [[4, 5]], [[6, 5]]]
  assert fake.runs == [[0], [1], [3], [4], [6]]
  assert batcher.stats()["cancelled"] == 1


def test_all_cancelled(fake, batcher):
  future = hold(fake, batcher)
  for waiting in [batcher.submit([[n]]) for n in range(5)]:
    assert waiting.cancel()
  fake.go.set()
  answers([future])
  assert answers([batcher.submit([[7]])]) == [[[7, 1]]]
  assert fake.runs == [[0], [7]]


def test_call_that_waits_too_long(fake, batcher):
  future = hold(fake, batcher)
  late = batcher.submit([[1]], timeout=0.02)
  patient = batcher.submit([[2]], timeout=SECONDS)
  time.sleep(0.05)
  fake.go.set()
  assert answers([future, patient]) == [[[0, 1]], [[2, 1]]]
  with pytest.raises(TimeoutError, match="within its timeout of 0.02 seconds"):
    late.result(SECONDS)
  assert fake.runs == [[0], [2]]
  assert batcher.stats()["timed_out"] == 1


def test_run_that_takes_too_long(fake, batcher):
  future = hold(fake, batcher)
  end = time.monotonic() + 0.5
  futures = [batcher.submit([[1]], timeout=0.4), batcher.submit([[2]])]
  predict_encoded = fake.predict_encoded

  def predict_slowly(*arguments, **options):
    time.sleep(max(end - time.monotonic(), 0))
    return predict_encoded(*arguments, **options)

  fake.predict_encoded = predict_slowly
  fake.go.set()
  assert answers([future, futures[1]]) == [[[0, 1]], [[2, 1]]]
  with pytest.raises(TimeoutError):
    futures[0].result(SECONDS)


def test_time_that_a_run_has(fake, batcher):
  """It is the most patient caller's."""
  future = hold(fake, batcher)
  futures = [batcher.submit([[1]], timeout=50), batcher.submit([[2]], 100)]
  fake.go.set()
  answers([future] + futures)
  future = hold(fake, batcher)
  futures = [batcher.submit([[1]], timeout=50), batcher.submit([[2]])]
  fake.go.set()
  answers([future] + futures)
  assert fake.runs == [[0], [1, 2]] * 2
  assert fake.timeouts[0] is None and fake.timeouts[3] is None
  assert 50 < fake.timeouts[1] <= 100


# The end.


def test_close_runs_what_waits(fake, batcher):
  future = hold(fake, batcher)
  futures = [batcher.submit([[n] * n]) for n in (1, 5, 9)]
  closer = threading.Thread(target=batcher.close)
  closer.start()
  while True:
    try:
      futures.append(batcher.submit([[2]]))
    except ValueError as error:
      assert str(error) == "this batcher is closed."
      break
    except micro_batching.QueueFull:
      pass
  fake.go.set()
  closer.join(SECONDS)
  assert not closer.is_alive()
  assert all(future.done() for future in futures)
  assert answers([future] + futures)[:4] == [
      [[0, 1]], [[1, 1]], [[5, 5]], [[9, 9]]]
  batcher.close()


def test_close_with_grace(fake):
  batcher = micro_batching.MicroBatcher(fake, max_batch_size=2)
  future = hold(fake, batcher)
  futures = [batcher.submit([[n] * n]) for n in (1, 2, 3)]
  # The last is a long one, which begins at once.
  assert fake.begun.acquire(timeout=SECONDS)
  start = time.time()
  batcher.close(0.05)
  assert time.time() - start < SECONDS / 2
  for waiting in futures[:2]:
    assert waiting.cancelled()
  assert not future.done()
  fake.go.set()
  assert answers([future, futures[2]]) == [[[0, 1]], [[3, 3]]]
  for thread in batcher._threads:
    thread.join(SECONDS)
    assert not thread.is_alive()
  assert fake.runs == [[0], [3]]


def test_no_thread_stays(fake):
  before = threading.active_count()
  for _ in range(5):
    with micro_batching.MicroBatcher(fake) as batcher:
      batcher.submit([[1]])
  assert threading.active_count() == before


# Event loops.


def test_async(fake, batcher):
  async def clients():
    results = await asyncio.gather(*[
        batcher.submit_async([[n], [n]]) for n in range(10)])
    return [result.tolist() for result in results]

  assert asyncio.run(clients()) == [[[n, 1], [n, 1]] for n in range(10)]
  assert len(fake.runs) < 10


def test_async_cancelling(fake, batcher):
  async def client():
    future = hold(fake, batcher)
    task = asyncio.ensure_future(batcher.submit_async([[1]]))
    await asyncio.sleep(0.01)
    assert batcher.stats()["queue_calls"] == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
      await task
    fake.go.set()
    return (await asyncio.wrap_future(future)).tolist()

  assert asyncio.run(client()) == [[0, 1]]
  assert fake.runs == [[0]]


# With a real predictor.


def test_session_predictor(tmp_path):
  """Windows and pairs, from threads, while the model is reloaded."""
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder, long_text="windows", stride=20)
  texts = [row["text"] for row in tiny_bert.make_rows(30, 5)] + [
      u"the apple a plum " * 12, (u"see", u"one pear"), u""]
  with predict_session.SessionPredictor(folder) as predictor:
    want = predictor.predict(texts)
    assert want.std(axis=0).min() > 0.01
    with micro_batching.MicroBatcher(predictor, max_batch_size=16) as batcher:
      def client(number):
        rng = random.Random(number)
        worst = 0
        for _ in range(20):
          chosen = [rng.randrange(len(texts)) for _ in range(rng.randint(1, 5))]
          result = batcher.submit(predictor.encode(
              [texts[i] for i in chosen])).result(SECONDS)
          worst = max(worst, np.abs(result - want[chosen]).max())
        return worst

      with concurrent.futures.ThreadPoolExecutor(8) as threads:
        running = [threads.submit(client, number) for number in range(8)]
        tiny_model.write_checkpoint(folder, weights, step=8)
        assert predictor.reload()
        assert max(future.result(SECONDS) for future in running) < 1e-5
      predictor.close()
      with pytest.raises(ValueError, match="this predictor is closed"):
        batcher.submit(predictor.encode([u"a"])).result(SECONDS)
