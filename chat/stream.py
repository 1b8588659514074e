"""stream.py: a reply as text, while its tokens come.

Text is what a user reads: whole characters only, no special tokens, and nothing of a stop string.
Parts is what sample.reply_parts returns, growing: texts, calls of tools, and their outputs.

Source: Knuth, Morris and Pratt 1977 (finding a word in a text that comes letter by letter).
"""

import codecs

from run import command
from sample import PART_TOKENS

BEGINS = [begin for begin, _ in PART_TOKENS.values()]
ENDS = [end for _, end in PART_TOKENS.values()]
# How a terminal shows the tokens around a call: [37*48 = 1776]
SHOWN = {
    "<|tool_start|>": "[",
    "<|tool_end|>": "",
    "<|output_start|>": " = ",
    "<|output_end|>": "] ",
}


def borders(text):
    """For each prefix of a text, the length of its longest border.

    A border is a shorter beginning that is also the end: borders("abab") -> [0, 0, 1, 2].
    """
    lengths, k = [0], 0
    for c in text[1:]:
        while k and text[k] != c:
            k = lengths[k - 1]
        k += text[k] == c
        lengths.append(k)
    return lengths


class Text:
    """The text of a reply, to be shown while its tokens come.

    The text ends in front of a stop string, however the tokens cut it. With `calls`, calls of tools
    are shown in brackets; otherwise they are left out. The time is proportional to the length of
    the text, however long the stop strings are.

    stopped  whether a stop string has come
    hidden   whether a call is being written that is not shown
    length   how many characters the reply has so far, with those that are held back
    """

    def __init__(self, tokenizer, stop=(), calls=False):
        self.tokenizer = tokenizer
        self.calls = calls
        self.names = {token: name for name, token in tokenizer.special_tokens.items()}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.stop = [(text, borders(text)) for text in stop if text]
        self.matched = [0] * len(self.stop)     # how much of each stop string the text ends with
        self.held = ""                          # text in which a stop string may have begun
        self.stopped = False
        self.hidden = False
        self.length = 0

    def put(self, token):
        """Take one more token; returns the text that is now certain to be shown."""
        name = self.names.get(token)
        if name is None and self.hidden:
            return self._show("")
        if name is None:
            return self._show(self.decoder.decode(self.tokenizer.token_bytes[token]))
        if not self.calls:
            self.hidden = name in BEGINS or self.hidden and name not in ENDS
        mark = SHOWN.get(name, "") if self.calls else ""
        return self._show(self.decoder.decode(b"", True) + mark)

    def end(self):
        """The rest of the text: what was held back."""
        if self.stopped:
            return ""
        rest = self._show(self.decoder.decode(b"", True))
        return rest if self.stopped else rest + self.held

    def _show(self, text):
        self.length += len(text)
        if self.stopped:
            return ""
        if not self.stop:
            return text
        for n, c in enumerate(text, 1):
            length = self._match(c)
            if length:
                self.stopped = True
                shown = self.held + text[:n]
                self.held = ""
                return shown[:len(shown) - length]
        self.held += text
        certain = len(self.held) - max(self.matched)
        text, self.held = self.held[:certain], self.held[certain:]
        return text

    def _match(self, c):
        """Take one more character; returns the length of the longest stop string that it ends."""
        longest = 0
        for i, (stop, border) in enumerate(self.stop):
            k = self.matched[i]
            while k and stop[k] != c:
                k = border[k - 1]
            k += stop[k] == c
            self.matched[i] = k
            if k == len(stop):
                longest = max(longest, k)
        return longest


class Parts:
    """The parts of a reply, as sample.reply_parts finds them in all of it, while its tokens come.

    put and end return what the reply has grown by, or None:
    {"index": number of the part, "type": its type, "text": what to append to it}
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.index, self.kind = 0, "text"
        self.begun = {}                         # {name of a token: type of the part that it begins}
        for kind, (begin, end) in PART_TOKENS.items():
            self.begun |= {begin: kind, end: "text"}
        self.names = {token: name for name, token in tokenizer.special_tokens.items()}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token):
        """Take one more token."""
        name = self.names.get(token)
        if name is None:
            return self._grown(self.decoder.decode(self.tokenizer.token_bytes[token]))
        if name not in self.begun:
            return None
        grown = self.end()
        self.index += 1
        self.kind = self.begun[name]
        return grown

    def end(self):
        """There are no more tokens: half a character at the end becomes a question mark."""
        return self._grown(self.decoder.decode(b"", True))

    def _grown(self, text):
        return {"index": self.index, "type": self.kind, "text": text} if text else None


def gathered(pieces):
    """What Parts returned, one after the other -> each part once, with all of its text."""
    parts = {}
    for piece in pieces:
        if piece is not None:
            part = parts.setdefault(piece["index"], {**piece, "text": ""})
            part["text"] += piece["text"]
    return list(parts.values())


if __name__ == "__main__":
    command.only_imported(__doc__)
