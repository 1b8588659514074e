"""Rooms of bpe.py: byte-level BPE at full speed, and the vocabularies of others.

    patterns        the regular expressions that cut text, ours and those of strangers
    pieces          the same cuts in arrays
    hashtable       numbers for pieces and for pairs of ids, looked up many at a time
    encoder         bpe.merge of many pieces at once, and a memory of pieces
    decoder         ids to bytes in arrays
    added           special tokens and other names in a text; normal forms
    trainer         bpe.train in arrays
    shards          the files that train.py reads, and the documents they are made of
    by_tasks        train and encode on files of documents, by one task or several
    ranks           what a vocabulary is; .tiktoken files
    huggingface     tokenizer.json, vocab.json and merges.txt
    vocabularies    vocabularies by name or file: save and load
    tiktoken        the rest of tiktoken's methods
    options         the command line of bpe.py
"""

from model import cores  # noqa: F401  before NumPy: it tells NumPy's BLAS how many threads it has
