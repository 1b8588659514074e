"""datasets.py: conversations as other people's data sets write them.

    {"messages": [{"role", "content"}, ...]}        Hugging Face, SmolTalk, UltraChat 200k, our own
    {"conversation": [{"role", "content"}, ...]}    LMSYS-Chat-1M, WildChat; Capybara's turns
    {"data": ["Hello", "Hi! How can I help?", ...]} UltraChat
    {"conversations": [{"from", "value"}, ...]}     ShareGPT; LIMA's texts
    {"question", "answer"}                          GSM8K: its <<48/2=24>> become calls of the
                                                    calculator

All become [{"role", "content"}, ...] as chat/template.py has them. Nothing is dropped unseen that
the chat format has no place for: a row with an image or with other tools is refused, the name of a
speaker and reasoning are noted.

Sources: the data sets' cards; openai/grade-school-math (the calculator's annotations).
"""

import re
from collections import OrderedDict

from chat import template
from chat.rows import is_message, list_of, read_json, shown, text_of
from chat.template import Unusable
from chat.tools import calculator
from run import command

# A row is in the first schema of which it has all keys. Their order matters: a row of pairs may
# hold its best conversation as messages, too.
SCHEMAS = {
    "pair": ("chosen", "rejected"),
    "ultrafeedback": ("instruction", "completions"),
    "tree": ("prompt", "message_tree_id"),
    "message": ("message_id", "parent_id", "text"),
    "messages": ("messages",),
    "ultrachat": ("data",),
    "sharegpt": ("conversations",),
    "conversation": ("conversation",),
    "gsm8k": ("question", "answer"),
}


def schema(row):
    """The name of a row's schema. Columns that are null count only if no other schema fits."""
    if isinstance(row, list):
        return "list"
    null = None
    for name, keys in SCHEMAS.items():
        if isinstance(row, dict) and all(key in row for key in keys):
            if all(row[key] is not None for key in keys):
                return name
            null = null or name
    if null:
        return null
    found = f"the keys {', '.join(row)}"[:200] if isinstance(row, dict) else repr(row)[:60]
    known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in SCHEMAS.items())
    raise Unusable("of no known schema", f"{found}; known are {known}")


# Who speaks, as data sets call them. "call" is a message that is nothing but a call of a tool.
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "claude": "assistant", "gemini": "assistant",
    "bot": "assistant", "ai": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "function_response": "tool", "tool_response": "tool",
    "function_call": "call", "tool_call": "call"}

# Keys of a message or of a row.
CONTENT = ("content", "value", "text")
CALLS = {"tool_calls", "function_call"}
# Of OpenAI, Axolotl, ms-swift and LLaMA-Factory: a message with 0 or false is not to be learned.
LEARNED = ("weight", "train", "training", "loss", "loss_scale", "loss_weight")
LEARNED_IN_PARTS = ("train_detail", "training_detail")
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
MEDIA = ("image", "images", "video", "videos", "audio", "audios", "documents")
ABOUT = ("context", "passage", "choices", "history")     # what a question is about
SYSTEM = ("system", "system_prompt", "systemPrompt", "system_message", "systemMessage",
          "custom_instructions")
TOOLS = ("tools", "functions", "xml_tools", "python_tools")
GOOD = ("label", "kto_tag")                             # KTO: false marks what not to say
BESIDE = {*MEDIA, *ABOUT, *SYSTEM, *TOOLS, "weight", "train", "chat_template_kwargs"}


def role_of(m):
    """Who speaks: system, user, assistant, tool or call."""
    if not isinstance(m, dict):
        raise Unusable("no message", shown(m))
    spelled = m.get("role")
    spelled = m.get("from") if spelled is None else spelled
    role = ROLES.get(spelled) if isinstance(spelled, str) else None
    if role is None and isinstance(spelled, str):
        role = ROLES.get(spelled.strip().lower().replace("-", "_").replace(" ", "_"))
    if role is None:
        detail = f"expected system, user, assistant or tool, found {shown(m)}"
        raise Unusable(f"unknown role {shown(spelled)}", detail)
    return role


def content_of(m):
    """The content of a message, a text or parts; None if it has none."""
    for key in CONTENT:
        if m.get(key) is not None:
            content = m[key]
            return [renamed(part) for part in content] if isinstance(content, list) else content
    return m.get("refusal")                     # OpenAI's API puts it there


def renamed(part):
    """A part with its text under "text"; LLaMA-Factory has it under "value"."""
    if isinstance(part, dict) and part.get("text") is None and isinstance(part.get("value"), str):
        return {**part, "text": part["value"]}
    return part


def refuse_keys(holder, keys=MEDIA):
    """Unusable if anything stands under one of the keys: the chat format has no place for it."""
    for key in keys:
        if holder.get(key):
            raise Unusable(f"with {key}", shown(holder[key]))


