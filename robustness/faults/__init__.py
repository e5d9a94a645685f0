# SPDX-License-Identifier: Apache-2.0
"""Kills, full disks, lost power and corrupt files, against whole runs."""
