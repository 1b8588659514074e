"""Rooms of sample.py and align.py: conversations, and what is done with a model that holds them.

Writing and talking:
    template        which conversations the chat format can hold; putting others in order
    formats         how a model's chats become tokens: in our format, or by its chat template
    jinja           chat templates, rendered in a process of their own
    thinking        the thoughts of a reply, told from its answer
    tools           the calculator, letters of words, the search
    generate        many replies side by side
    stream          a reply as text, while its tokens come
    terminal        completions and conversations in a terminal
    models          which model of a run a command means
    export          a GGUF file

Serving over HTTP:
    serve           the server
    request         one HTTP request, read strictly
    api             OpenAI's API: its routes, and how its answers look
    fields          what its requests may ask for
    page            the page (the files in page/), and what it shows of a run
    chain           the stages of a run in order, and how far each one is
    served          the models that the server has loaded
    batching        one writer of the replies of all clients
    writer_process  the same in a process of its own
    inside          attention, and what the model would say after each layer
    patching        what the model says if a part of it is off, or writes something else
    induction       the heads that copy what came after the earlier place of a token
    inside_page     what the page's views Inside and Playground ask for
    beginnings      how pages of the run begin, for a base model to go on
    votes           battles of two hidden models, and the votes on them
    walk            one pass, forward and back, for a browser that computes it itself

Reading what align.py learns from:
    chats           files of conversations, comparisons and tasks
    rows            the rows of such a file, and what becomes of a bad one
    datasets        conversations in the schemas of others
    comparisons     replies to one prompt, and how good each is
    lessons         all of these as ids
    packing         several texts in one row of a batch

Learning and judging:
    options         the recipes of align.py's stages, and its command line
    commands        its commands
    tuning          how a stage begins, resumes, logs and saves
    places          where it computes: on the cores or on a GPU
    rollouts        what the replies of a step of reinforcement learning are like
    variants        other baselines and normalisers
    judges          the reward model
    grading         when a reply is right
    arena           which model is better, and how sure one may be
    probe           what a model knows, and teaching it to say when it does not
"""
