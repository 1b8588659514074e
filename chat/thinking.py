"""thinking.py: the thoughts of a reply, <think> ... </think>, told from its answer.

Models such as DeepSeek R1 and Qwen 3 write their thoughts before they answer:

    <think>
    The user greets me.
    </think>

    Hello!

The marks are words of the model's vocabulary, or ordinary text. Some chat templates write the first
one themselves, at the end of the prompt; then the reply begins within the thoughts.
"""

BEGIN, END = "<think>", "</think>"


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
