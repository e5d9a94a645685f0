# SPDX-License-Identifier: Apache-2.0
"""What a sweep tries: random draws, and the rounds of successive halving."""

import math

import pytest
from sweep_test import run_sweep
from sweep_test import starts
from sweep_test import work_fixture  # pylint: disable=unused-import

from experiments import search

__all__ = ["work_fixture"]


def test_draws_lie_in_their_ranges():
  choices = search.parse(["rate=1e-5..1e-1:log", "size=2..4", "share=-1..1.0",
                          "pooling=cls,mean,default"])
  drawn = search.draw(choices, 400, 7)
  assert len({tuple(settings.items()) for settings in drawn}) == 400
  rates = [float(settings["rate"]) for settings in drawn]
  assert all(1e-5 <= rate <= 1e-1 for rate in rates)
  # Each power of ten has a quarter of them, by its logarithm.
  for power in range(-5, -1):
    count = sum(power <= math.log10(rate) < power + 1 for rate in rates)
    assert 60 < count < 140
  assert {settings["size"] for settings in drawn} == {"2", "3", "4"}
  shares = [float(settings["share"]) for settings in drawn]
  assert -1 <= min(shares) < -0.8 and 0.8 < max(shares) <= 1
  assert {settings["pooling"] for settings in drawn} == {"cls", "mean", None}
  assert search.draw(choices, 5, 7) == drawn[:5]
  assert search.draw(choices, 5, 8) != drawn[:5]


@pytest.mark.parametrize("grid, message", [
    (["rate=1..x"], "two numbers"), (["rate=2..1"], "the second one greater"),
    (["rate=0..1:log"], "above 0 for log"), (["rate=1..inf"], "greater")])
def test_ranges_that_cannot_be(grid, message):
  with pytest.raises(ValueError, match=message):
    search.parse(grid)


def test_rounds():
  assert search.halving_rounds(9, 3.0, 3) == [
      search.Round(9, pytest.approx(1 / 3)), search.Round(3, 1.0),
      search.Round(1, 3.0)]
  assert search.halving_rounds(7, 4.0, 2) == [
      search.Round(7, 1.0), search.Round(3, 2.0), search.Round(1, 4.0)]
  assert search.halving_rounds(1, 4.0, 2) == [search.Round(1, 4.0)]


def test_halving_goes_on_with_the_best(work):
  rates = ["0.%d" % i for i in range(1, 10)]
  arguments = ["--grid=learning_rate=" + ",".join(rates), "--halving=3",
               "--num_train_epochs=3"]
  status, out, err, log = run_sweep(work, *arguments)
  assert (status, err) == (0, "")
  tried = {}
  for name in starts(work):
    rate, epochs = [name.split(flag + "-")[1].split("_")[0]
                    for flag in ("learning_rate", "num_train_epochs")]
    tried.setdefault(epochs, set()).add(rate)
  assert tried == {"0.333333": set(rates), "1": {"0.7", "0.8", "0.9"},
                   "3": {"0.9"}}
  assert "Round 2 of 3: 3 settings, 1 epochs" in log
  assert "--learning_rate=0.9 \\\n" in out
  before = starts(work)
  assert run_sweep(work, *arguments)[0] == 0  # and repeats nothing
  assert starts(work) == before


def test_random_search(work):
  status, _, err, _ = run_sweep(
      work, "--grid=learning_rate=0.1..0.9", "--random=4")
  assert (status, err) == (0, "")
  assert sum(starts(work).values()) == 4


@pytest.mark.parametrize("arguments, message", [
    (["--grid=learning_rate=0.1..0.9"], "is a range, which needs --random=N"),
    (["--random=3"], "--random needs --grid"),
    (["--grid=pooling=cls,mean", "--random=3"], "fewer different"),
    (["--grid=pooling=cls,mean", "--random=0"], "--random is 0"),
    (["--grid=pooling=cls,mean", "--halving=1"], "--halving is 1"),
    (["--grid=num_train_epochs=1,2", "--halving=2"], "remove it from --grid"),
    (["--halving=2", "--metric=test_micro_f1"],
        "--halving selects on dev and cannot use"),
])
def test_mistakes(work, arguments, message):
  status, _, err, _ = run_sweep(work, *arguments)
  assert status == 2 and message in err, err
  assert not starts(work)
