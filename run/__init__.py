"""Rooms of every script: the run folder and the command line.

    disk            text files in, whole files out
    runs            files that belong together, locks, the stages of make
    command         how a command ends, and what of its output a terminal may see
"""
