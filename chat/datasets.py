"""datasets.py: conversations as other people's data sets write them.

    {"messages": [{"role", "content"}, ...]}        Hugging Face, SmolTalk, UltraChat 200k, our own
    {"conversation": [{"role", "content"}, ...]}    LMSYS-Chat-1M, WildChat; Capybara's turns
    {"data": ["Hello", "Hi! How can I help?", ...]} UltraChat
    {"conversations": [{"from", "value"}, ...]}     ShareGPT; LIMA's texts
    {"question", "answer"}                          GSM8K: its <<48/2=24>> become calls of the
                                                    calculator

All become [{"role", "content"}, ...] as chat/template.py has them. Nothing is dropped unseen that
the chat format has no place for: a row with an image or with other tools is refused, the name of a
speaker is noted. Reasoning beside a reply is kept as "reasoning_content"; chat/lessons.py notes
where the format of a model has no place for it.

Sources: the data sets' cards; openai/grade-school-math (the calculator's annotations).
"""

import itertools
import re
from collections import OrderedDict

from chat import template, tools
from chat.rows import is_message, list_of, read_json, shown, text_of
from chat.template import Unusable

# A row is in the first schema of which it has all keys. Their order matters: a row of pairs may
# hold its best conversation as messages, too.
SCHEMAS = {
    "pair": ("chosen", "rejected"),
    "ultrafeedback": ("instruction", "completions"),
    "tree": ("prompt", "message_tree_id"),
    "message": ("message_id", "parent_id", "text"),
    "messages": ("messages",),
    "data": ("data",),
    "conversations": ("conversations",),
    "conversation": ("conversation",),
    "gsm8k": ("question", "answer"),
}


def schema(row):
    """The name of a row's schema. Columns that are null count only if no other schema fits."""
    if isinstance(row, list):
        return "list"
    fit, filled = [], []
    if isinstance(row, dict):
        fit = [name for name, keys in SCHEMAS.items() if row.keys() >= set(keys)]
        filled = [name for name in fit if None not in [row[key] for key in SCHEMAS[name]]]
    if fit:
        return (filled or fit)[0]
    found = f"the keys {', '.join(row)}"[:200] if isinstance(row, dict) else repr(row)[:60]
    known = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in SCHEMAS.items())
    raise Unusable("of no known schema", f"{found}; known are {known}")


# Who speaks, as data sets call them. "call" is a message that is nothing but a call of a tool.
ROLES = {}
for _role, _names in {
    "system": "system developer",
    "user": "user human prompter",
    "assistant": "assistant gpt model chatgpt bard bing claude gemini bot ai",
    "tool": "tool function observation ipython function_response tool_response",
    "call": "function_call tool_call",
}.items():
    ROLES |= dict.fromkeys(_names.split(), _role)

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


def role_of(m):
    """Who speaks: system, user, assistant, tool or call."""
    if not isinstance(m, dict):
        raise Unusable("no message", shown(m))
    spelled = m["from"] if m.get("role") is None and "from" in m else m.get("role")
    role = None
    if isinstance(spelled, str):
        role = ROLES.get(spelled.strip().lower().replace("-", "_").replace(" ", "_"))
    if role is None:
        detail = f"expected system, user, assistant or tool, found {shown(m)}"
        raise Unusable(f"unknown role {shown(spelled)}", detail)
    return role


def content_of(m):
    """The content of a message, a text or parts; None if it has none.

    OpenAI's API has a refusal in a field of its own. LLaMA-Factory has a part's text under "value".
    """
    found = [m[key] for key in CONTENT if m.get(key) is not None]
    content = found[0] if found else m.get("refusal")
    if isinstance(content, list):
        content = list(content)
        for i, part in enumerate(content):
            if isinstance(part, dict) and part.get("text") is None and "value" in part:
                content[i] = {**part, "text": part["value"]}
    return content


def refuse_keys(holder, keys=MEDIA):
    """Unusable if anything stands under one of the keys: the chat format has no place for it."""
    for key in keys:
        if holder.get(key):
            raise Unusable(f"with {key}", shown(holder[key]))


def read_fields(m, role, notes):
    """The weight of a message: 0 if it is not to be learned, else 1. Notes what is left out of it.
    """
    refuse_keys(m)
    for key in LEARNED_IN_PARTS:
        if m.get(key):
            raise Unusable(template.PARTLY, f"{key} is {shown(m[key])}")
    weights = [m[key] for key in LEARNED if m.get(key) is not None]
    for weight in weights:
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            raise Unusable("a weight that is neither 0 nor 1", shown(weight))
    weight = int(min(weights, default=1))
    if weights and weight and role == "user":
        notes["message of the user that is to be learned, which it is not"] += 1
    if any(m.get(key) for key in REASONING) and not thoughts_of(m, role):
        notes["reasoning that is no text, or not the assistant's, which is left out"] += 1
    if m.get("name") and role in template.ROLES:
        notes["name of a speaker, which is left out"] += 1
    return weight if role == "assistant" else 1


def thoughts_of(m, role):
    """The reasoning beside a reply, by whatever name, as a text; "" if there is none."""
    texts = [m[key] for key in REASONING if isinstance(m.get(key), str) and m[key].strip()]
    return texts[0] if texts and role == "assistant" else ""


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


OURS = ", ".join(f"{name}({argument})" for name, argument in tools.ARGUMENTS.items())