def weight_of(holder):
    """0 for what is not to be learned, 1 for what is; None if nothing says so."""
    for key in LEARNED_IN_PARTS:
        if holder.get(key):
            raise Unusable(template.PARTLY, f"{key} is {shown(holder[key])}")
    weights = [holder[key] for key in LEARNED if holder.get(key) is not None]
    for weight in weights:
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            raise Unusable("a weight that is neither 0 nor 1", shown(weight))
    return int(min(weights)) if weights else None


def read_fields(m, role, notes):
    """The weight of a message. Notes what is left out of it."""
    refuse_keys(m)
    weight = weight_of(m)
    if weight == 1 and role == "user":
        notes["message of the user that is to be learned, which it is not"] += 1
    if any(m.get(key) for key in REASONING):
        notes["reasoning beside a reply, which is left out"] += 1
    if m.get("name") and role in template.ROLES:
        notes["name of a speaker, which is left out"] += 1
    return weight if role == "assistant" and weight is not None else 1


def calls_of(m, role):
    """The calls of tools in a message: OpenAI's, its older function_call, or ShareGPT's."""
    if role == "call":
        calls = read_json(content_of(m), "the calls of a tool")
        return calls if isinstance(calls, list) else [calls]
    calls = list(list_of(m.get("tool_calls") or [], "tool_calls"))
    if m.get("function_call"):
        calls.append({"function": m["function_call"]})
    if calls and role != "assistant":
        raise Unusable(f"a call of the {role}", "a message that calls tools")
    return calls


def expression_of(call):
    """The expression that a call gives to the calculator. Unusable if it calls another tool."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise Unusable("a tool call of no known form",
                       f'{shown(call)}, expected {{"function": {{"name", "arguments"}}}}')
    name = text_of(function["name"], "the name of a tool")
    arguments = read_json(function.get("arguments"), "the arguments of a tool call")
    expression = arguments.get("expression") if isinstance(arguments, dict) else None
    if name != "calculator" or not isinstance(expression, str):
        raise Unusable(f"calls the tool {name[:60]}, we have only calculator(expression)")
    return expression


class Calls:
    """The calls of one reply that have no result yet, and the results of all."""

    def __init__(self):
        self.open = OrderedDict()               # id of the call, or an object() of its own -> part
        self.outputs = {}                       # id() of a part -> result

    def add(self, part, call=None):
        """Note a call, whose part of the reply it is, under its id if it has one."""
        name = call.get("id") if isinstance(call, dict) else None
        self.open[name if isinstance(name, str) and name not in self.open else object()] = part

    def answer(self, m):
        """Give a result to the call of its tool_call_id, or without one to the first open call."""
        result = template.checked_content(0, "tool", content_of(m))
        name = m.get("tool_call_id")
        if isinstance(name, str) and name in self.open:
            part = self.open.pop(name)
        elif self.open and not (isinstance(name, str) and isinstance(next(iter(self.open)), str)):
            part = self.open.popitem(last=False)[1]
        else:
            raise Unusable("a tool's message that nobody called for", shown(m))
        self.outputs[id(part)] = result

    def with_outputs(self, parts):
        """The parts of a reply, with its result behind each call."""
        found = []
        for part in parts:
            found.append(part)
            if id(part) in self.outputs:
                found.append({"type": "output", "text": self.outputs[id(part)]})
        return found


def without_output(parts):
    """The calls among an assistant's parts that no output follows."""
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    found = zip(parts, kinds, [*kinds[1:], None])
    return [part for part, kind, after in found if kind == "tool" and after != "output"]


def texts_in_turn(turns):
    """The texts of turns that do not say who speaks; [] if one of them does.

    A turn is a text (LIMA), {"input", "output"} (Capybara) or [question, reply] (Gradio).
    """
    texts = []
    for turn in turns:
        if isinstance(turn, dict):
            turn = [turn["input"], turn["output"]] if turn.keys() == {"input", "output"} else []
        said = turn if isinstance(turn, list) and len(turn) == 2 else [turn]
        if not all(isinstance(text, str) for text in said):
            return []
        texts += said
    return texts


