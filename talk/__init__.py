"""The talk: what it says about language models, one claim a file, as experiments.

    experiment               what experiments have in common: training, asking, counting
    results                  runs experiments side by side, and keeps what they found
    plots                    drawings of it
    __main__                 the command for all of them

In the order of the talk:
    dreams                   a base model dreams documents
    few_shot                 examples in front of a question
    in_context               examples of what is done, not facts, teach without training
    induction                the heads that copy what came next the last time
    as_assistant             a transcript makes base answer, and ask on
    regurgitation            pages read again and again are recited
    recital                  base itself recites what its text has often
    recall                   what base remembers of a name, and what it makes up
    assistant                conversations make an assistant of a base model
    guidelines               conversations by people, and by the assistant itself
    hallucination            made-up answers, and refusals for what a model does not know
    searching                a model that may search looks up what it does not know
    price_of_a_search        a search that costs is made only where it must be
    tools                    a calculator against arithmetic in the head
    reaching_for_the_tool    rewards for right results teach a model to call it
    working_memory           what stands in the context is read, not recollected
    knowledge_of_self        where a model has its name from
    tokens_to_think          written steps help, not the length
    spelling                 tokens hide the letters of a word
    counting                 dots and letters, in the head and with a tool
    jagged                   9.11 and 9.9: hard beside what is easy
    longer_replies           reinforcement makes replies longer
    reasoning                tries and going back grow where only the end is rewarded
    thinking_time            what a budget of tokens costs, and what 64 tries find
    past_the_teacher         imitation stops at its teacher
    gamed                    a reward model stands in for people, and can be gamed
    ranking                  battles rank models
"""
