# SPDX-License-Identifier: Apache-2.0
"""Kills, corrupt files, strange input and long loads, against the programs."""
