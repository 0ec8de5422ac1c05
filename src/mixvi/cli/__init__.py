"""The command line ``mixvi``: a file for each room's commands."""

from mixvi.cli import cells, satellite
from mixvi.cli.app import app, main

__all__ = ["app", "cells", "main", "satellite"]
