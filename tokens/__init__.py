"""Rooms of bpe.py: byte-pair encoding at full speed, and the vocabularies of others.

    pieces          the cuts of the published patterns, in arrays
    encoder         many pieces encoded at once
    vocabularies    .tiktoken, tokenizer.json, vocab.json and merges.txt
"""
