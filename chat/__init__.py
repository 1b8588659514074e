"""Rooms of sample.py and align.py: conversations, and what is done with a model that holds them.

Writing and talking:
    template        which conversations the chat format can hold; putting others in order
    tools           the calculator
    generate        many replies side by side
    stream          a reply as text, while its tokens come
    terminal        completions and conversations in a terminal
    models          which model of a run a command means
    export          a GGUF file

Serving over HTTP:
    serve           the server
    request         one HTTP request, read strictly
    api             OpenAI's API
    page            what the page (page.html) shows of a run
    served          the models that the server has loaded
    batching        the thread that writes the replies of all clients
    inside          attention, and what the model would say after each layer

    chats           files of conversations, comparisons and tasks, in any schema
    datasets        how others write conversations
    comparisons     how others write comparisons
    rows            the rows of a file, and what becomes of a bad one

    lessons         what a stage of align.py learns from, as ids
    packing         many texts in one row
    tuning          how a stage begins, resumes, logs and saves
    rollouts        what is logged of the replies of a step
    variants        other baselines and normalisers
    judges          reward models
    options         recipes and the command line of align.py
    commands        what its commands print

    grading         when a reply is right
    arena           how sure one may be of a score
    probe           what a model knows, and teaching it to say when it does not
"""
