"""The talk: what it says about language models, one claim a file, as experiments.

    experiment               what experiments have in common: training, asking, counting
    results                  runs experiments side by side, and keeps what they found
    plots                    drawings of it
    __main__                 the command for all of them

In the order of the talk:
    dreams                   a base model dreams documents
    few_shot                 examples in front of a question
    regurgitation            pages read again and again are recited
    assistant                conversations make an assistant of a base model
    hallucination            made-up answers, and refusals for what a model does not know
    tools                    a calculator against arithmetic in the head
    reaching_for_the_tool    rewards for right results teach a model to call it
    knowledge_of_self        where a model has its name from
    tokens_to_think          written steps help, not the length
    spelling                 tokens hide the letters of a word
    longer_replies           reinforcement makes replies longer
    reasoning                tries and going back grow where only the end is rewarded
    thinking_time            what a budget of tokens costs, and what 64 tries find
    past_the_teacher         imitation stops at its teacher
    gamed                    a reward model stands in for people, and can be gamed
    ranking                  battles rank models
"""
