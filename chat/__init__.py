"""Rooms of sample.py and align.py: conversations, and what is done with a model that holds them.

    chats           chat data of others, read
    objectives      losses of fine-tuning and reinforcement learning
    arena           how sure one may be of a score
    probe           what a model knows, and teaching it to say when it does not
    batching        many replies written at once
    serve           models over HTTP, and page.html, the page to look inside
    inside          attention, and what the model would say after each layer
    export          a GGUF file
"""
