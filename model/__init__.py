"""Rooms of gpt.py and train.py: what a model is kept in, runs on and is measured by.

    cores           threads, processes and memory of one machine
    checkpoint      safetensors and llm.c's files
    device          the model on a GPU
    evaluate        bits per byte, n-grams, HellaSwag
"""
