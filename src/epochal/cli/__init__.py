"""The command line: parse a command, call one workflow, print."""
