"""Rooms of gpt.py and train.py: what a model is kept in, runs on and is measured by.

    fast            gpt.py's functions for NumPy at full speed
    cores           threads, processes and memory of one machine
    folders         Hugging Face's GPT-2 folders
    checkpoint      safetensors and llm.c's files
    device          the model on a GPU
    evaluate        bits per byte, n-grams, HellaSwag
"""
