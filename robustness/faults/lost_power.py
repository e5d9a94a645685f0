# SPDX-License-Identifier: Apache-2.0
"""A possible state of the folder after a power failure, from a log of the
layer.

A disk keeps a file's bytes when the file was synced, and a name when its folder
was. Later changes may or may not be there: a folder has the first few of its
name changes, a file its old bytes, none, a part, zeros, or all.
"""

import os
import shutil


_BLOCK = 512


class _Node(object):
  """A file or a folder; inode numbers are used again, these are not."""

  def __init__(self, number):
    self.number = number
    self.synced = None  # path of the last synced copy
    self.changes = []   # of names in it, if it is a folder


class _Change(object):
  """A change of names: `node` goes from `source` to `target`.

  Both are (folder node, name), or None.
  """

  def __init__(self, node, source, target):
    self.node = node
    self.source = source
    self.target = target
    self.is_synced = False
    for place in (source, target):
      if place is not None:
        place[0].changes.append(self)


def replay(log, shadow, root):
  """Reads a log: (root's node, list of `_Change`)."""
  nodes = {str(os.stat(root).st_ino): _Node(None)}
  top = list(nodes.values())[0]
  changes = []
  for line in log:
    kind = line[0]
    if kind == "create":
      node = nodes[line[3]] = _Node(line[3])
      changes.append(_Change(node, None, (nodes[line[1]], line[2])))
    elif kind == "move":
      changes.append(_Change(nodes[line[3]], (nodes[line[1]], line[2]),
                             (nodes[line[4]], line[5])))
    elif kind == "remove":
      changes.append(_Change(None, (nodes[line[1]], line[2]), None))
    elif kind == "sync":
      nodes[line[1]].synced = os.path.join(
          shadow, "%s.%s" % (line[1], line[2]))
    elif kind == "syncdir":
      for change in nodes[line[1]].changes:
        change.is_synced = True
  return top, changes


def _choose(changes, rng):
  """Which changes of names the disk has: set."""
  there = set(change for change in changes if change.is_synced)
  mode = rng.choice(["all", "all", "none", "some", "some"])
  if mode == "all":
    return set(changes)
  if mode == "some":
    folders = []
    for change in changes:
      folder = (change.target or change.source)[0]
      if folder not in folders:
        folders.append(folder)
    for folder in folders:
      there.update(folder.changes[:rng.randint(0, len(folder.changes))])
  # Files moved into a folder are lost if the folder is.
  for change in reversed(changes):
    if change in there and change.target is not None:
      there.update(other for other in changes
                   if other.node is change.target[0])
  return there


def write_state(log, shadow, root, rng):
  """Puts a folder into a possible state after a power failure at the log's end.

  Args:
    log: `Layer.log()` of processes that are dead.
    shadow: str, `Layer.shadow`.
    root: str, the folder; its content is replaced.
    rng: `random.Random`, which chooses one of the many states.

  Returns:
    list of str, what was lost, readable.
  """
  top, changes = replay(log, shadow, root)
  there = _choose(changes, rng)
  entries = {}
  for change in changes:
    if change not in there:
      continue
    if change.source is not None and (
        change.node is None or entries.get(change.source) is change.node):
      entries.pop(change.source, None)
    if change.target is not None:
      entries[change.target] = change.node
  lost = ["%s has not happened" % _describe(change) for change in changes
          if change not in there]
  for name in os.listdir(root):
    path = os.path.join(root, name)
    if os.path.isdir(path) and not os.path.islink(path):
      shutil.rmtree(path)
    else:
      os.remove(path)
  _write_folder(top, root, entries, shadow, rng, lost)
  return lost


def _describe(change):
  source, target = change.source, change.target
  if source and target:
    return "renaming %s to %s" % (source[1], target[1])
  return "%s %s" % ("making" if target else "removing", (target or source)[1])


def _write_folder(folder, path, entries, shadow, rng, lost):
  for (parent, name), node in sorted(
      (item for item in entries.items() if item[0][0] is folder),
      key=lambda item: item[0][1]):
    inside = os.path.join(path, name)
    current = os.path.join(shadow, str(node.number))
    if not os.path.exists(current):
      os.mkdir(inside)
      _write_folder(node, inside, entries, shadow, rng, lost)
      continue
    with open(inside, "wb") as writer:
      writer.write(_content(node, name, current, rng, lost))


def _content(node, name, current, rng, lost):
  """The bytes of a file that the disk has."""
  with open(current, "rb") as reader:
    now = reader.read()
  synced = b""
  if node.synced is not None:
    with open(node.synced, "rb") as reader:
      synced = reader.read()
  if now == synced:
    return now
  form = rng.choice(["old", "cut", "zeros", "blocks", "all"])
  lost.append("%s: %s of %d bytes" % (name, form, len(now)))
  if form == "all":
    return now
  if form == "old":
    return synced
  if form == "cut":
    return now[:rng.randint(0, len(now))]
  if form == "zeros":
    same = 0
    while same < min(len(now), len(synced)) and now[same] == synced[same]:
      same += 1
    return now[:same] + b"\0" * (len(now) - same)
  blocks = [now[start:start + _BLOCK] for start in range(0, len(now), _BLOCK)]
  return b"".join(block if rng.random() < 0.5 else b"\0" * len(block)
                  for block in blocks)