def text_of_call(call):
    """A call as a model of ours writes it. Unusable if it calls a tool that we do not have."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise Unusable("a tool call of no known form",
                       f'{shown(call)}, expected {{"function": {{"name", "arguments"}}}}')
    name = text_of(function["name"], "the name of a tool")
    arguments = read_json(function.get("arguments"), "the arguments of a tool call")
    argument = None
    if isinstance(arguments, dict):
        argument = arguments.get(tools.ARGUMENTS.get(name))
    if not isinstance(argument, str):
        raise Unusable(f"calls the tool {name[:60]}, we have only {OURS}")
    return tools.call_of(name, argument)


def add_call(calls, group, name=None):
    """Note a call that waits for its result, under its id if it has one. group: [its part]"""
    calls[name if isinstance(name, str) and name not in calls else object()] = group


def add_result(calls, m):
    """Put a tool's message behind the call of its tool_call_id, or else behind the first call."""
    result = template.checked_content(0, "tool", content_of(m))
    name = m.get("tool_call_id")
    if not isinstance(name, str) or name not in calls:
        first = next(iter(calls), None)
        if first is None or isinstance(name, str) and isinstance(first, str):
            raise Unusable("a tool's message that nobody called for", shown(m))
        name = first
    calls.pop(name).append({"type": "output", "text": result})


def groups_of(content, called, calls):
    """The parts of a reply, each in a list of its own, to which a call's result will be added.

    called: the calls beside the content. calls: those that wait for a result, which are added here.
    """
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    parts = list_of(content or [], "the content of a message")
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    groups = [[part] for part in parts]
    for group, kind, after in zip(groups, kinds, [*kinds[1:], None]):
        if kind == "tool" and after != "output":
            add_call(calls, group)
    for call in called:
        groups.append([{"type": "tool", "text": text_of_call(call)}])
        add_call(calls, groups[-1], call.get("id"))
    return groups


def texts_in_turn(turns):
    """The texts of turns that do not say who speaks; [] if one of them does.

    A turn is a text (UltraChat), {"input", "output"} (Capybara) or [question, reply] (Gradio).
    """
    texts = []
    for turn in turns:
        if isinstance(turn, dict) and turn.keys() == {"input", "output"}:
            turn = [turn["input"], turn["output"]]
        texts += turn if isinstance(turn, list) and len(turn) == 2 else [turn]
    return texts if all(isinstance(text, (str, type(None))) for text in texts) else []


def from_messages(messages, notes):
    """Messages as Hugging Face, OpenAI, ShareGPT or UltraChat write them -> [{"role", "content"}]

    Calls of our tools become parts of the reply that they belong to. A reply that is not to be
    learned gets "weight" 0. The order is not changed; in_turns does that.
    """
    out, calls = [], OrderedDict()
    messages = list_of(read_json(messages, "the messages"), "messages")     # a text in some columns
    texts = [] if messages and is_message(messages[0]) else texts_in_turn(messages)
    if len(texts) > 1:                          # the user's and the assistant's in turn
        who = itertools.cycle(["user", "assistant"])
        return [{"role": role, "content": text} for role, text in zip(who, texts)]
    for m in messages:
        role = role_of(m)
        called = calls_of(m, role) if role == "call" or not CALLS.isdisjoint(m) else []
        content = None if role == "call" else content_of(m)
        role = "assistant" if role == "call" else role
        weight = read_fields(m, role, notes) if len(m) > 2 else 1
        if role == "tool":
            add_result(calls, m)
            continue
        last = out[-1] if out else {"role": None, "content": None}
        goes_on = role == last["role"] == "assistant" and isinstance(last["content"], list)
        in_parts = called or goes_on or isinstance(content, list)
        if not goes_on:
            out.append({"role": role, "content": [] if in_parts else content})
            calls.clear()
        elif last.get("weight", 1) != weight:
            raise Unusable(template.PARTLY)
        if in_parts:
            out[-1]["content"] += groups_of(content, called, calls)
        if weight != 1:
            out[-1]["weight"] = weight
        thoughts = [out[-1].get("reasoning_content"), thoughts_of(m, role)]
        if any(thoughts):
            out[-1]["reasoning_content"] = "\n\n".join(filter(None, thoughts))
    for m in out:
        if isinstance(m["content"], list):
            m["content"] = list(itertools.chain.from_iterable(m["content"]))
    return out


# ------------------------------------------------------- what a row says beside its messages


def system_of(row):
    """[the system message] that stands in the row itself, or [].

    Unusable for a row with an image, a passage or other tools, or one not to be learned.
    """
    refuse_keys(row, MEDIA + ABOUT)
    if row.get("weight") == 0 or row.get("train") is False:
        raise Unusable("a row that is not to be learned")
    for key in TOOLS:
        if row.get(key):
            refuse_tools(row[key])
    for key in SYSTEM:
        text = row.get(key)
        if text is not None and text_of(text, key).strip():
            return [{"role": "system", "content": text}]
    return []


def refuse_tools(offered):
    """Unusable if a row offers other tools than ours."""
    if isinstance(offered, str) and offered.strip() in ("", "None"):
        return
    offered = read_json(offered, "the tools")
    if not isinstance(offered, list):
        offered = [offered] if offered else []
    for tool in offered:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if not isinstance(function, dict) or function.get("name") not in tools.ARGUMENTS:
            raise Unusable(f"offers other tools than {OURS}", shown(tool))


def beside(row):
    """[the system message] beside a row's messages, or []. Unusable as for system_of."""
    if not isinstance(row, dict):
        return []
    found = system_of(row)
    settings = row.get("chat_template_kwargs")  # SmolTalk 2's, TRL's
    if isinstance(settings, dict):
        of_settings = system_of(settings)
        found = found or of_settings
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
        result = tools.calculator(found[1])
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
