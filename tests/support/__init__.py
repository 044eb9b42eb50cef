# SPDX-License-Identifier: Apache-2.0
"""Drivers for the programs that Pollux is tested and measured against, and for Pollux itself.

Nothing in here knows pytest: the tests use it through fixtures, the benchmark directly.
"""
