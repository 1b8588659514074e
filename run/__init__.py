"""Rooms of every script: the run folder and the command line.

    disk            reads text files, and writes files whole
    runs            files that belong together, locks, the stages of make
    parquet         files of documents: Parquet and jsonl, and from one to the other
    command         how a command ends, and what of its output a terminal may see
    progress        a line of progress that the next one replaces
    tasks           tasks on many machines that share the work of one command
"""
