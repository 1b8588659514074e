"""The talk: what it says about language models, one claim a file, as experiments.

    experiment               what experiments have in common: training, asking, counting
    results                  runs experiments side by side, and keeps what they found
    plots                    drawings of it

In the order of the talk:
    spelling                 tokens hide the letters of a word
    in_context               examples in front of a question teach without training
    induction                the heads that copy what came next the last time
    as_assistant             a transcript makes base answer, and ask on
    working_memory           what stands in the context is read, not recollected
"""
