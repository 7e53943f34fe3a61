"""The fuzzer lies with the benchmarks; these tests use its files and damage."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