def from_messages(messages, notes):
    """Messages as Hugging Face, OpenAI or ShareGPT write them -> [{"role", "content"}]

    Calls of the calculator become parts of the reply that they belong to. A reply that is not to be
    learned gets "weight" 0. The order is not changed; in_turns does that.
    """
    out, calls = [], Calls()
    messages = read_json(messages, "the messages")          # a text, in columns of some
    messages = list_of(messages, "messages")
    texts = [] if messages and is_message(messages[0]) else texts_in_turn(messages)
    if len(texts) > 1:
        return from_ultrachat(texts, notes)
    for m in messages:
        role = role_of(m)
        called = calls_of(m, role) if role == "call" or not CALLS.isdisjoint(m) else []
        content = None if role == "call" else content_of(m)
        role = "assistant" if role == "call" else role
        weight = read_fields(m, role, notes) if len(m) > 2 else 1
        if role == "tool":
            calls.answer(m)
            continue
        before = out[-1] if out else {"role": None, "content": None}
        goes_on = role == before["role"] == "assistant" and isinstance(before["content"], list)
        if not called and not goes_on and not isinstance(content, list):
            out.append({"role": role, "content": content})
            calls.open.clear()
        else:                                   # parts of one reply
            if isinstance(content, str):
                content = [{"type": "text", "text": content}] if content else []
            parts = list_of(content or [], "the content of a message")
            expressions = [{"type": "tool", "text": expression_of(call)} for call in called]
            if goes_on:
                if before.get("weight", 1) != weight:
                    raise Unusable(template.PARTLY)
                before["content"] += parts + expressions
            else:
                out.append({"role": role, "content": parts + expressions})
                calls.open.clear()
            for part in without_output(parts):
                calls.add(part)
            for part, call in zip(expressions, called):
                calls.add(part, call)
        if weight != 1:
            out[-1]["weight"] = weight
    for m in out:
        if isinstance(m["content"], list):
            m["content"] = calls.with_outputs(m["content"])
    return out


def from_sharegpt(turns, notes):
    """ShareGPT's turns, without the white space that ChatGPT's pages had around each text."""
    out = from_messages(turns, notes)
    for m in out:
        if isinstance(m["content"], str):
            m["content"] = m["content"].strip()
    return out


def from_ultrachat(turns, notes):
    """Texts of which the user wrote the first, the assistant the second, and so on."""
    turns = list_of(turns, "data")
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


# ------------------------------------------------------- what a row says beside its messages


def refuse_row(row):
    """Unusable for a row with an image, a passage or other tools, or one not to be learned."""
    refuse_keys(row, MEDIA + ABOUT)
    if row.get("weight") == 0 or row.get("train") is False:
        raise Unusable("a row that is not to be learned")
    for key in TOOLS:
        tools = row.get(key)
        if isinstance(tools, str):
            tools = None if tools.strip() in ("", "None") else read_json(tools, "the tools")
        if not isinstance(tools, list):
            tools = [tools] if tools else []
        for tool in tools:
            function = tool.get("function", tool) if isinstance(tool, dict) else {}
            name = function.get("name") if isinstance(function, dict) else None
            if name != "calculator":
                raise Unusable("offers other tools than calculator(expression)", shown(tool))


def system_of(row):
    """[the system message] that stands in the row itself, or []."""
    for key in SYSTEM:
        text = row.get(key)
        if text is not None and text_of(text, key).strip():
            return [{"role": "system", "content": text}]
    return []


def beside(row):
    """[the system message] that stands beside a row's messages, or []. Refuses as refuse_row."""
    if not isinstance(row, dict) or BESIDE.isdisjoint(row):
        return []
    settings = row.get("chat_template_kwargs")  # SmolTalk 2's, TRL's
    found = []
    for holder in (row, settings if isinstance(settings, dict) else {}):
        refuse_row(holder)
        found = found or system_of(holder)
    return found


def with_system(system, messages):
    """The system message and then the messages, unless they hold it already."""
    for m in messages if system else []:
        said = m["content"] if m["role"] == "system" else None
        if isinstance(said, str) and said.strip() == system[0]["content"].strip():
            return messages
    return system + messages


ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


def same_number(result, said):
    """Whether the calculator's result, or None, is the number that an annotation has."""
    try:
        said = float(said.strip().lstrip("$").replace(",", ""))
    except ValueError:
        return False
    return result is not None and abs(float(result) - said) <= 1e-9 * max(1, abs(said))


def gsm8k_parts(answer, notes):
    """'48/2 = <<48/2=24>>24 clips' -> parts, with the annotations as calls of the calculator.

    An annotation is left out if the calculator gives another result.
    """
    parts, at = [], 0
    for found in ANNOTATION.finditer(answer):
        result = calculator(found[1])
        parts.append({"type": "text", "text": answer[at:found.start()]})
        at = found.end()
        if same_number(result, found[2]):
            parts.append({"type": "tool", "text": found[1]})
            parts.append({"type": "output", "text": result})
            notes["zeros of a result that the calculator writes otherwise"] += result != found[2]
        else:
            notes["annotation that the calculator cannot follow"] += 1
    parts.append({"type": "text", "text": answer[at:]})
    return [part for part in parts if part["text"]]


def in_turns(messages, notes):
    """The messages in the order that the chat format demands; notes what that changed."""
    messages, mended = template.in_turns(messages)
    notes.update(mended)
    return messages


if __name__ == "__main__":
    command.only_imported(__doc__)
