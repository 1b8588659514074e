"""Rooms of sample.py and align.py: conversations, and what is done with a model that holds them.

    writing, talking    template tools generate stream terminal models export
    HTTP                serve request api page served batching inside
    reading chat data   chats rows datasets comparisons lessons packing
    learning            options commands tuning rollouts variants
    judging             judges grading arena probe

docs/house.md says what each of them is.
"""
