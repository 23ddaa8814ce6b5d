"""The parts of the command line: one file a command, and what they share."""
