# SPDX-License-Identifier: Apache-2.0
"""Injects kills, full disks, power failures and corrupt files into runs."""
