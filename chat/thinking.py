"""thinking.py: thoughts and calls of tools in a reply of others' models, told from its answer.

Models such as DeepSeek R1 and Qwen 3 write their thoughts before they answer:

    <think>
    The user greets me.
    </think>

    Hello!

The marks are words of the model's vocabulary, or ordinary text. Some chat templates write the first
one themselves, at the end of the prompt; then the reply begins within the thoughts.

A model that was offered tools may call some. There is no common form; two are known here:

    <tool_call>                                             Hermes, Qwen 3: anywhere in an answer
    {"name": "weather", "arguments": {"place": "Rome"}}
    </tool_call>

    {"name": "weather", "parameters": {"place": "Rome"}}    Llama 3: the whole answer, perhaps
                                                            behind <|python_tag|>
"""

import json

BEGIN, END = "<think>", "</think>"
CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
PYTHON = "<|python_tag|>"


def n_begun(text, mark):
    """How many characters at the end of a text are the beginning of a mark."""
    for n in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-n:]):
            return n
    return 0


class Thinking:
    """Takes a reply piece by piece, and tells thoughts from answer as soon as that is certain.

    Line feeds beside the marks belong to neither. A reply that does not begin with <think> has no
    thoughts, unless the prompt has begun them.

    state   "start", "thoughts", "gap" between thoughts and answer, or "answer"
    """

    def __init__(self, begun=False):
        self.state = "thoughts" if begun else "start"
        self.held = ""                  # what may be the beginning of a mark, or line feeds
        self.any = False                # whether there are thoughts already

    def put(self, text, ended=False):
        """Take more of the reply -> (thoughts, answer), what both have grown by.

        ended: there is no more, so nothing is held back.
        """
        thoughts, answer = self._told(self.held + text)
        if ended and self.state == "thoughts":
            return thoughts + self.held, answer
        return thoughts, answer + self.held * ended

    def _told(self, text):
        """put(), with what was held back in front of the text."""
        thoughts, self.held = "", ""
        if self.state == "start":
            begin = text.lstrip()
            if begin.startswith(BEGIN):
                self.state, text = "thoughts", begin[len(BEGIN):]
            elif BEGIN.startswith(begin):
                self.held = text
                return "", ""
            else:
                self.state = "answer"
        if self.state == "thoughts":
            thoughts, text = self._thoughts(text)
        if self.state == "gap":
            text = text.lstrip("\n")
            self.state = "answer" if text else "gap"
        return thoughts, text

    def _thoughts(self, text):
        """A text within the thoughts -> (what is certain of them, the text behind them)."""
        if not self.any:
            text = text.lstrip("\n")
        thoughts, found, behind = text.partition(END)
        if found:
            self.state = "gap"
        else:
            thoughts = text[:len(text) - n_begun(text, END)]
        certain = thoughts.rstrip("\n")
        if not found:
            self.held = text[len(certain):]
        self.any |= bool(certain)
        return certain, behind


def behind_begin(prompt, text, thoughts):
    """The text of a conversation, as its last reply goes on from a prompt that ends with <think>.

    The templates of R1 and QwQ begin the thoughts in the prompt, and write a reply without them:

        prompt      ...<|Assistant|><think>\\n
        text        ...<|Assistant|>Hello!
        returned    ...<|Assistant|><think>\\nThe user greets me.\\n</think>\\n\\nHello!

    So a model learns to go on from the prompt that it meets in a chat. Without thoughts it learns
    to end them at once. None if the prompt does not end so, or the text does not begin like it.
    """
    before, begin, behind = prompt.rpartition(BEGIN)
    if not begin or behind.strip() or not text.startswith(before):
        return None
    reply = text[len(before):].lstrip("\n")
    if reply.startswith(BEGIN):                 # the template has kept the thoughts
        return prompt + reply.removeprefix(BEGIN).lstrip("\n")
    return f"{prompt}{thoughts}\n{END}\n\n{reply}"


def call_of(value):
    """(name, arguments as JSON) of a call as models write it, or None for any other value."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(arguments, dict):
        return None
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def calls_in(text):
    """[(name, arguments)] of a text of nothing but calls, one or several with ; between; or []."""
    found, decoder = [], json.JSONDecoder()
    rest = text.strip().removeprefix(PYTHON).lstrip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return []
        call = call_of(value)
        rest = rest[end:].lstrip()
        if not call or rest and not rest.startswith(";"):
            return []
        found.append(call)
        rest = rest[1:].lstrip()
    return found


class Calls:
    """Takes an answer piece by piece, and tells calls of tools from text.

    What begins like a call is held back until it is certain. What is none after all is text, as it
    was written. Line feeds beside the marks of a call belong to neither.

    names   of the tools that were offered: JSON without marks is a call only of one of them
    state   "start", "whole" where the answer may be nothing but calls, or "text"
    """

    def __init__(self, names):
        self.names = frozenset(names)
        self.state, self.held = "start", ""
        self.after_call = False         # line feeds at this place belong to nothing

    def put(self, text, ended=False):
        """Take more of the answer -> (text, calls [(name, arguments)]), what both have grown by.

        ended: there is no more, so nothing is held back.
        """
        self.held += text
        if self.state == "start":
            begin = self.held.lstrip()
            if begin.startswith(("{", PYTHON)):
                self.state = "whole"
            elif not PYTHON.startswith(begin):
                self.state = "text"
        if self.state == "text":
            return self._marked(ended)
        if not ended:
            return "", []
        text, self.held = self.held, ""
        calls = calls_in(text)
        if not all(name in self.names for name, _ in calls):
            calls = []
        return ("" if calls else text), calls

    def _marked(self, ended):
        """put() where calls stand between marks."""
        shown, calls = "", []
        while CALL_BEGIN in self.held:
            before, _, behind = self.held.partition(CALL_BEGIN)
            inside, end, rest = behind.partition(CALL_END)
            if not end and not ended:
                break
            found = calls_in(inside)
            if found:
                shown += self._beside(before).rstrip("\n")
            else:
                shown += self._beside(before) + CALL_BEGIN + inside + end
            calls += found
            self.after_call, self.held = bool(found), rest
        certain = self.held
        if not ended:                               # line feeds too, as a call may follow
            begun = len(certain) - n_begun(certain, CALL_BEGIN)
            certain = certain[:begun].partition(CALL_BEGIN)[0].rstrip("\n")
        self.held = self.held[len(certain):]
        return shown + self._beside(certain), calls

    def _beside(self, text):
        """A text without line feeds at its beginning, where that stands behind a call."""
        if self.after_call:
            text = text.lstrip("\n")
            self.after_call = not text
        return text
