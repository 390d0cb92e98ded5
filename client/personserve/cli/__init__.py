"""The command line: `personserve`."""

from personserve.cli.app import main as main
