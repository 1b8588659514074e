"""Conversations drawn at random, with and without calls of tools, to render by chat templates."""

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather",
        "description": "The weather in a place, \u00e0 la \"carte\" <now> & later.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["place"],
        },
    }},
    {"type": "function", "function": {"name": "zeit", "description": "", "parameters": {}}},
]
WORDS = """
    Hello how are you the lamp is lit don't 3 12345 3.14 {{x}} {%if%} <b>bold</b> &amp; "quoted"
    it's na\u00efve Stra\u00dfe \u4f60\u597d \u4e16\u754c \u3053\u3093\u306b\u3061\u306f
    \u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d
    \U0001f600 e\u0301 \ufb01 \u2028 \u00a0 \\n \\ \t \n \n\n \r\n
""".replace("\n    ", " ").split(" ")
MARKS = """
    <|im_end|> <|im_start|>system <|eot_id|> <|begin_of_text|> <|start_header_id|>user <think>
    </think> <tool_call> </tool_response> <tool_response> <|endoftext|> <|eot <|im_end
    <\uff5cUser\uff5c> <\uff5cend\u2581of\u2581sentence\uff5c> <\uff5cAssistant\uff5c> <s> [INST]
""".split()


def text_of(rng):
    """A text, sometimes empty or with the name of a special token; white space at any place."""
    kind = rng.random()
    if kind < 0.05:
        return ""
    pool = WORDS + MARKS if kind < 0.3 else WORDS
    words = rng.choices(pool, k=rng.randint(1, 25))
    return "".join(word + rng.choice([" ", " ", "", "\n"]) for word in words)


def calls_of(rng, as_text):
    """Calls of tools, with their arguments as an object, or as a text of JSON."""
    found = []
    for i in range(rng.randint(1, 2)):
        arguments = {"place": rng.choice(["Z\u00fcrich", "<x>", ""]), "days": rng.randint(0, 9)}
        if as_text:
            arguments = '{"place": "Z\u00fcrich", "days": %d}' % rng.randint(0, 9)
        called = {"name": rng.choice(["get_weather", "zeit"]), "arguments": arguments}
        found.append({"type": "function", "id": f"call{i}", "function": called})
    return found


def conversation(rng, calls, null=False):
    """Messages of the system, user, assistant and, with calls, of tools.

    null: a message with calls has no content, and their arguments are texts, as in OpenAI's API.
    """
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": text_of(rng)})
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": text_of(rng)})
        while calls and rng.random() < 0.5:
            content = None if null else rng.choice(["", text_of(rng)])
            called = calls_of(rng, null or rng.random() < 0.5)
            messages.append({"role": "assistant", "content": content, "tool_calls": called})
            for _ in called:
                messages.append({"role": "tool", "content": text_of(rng)})
        reply = {"role": "assistant", "content": text_of(rng)}
        if rng.random() < 0.3:
            reply["reasoning_content"] = text_of(rng)
        elif rng.random() < 0.3:
            reply["content"] = f"<think>\n{text_of(rng)}\n</think>\n\n{text_of(rng)}"
        messages.append(reply)
    if rng.random() < 0.7:              # then the next message is the assistant's
        messages.pop()
    return messages
