"""Rooms of every script: the run folder and the command line.

    runs            files that are whole or not there, locks, the stages of make
    command         how a command ends, and what of its output a terminal may see
"""
