# SPDX-License-Identifier: Apache-2.0
"""Past one machine: Beam pipelines and launchers."""
