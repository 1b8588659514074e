"""Rooms of gpt.py and train.py: what a model is kept in, runs on and is measured by.

The Llama family:
    llama         its definition: what changed since GPT-2
    families      which of the two a model is

The model at full speed:
    fast          gpt.py's functions for NumPy
    operations    gpt.py's operations for NumPy
    decoding      new tokens on their way through a model
    walk          the way through the blocks of a model, forward and back
    walk_gpt2     the way through one of GPT-2's
    walk_llama    the way through one of Llama's
    device        the model on a GPU
    pages         keys and values there, for rows of different length
    device_training  training there
    device_tuning  the same on batches of any shape
    layout        all its parameters in one array
    checks        what the functions of a model accept
    cores         threads, processes and memory of one machine

Many processes:
    ranks         what they tell each other
    shared_ranks  those of one machine
    mpi_ranks     those of many machines
    nccl_ranks    those that have a GPU each
    joining       how a process learns that it is one of them

Its files:
    folders       Hugging Face's folders
    llama_folders  how Hugging Face describes a Llama
    checkpoint    safetensors and llm.c's files
    adapters      low-rank adapters, in PEFT's form
    bfloat16      weights in half of the memory

Learning:
    lora          adapters: a small change of each matrix learns, and the model stays
    corpus        the tokens that a run learns from
    planning      how many rows of a batch fit in memory at once
    parallel      the gradients of a batch, by one worker for each core
    adamw         AdamW for NumPy
    muon          Muon for NumPy
    zero          either of them divided over ranks
    examples      train.py's check: its definitions beside their fast twins
    resume        a training that was killed goes on
    options       the command line of train.py
    report        what a run says
    bench         how fast this machine trains

    evaluate      bits per byte, n-grams, HellaSwag
"""
