"""The program `fncb`: recordings and checkpoints, looked at from a terminal. Each command is a room of its own."""

from fncb.cli.program import main as main
