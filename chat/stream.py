"""stream.py: a reply as text, while its tokens come.

Parts is what sample.reply_parts returns, growing: texts, calls of tools, and their outputs.
Text is what a user reads of it: whole characters only, and nothing of a stop string.
"""

import codecs

from sample import PART_TOKENS

TYPE_BEHIND = {}                        # {name of a token: type of the part that begins behind it}
for _kind, (_begin, _end) in PART_TOKENS.items():
    TYPE_BEHIND |= {_begin: _kind, _end: "text"}
# How a terminal shows the tokens around a call: [37*48 = 1776]
SHOWN = {
    "<|tool_start|>": "[",
    "<|output_start|>": " = ",
    "<|output_end|>": "] ",
}


class Parts:
    """The parts of a reply, while its tokens come.

    put and end return what the reply has grown by, or None:
    {"index": number of the part, "type": its type, "text": what to append to it}
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.index, self.kind = 0, "text"
        self.names = {token: name for name, token in tokenizer.special_tokens.items()}
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token):
        """Take one more token."""
        name = self.names.get(token)
        if name is None:
            return self._grown(self.decoder.decode(self.tokenizer.token_bytes[token]))
        if name not in TYPE_BEHIND:
            return None
        grown = self.end()
        self.index, self.kind = self.index + 1, TYPE_BEHIND[name]
        return grown

    def end(self):
        """There are no more tokens: half a character at the end becomes a replacement character."""
        return self._grown(self.decoder.decode(b"", True))

    def _grown(self, text):
        return {"index": self.index, "type": self.kind, "text": text} if text else None


def gathered(pieces):
    """What Parts returned, one after the other -> each part once, with all of its text."""
    parts = {}
    for piece in filter(None, pieces):
        part = parts.setdefault(piece["index"], {**piece, "text": ""})
        part["text"] += piece["text"]
    return list(parts.values())


class Text:
    """The text of a reply, to be shown while its tokens come.

    The text ends in front of a stop string, however the tokens cut it. With `calls`, calls of tools
    are shown in brackets; otherwise they are left out.

    parts    the Parts of the reply; piece: what they have just grown by
    stopped  whether a stop string has come
    length   how many characters the reply has so far, with those that are held back
    """

    def __init__(self, tokenizer, stop=(), calls=False):
        self.parts, self.piece = Parts(tokenizer), None
        self.stop, self.calls = [text for text in stop if text], calls
        self.held = ""                  # text in which a stop string may have begun
        self.stopped, self.length = False, 0

    def put(self, token):
        """Take one more token; returns the text that is now certain to be shown."""
        self.piece = self.parts.put(token)
        mark = SHOWN.get(self.parts.names.get(token), "") if self.calls else ""
        return self._show(self._visible() + mark)

    def end(self):
        """The rest of the text: what was held back."""
        self.piece = self.parts.end()
        return self._show(self._visible()) + self.held

    def _visible(self):
        """What of the last piece is to be read."""
        shown = self.piece and (self.calls or self.piece["type"] == "text")
        return self.piece["text"] if shown else ""

    def _show(self, text):
        self.length += len(text)
        if self.stopped or not self.stop:
            return "" if self.stopped else text
        text = self.held + text
        found = []                      # (end, begin) of each stop string in the text
        for stop in self.stop:
            begin = text.find(stop)
            if begin >= 0:
                found.append((begin + len(stop), begin))
        if found:                       # the one that ends first counts; of several, the longest
            self.stopped, self.held = True, ""
            return text[:min(found)[1]]
        certain = len(text) - self._begun(text)
        self.held = text[certain:]
        return text[:certain]

    def _begun(self, text):
        """How many characters at the end of a text are the beginning of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self.stop):
                return n
        return 0
