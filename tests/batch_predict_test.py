# SPDX-License-Identifier: Apache-2.0
"""Prediction over Beam equals predict_session.py's, whatever the runner.

Skipped where apache-beam is not installed; an environment that has it:

  python3 tests/run.py --extra=beam tests/batch_predict_test.py
"""

import glob
import io
import json
import os
import threading

import pytest


beam = pytest.importorskip("apache_beam", reason="needs the extra beam")

# pylint: disable=g-import-not-at-top
import tiny_bert
import tiny_model

import predict_session
from scale import batch_predict
from scale import beam_predict
from scale import output_claim


DIRECT = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A trained directory with a threshold per label, in windows."""
  folder = tmp_path_factory.mktemp("model") / "run"
  tiny_model.make(
      folder, threshold=[0.3, 0.5, 0.6], top_k=2, always_one_label=True,
      long_text="windows", stride=5, max_seq_length=12, window_pooling="mean")
  return str(folder)


def rows_of(number, seed=5):
  return [{"id": row["id"], "text": row["text"]}
          for row in tiny_bert.make_rows(number, seed, "row")]


def run(*arguments):
  """(exit status, stderr) of the script."""
  status, _, stderr, _ = tiny_bert.call(batch_predict, arguments)
  return status, stderr


def read_lines(pattern):
  rows = []
  for path in sorted(glob.glob(str(pattern))):
    with io.open(path, encoding="utf-8") as reader:
      rows += [json.loads(line) for line in reader]
  return rows


def expected(model, path, *arguments):
  """What predict_session.py writes: {id: row}."""
  output = str(path) + ".expected.jsonl"
  status, _, stderr, _ = tiny_bert.call(predict_session, [
      "--model_dir=" + model, "--input_file=%s" % path,
      "--output_file=" + output] + list(arguments))
  assert status == 0, stderr
  return {row["id"]: row for row in read_lines(output)}


def check_same(rows, wanted):
  """Row for row, by id; probabilities to 1e-5."""
  assert sorted(row["id"] for row in rows) == sorted(wanted)
  for row in rows:
    other = wanted[row["id"]]
    assert (row["text"], row.get("text_pair")) == (
        other["text"], other.get("text_pair"))
    assert row["labels"] == other["labels"]
    assert dict(row["probabilities"]) == pytest.approx(
        other["probabilities"], abs=1e-5)


def test_json_lines_of_several_files(tmp_path, model):
  parts = [rows_of(70), rows_of(33, 6)]
  for row in parts[1]:
    row["id"] += "b"
  for name, part in zip("ab", parts):
    tiny_bert.write_jsonl(str(tmp_path / ("in-%s.jsonl" % name)), part)
  tiny_bert.write_jsonl(str(tmp_path / "all.jsonl"), parts[0] + parts[1])
  output = tmp_path / "new" / "out.jsonl"
  status, stderr = run(
      "--model_dir=" + model, "--input=%s" % (tmp_path / "in-*.jsonl"),
      "--output=%s" % output)
  assert status == 0, stderr
  rows = read_lines(tmp_path / "new" / "out-?????-of-?????.jsonl")
  check_same(rows, expected(model, tmp_path / "all.jsonl"))
  assert {(row["file"], row["row"]) for row in rows} == {
      (str(tmp_path / ("in-%s.jsonl" % name)), number + 1)
      for name, part in zip("ab", parts) for number in range(len(part))}
  assert list(rows[0]) == ["id", "file", "row", "text", "labels",
                           "probabilities"]
  num_labels = sum(len(row["labels"]) for row in rows)
  assert "103 rows, %d labels, 0 bad rows, 0 bad files" % num_labels in stderr
  assert " ms, " in stderr
  assert read_lines(tmp_path / "new" / "out.bad-*") == []

  # Again: what is there is not touched.
  status, stderr = run(
      "--model_dir=" + model, "--input=%s" % (tmp_path / "in-*.jsonl"),
      "--output=%s" % output)
  assert status == 2
  assert "out-00000-of-" in stderr and "name another output" in stderr
  assert stderr.count("\n") == 1


def test_tables_in_parquet_and_avro_with_processes(tmp_path, model):
  table = tmp_path / "in.csv"
  tiny_bert.write_text(table, u"id,text,text_pair\n" + u"".join(
      u'%s,"%s",%s\n' % (row["id"], row["text"], "the pear")
      for row in rows_of(40)))
  wanted = expected(model, table)
  status, stderr = run(
      "--model_dir=" + model, "--input=%s" % table, "--intra_op_threads=1",
      "--output=%s" % (tmp_path / "out.parquet"), "--num_shards=3", "--",
      *DIRECT)
  assert status == 0, stderr
  from pyarrow import parquet
  shards = sorted(glob.glob(str(tmp_path / "out-*.parquet")))
  assert [os.path.basename(path) for path in shards] == [
      "out-%05d-of-00003.parquet" % number for number in range(3)]
  rows = [row for path in shards
          for row in parquet.read_table(path).to_pylist()]
  check_same(rows, wanted)

  # And from Parquet, by its own columns, to Avro.
  status, stderr = run(
      "--model_dir=" + model, "--input=%s" % ",".join(shards),
      "--output=%s" % (tmp_path / "again.avro"), "--probabilities=labels")
  assert status == 0, stderr
  import fastavro
  rows = []
  for path in glob.glob(str(tmp_path / "again-*.avro")):
    with open(path, "rb") as reader:
      rows += list(fastavro.reader(reader))
  assert {row["id"]: row["labels"] for row in rows} == {
      name: row["labels"] for name, row in wanted.items()}
  for row in rows:
    assert row["probabilities"] == pytest.approx(
        {label: wanted[row["id"]]["probabilities"][label]
         for label in row["labels"]}, abs=1e-5)


def test_bad_rows_and_flags_of_labels(tmp_path, model):
  path = tmp_path / "in.txt"
  path.write_bytes(b"the apple\n\xff\n\npear and plum\n")
  (tmp_path / "none.csv").write_bytes(b"words\nx\n")
  status, stderr = run(
      "--model_dir=" + model, "--input=%s,%s" % (path, tmp_path / "none.csv"),
      "--output=%s" % (tmp_path / "out.jsonl"), "--threshold=0.9",
      "--top_k=1", "--noalways_one_label", "--probabilities=2")
  assert status == 0, stderr
  assert "3 rows" in stderr and "1 bad rows, 1 bad files" in stderr
  path.write_bytes(b"the apple\n \n\npear and plum\n")
  wanted = expected(model, path, "--threshold=0.9", "--top_k=1",
                    "--noalways_one_label")
  for row in read_lines(tmp_path / "out-*.jsonl"):
    assert row["labels"] == wanted[row["id"]]["labels"]
    best = sorted(wanted[row["id"]]["probabilities"].items(),
                  key=lambda item: -item[1])[:2]
    assert row["probabilities"] == pytest.approx(dict(best), abs=1e-5)
  bad = read_lines(tmp_path / "out.bad-00000-of-00001.jsonl")
  assert sorted((os.path.basename(row["file"]), row["line"], row["row"])
                for row in bad) == [("in.txt", 2, 2), ("none.csv", None, None)]
  assert {row["reason"].partition(" ")[0] for row in bad} == {
      "byte", str(tmp_path / "none.csv")}


def test_where_no_row_can_be_read(tmp_path, model):
  path = tmp_path / "in.jsonl"
  path.write_bytes(b'{"sentence": "x"}\n')
  status, stderr = run("--model_dir=" + model, "--input=%s" % path,
                       "--output=%s" % (tmp_path / "out.jsonl"))
  assert status == 2
  assert "no row could be read" in stderr


class _FailsOnce(beam.DoFn):
  """Lets what a bundle has done so far be thrown away, once."""

  def __init__(self, marker):
    self._marker = marker
    self._seen = 0

  def process(self, record):
    self._seen += 1
    if self._seen == 5 and not os.path.exists(self._marker):
      with open(self._marker, "w"):
        pass
      raise RuntimeError("the worker dies here")
    yield record


@pytest.mark.parametrize("suffix", [".jsonl", ".avro"])
def test_a_bundle_that_is_tried_again_writes_nothing_twice(
    tmp_path, model, monkeypatch, suffix):
  rows = rows_of(20)
  path = str(tmp_path / "in.jsonl")
  tiny_bert.write_jsonl(path, rows)
  marker = str(tmp_path / "failed")
  # Fails behind the sink, when the shard has been written to: the one that
  # writes is in the same bundle.
  write = beam_predict.write

  def write_and_fail(records, prefix, suffix, num_shards):
    return write(records | beam.ParDo(_FailsOnce(marker)), prefix, suffix,
                 num_shards)

  monkeypatch.setattr(beam_predict, "write", write_and_fail)
  options = beam.options.pipeline_options.PipelineOptions(
      ["--runner=BundleBasedDirectRunner"])
  with beam.Pipeline(options=options) as pipeline:
    beam_predict.build(
        pipeline, [path], None, {}, beam_predict.SessionModelHandler(model),
        str(tmp_path / "out"), suffix, str(tmp_path / "out.bad"))
  assert os.path.exists(marker)
  names = []
  for shard in glob.glob(str(tmp_path / "out-*-of-*")):
    if suffix == ".jsonl":
      names += [row["id"] for row in read_lines(shard)]
    else:
      import fastavro
      with open(shard, "rb") as reader:
        names += [row["id"] for row in fastavro.reader(reader)]
  assert sorted(names) == sorted(row["id"] for row in rows)
  assert not glob.glob(str(tmp_path / "beam-temp-*"))


def test_the_model_is_copied_from_another_file_system(model, monkeypatch):
  # What has a scheme is copied by Beam; file:// is one that is at hand.
  monkeypatch.setattr(beam_predict, "match", lambda pattern: glob.glob(
      pattern[len("file://"):]))
  monkeypatch.setattr(beam_predict.filesystems.FileSystems, "join",
                      staticmethod(os.path.join))
  copy = beam_predict.local_model_dir("file://" + model)
  assert copy != model
  with predict_session.SessionPredictor(copy) as predictor:
    with predict_session.SessionPredictor(model) as other:
      assert (predictor.predict(["the apple"]) == other.predict(
          ["the apple"])).all()
  assert beam_predict.local_model_dir("file://" + model) == copy


@pytest.mark.parametrize("changes, message", [
    ({"input": None}, "--input must be given"),
    ({"input": "/nowhere/*.csv"}, "finds no file"),
    ({"output": "x.txt"}, "must be a name that ends in"),
    ({"output": "d/.avro"}, "must be a name that ends in"),
    ({"threshold": "2"}, "it must be from 0 to 1"),
    ({"batch_size": "0"}, "it must be 1 or more"),
    ({"probabilities": "some"}, "it must be all, labels, or a number"),
    ({"model_dir": "/nowhere"}, "/nowhere"),
])
def test_flags_that_cannot_work(tmp_path, model, changes, message):
  (tmp_path / "in.txt").write_text(u"one\n")
  settings = {"model_dir": model, "input": str(tmp_path / "in.txt"),
              "output": str(tmp_path / "out.jsonl")}
  settings.update(changes)
  status, stderr = run(*tiny_bert.flag_list(settings))
  assert status == 2
  assert message in stderr
  assert stderr.count("\n") == 1


def test_an_argument_in_the_wrong_place(tmp_path, model):
  status, stderr = run("--model_dir=" + model, "--input=a", "--output=b.jsonl",
                       "text", "--", *DIRECT)
  assert status == 2 and "unexpected argument text" in stderr


# Two jobs into one output.


def test_one_output_is_claimed_once(tmp_path):
  prefix = str(tmp_path / "new" / "part")
  with output_claim.claim(prefix):
    name, = os.listdir(str(tmp_path / "new"))
    with pytest.raises(ValueError) as raised:
      with output_claim.claim(prefix):
        raise AssertionError("claimed twice")
    message = str(raised.value)
    assert "pid %d on " % os.getpid() in message
    assert message.endswith("if it is no longer running, remove %s." %
                            (tmp_path / "new" / name))
    with output_claim.claim(prefix + "-other"):
      pass
    assert os.listdir(str(tmp_path / "new")) == [name]
  assert os.listdir(str(tmp_path / "new")) == []
  with pytest.raises(KeyError):
    with output_claim.claim(prefix):
      raise KeyError()
  with output_claim.claim(prefix):
    pass
  assert os.listdir(str(tmp_path / "new")) == []


def test_names_that_are_patterns_cannot_be_claimed(tmp_path):
  with pytest.raises(ValueError, match="treats as a pattern"):
    with output_claim.claim(str(tmp_path / "a[1]")):
      pass
  assert os.listdir(str(tmp_path)) == []


def test_two_jobs_at_once_do_not_both_go_on(tmp_path):
  prefix = str(tmp_path / "part")
  outcomes, barrier = [], threading.Barrier(8)

  def work():
    barrier.wait()
    try:
      with output_claim.claim(prefix):
        outcomes.append("claimed")
        barrier_of_ends.wait(60)
    except ValueError:
      outcomes.append("refused")
      barrier_of_ends.wait(60)

  barrier_of_ends = threading.Barrier(8)
  workers = [threading.Thread(target=work) for _ in range(8)]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  assert len(outcomes) == 8 and outcomes.count("claimed") <= 1
  assert os.listdir(str(tmp_path)) == []


def test_a_job_into_a_claimed_output_writes_nothing(tmp_path, model):
  tiny_bert.write_jsonl(str(tmp_path / "in.jsonl"), rows_of(5))
  arguments = ["--model_dir=" + model, "--input=%s" % (tmp_path / "in.jsonl"),
               "--output=%s" % (tmp_path / "out.jsonl")]
  claim = tmp_path / "out.running-0.json"
  claim.write_text(u"cut")
  status, stderr = run(*arguments)
  assert status == 2 and stderr.count("\n") == 1
  assert "its lock file cannot be read" in stderr and str(claim) in stderr
  assert sorted(os.listdir(str(tmp_path))) == ["in.jsonl", claim.name]
  claim.unlink()
  status, stderr = run(*arguments)
  assert status == 0, stderr
  assert not [name for name in os.listdir(str(tmp_path)) if "running" in name]
