"""English words and sentences, the same as spaCy's blank English tokenizer gives.

datatrove counts and compares words that this tokenizer made, so data.py and web/dedup.py need the
same ones: "doesnt" is two words (does nt), "5km" is two, "well-known" three, "e.g." one.

    python -m web.words "I'd say it's 5km (i.e. 3mi)."  ->  I 'd say it 's 5 km ( i.e. 3mi ) .

The algorithm, for each piece between white space:

    1. If the piece is a special case, a table has its words. Done.
    2. Take a prefix off the front and a suffix off the back, until neither is found
       or a special case is left.
    3. If the rest is a URL, it is one word. If not, split it at its infixes.
    4. Join words again that together are a special case (":", ")" -> ":)").

Step 4 looks within one piece. spaCy looks over white space too: its words differ from ours if a
special case spelled with a space, such as ": )", overlaps one without. In 20,000 texts made of
nothing but such marks this happened 27 times, in real English never.
The table leaves out special cases that the other rules split the same way.

Sources: spaCy 3.8 (spacy/lang/en, spacy/lang/punctuation.py, spacy/tokenizer.pyx,
spacy/pipeline/sentencizer.pyx); datatrove 0.10 (the sets of marks).
"""

import argparse
import re
import unicodedata

from run import command

# ------------------------------------------------------------------------------------- characters


def ranges(text):
    """Yields the first and the last code of each range in hexadecimals.

    >>> list(ranges("41-5a b5"))
    [(65, 90), (181, 181)]
    """
    for span in text.split():
        first, _, last = span.partition("-")
        yield int(first, 16), int(last or first, 16)


def spans(text):
    """The ranges as the inside of a character class."""
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges(text))


def characters(text):
    """The ranges as a set of characters."""
    return frozenset(chr(code) for first, last in ranges(text) for code in range(first, last + 1))


def of_category(category, inside):
    """The letters of a Unicode category in a character class."""
    letters = re.findall(f"[{inside}]", "".join(map(chr, range(0x10000))))
    return "".join(letter for letter in letters if unicodedata.category(letter) == category)


CASED = spans("""
    41-5a 61-7a c0-d6 d8-f6 f8-1bf 1c4-2af 386 388-38a 38c 38e-38f 391-3a9 3ac-3af 3b1-3c9 3cc-3ce
    400-401 403-40a 40c-40d 410-451 453-45a 45c-45d 490-491 496-497 4a2-4a3 4ae-4af 4ba-4bb 4d8-4d9
    4e8-4e9 1d00-1d25 1d6b-1d77 1d79-1d9a 1e00-1eff 2c60-2c7b 2c7e-2c7f a722-a76f a771-a787
    a78b-a78e a790-a7b9 a7fa ab30-ab5a ab60-ab64 ff21-ff3a ff41-ff5a""")
# Letters of scripts without case. Whole blocks: they also hold marks, digits and punctuation.
UNCASED = spans("""
    591-5f4 620-64a 66e-6d5 6e5-6ff 750-77f 8a0-8bd 900-9ff b80-cff d80-dff 1100-137f 2e80-2fdf
    2ff0-30ff 31c0-31ef 3200-4dbf 4e00-9fff ac00-d7af f900-faff fb1d-fbb1 fbd3-fd3d fd50-fdc7
    fdf0-fdfb fe30-fe4f fe70-fefc 1ee00-1eebb 1f200-1f2ff 20000-2a6df 2a700-2ebef 2f800-2fa1f""")
LETTERS = CASED + UNCASED
LOWER = of_category("Ll", CASED) + "\u0294\u0295" + UNCASED
UPPER = of_category("Lu", CASED) + UNCASED
# Dingbats, arrows, emoji: category So of Unicode 11. Later ones are part of the word beside them.
ICONS = spans("""
    a6 a9 ae b0 482 58d-58e 60e-60f 6de 6e9 6fd-6fe 7f6 9fa b70 bf3-bf8 bfa c7f d4f d79 f01-f03 f13
    f15-f17 f1a-f1f f34 f36 f38 fbe-fc5 fc7-fcc fce-fcf fd5-fd8 109e-109f 1390-1399 1940 19de-19ff
    1b61-1b6a 1b74-1b7c 2100-2101 2103-2106 2108-2109 2114 2116-2117 211e-2123 2125 2127 2129 212e
    213a-213b 214a 214c-214d 214f 218a-218b 2195-2199 219c-219f 21a1-21a2 21a4-21a5 21a7-21ad
    21af-21cd 21d0-21d1 21d3 21d5-21f3 2300-2307 230c-231f 2322-2328 232b-237b 237d-239a 23b4-23db
    23e2-2426 2440-244a 249c-24e9 2500-25b6 25b8-25c0 25c2-25f7 2600-266e 2670-2767 2794-27bf
    2800-28ff 2b00-2b2f 2b45-2b46 2b4d-2b73 2b76-2b95 2b98-2bc8 2bca-2bfe 2ce5-2cea 2e80-2e99
    2e9b-2ef3 2f00-2fd5 2ff0-2ffb 3004 3012-3013 3020 3036-3037 303e-303f 3190-3191 3196-319f
    31c0-31e3 3200-321e 322a-3247 3250 3260-327f 328a-32b0 32c0-32fe 3300-33ff 4dc0-4dff a490-a4c6
    a828-a82b a836-a837 a839 aa77-aa79 fdfd ffe4 ffe8 ffed-ffee fffc-fffd 10137-1013f 10179-10189
    1018c-1018e 10190-1019b 101a0 101d0-101fc 10877-10878 10ac8 1173f 16b3c-16b3f 16b45 1bc9c
    1d000-1d0f5 1d100-1d126 1d129-1d164 1d16a-1d16c 1d183-1d184 1d18c-1d1a9 1d1ae-1d1e8 1d200-1d241
    1d245 1d300-1d356 1d800-1d9ff 1da37-1da3a 1da6d-1da74 1da76-1da83 1da85-1da86 1ecac 1f000-1f02b
    1f030-1f093 1f0a0-1f0ae 1f0b1-1f0bf 1f0c1-1f0cf 1f0d1-1f0f5 1f110-1f16b 1f170-1f1ac 1f1e6-1f202
    1f210-1f23b 1f240-1f248 1f250-1f251 1f260-1f265 1f300-1f3fa 1f400-1f6d4 1f6e0-1f6ec 1f6f0-1f6f9
    1f700-1f773 1f780-1f7d8 1f800-1f80b 1f810-1f847 1f850-1f859 1f860-1f887 1f890-1f8ad 1f900-1f90b
    1f910-1f93e 1f940-1f970 1f973-1f976 1f97a 1f97c-1f9a2 1f9b0-1f9b9 1f9c0-1f9c2 1f9d0-1f9ff
    1fa60-1fa6d""")
ESCAPED = str.maketrans({c: "\\" + c for c in r"\[]{}()^-&|~#*+?.$"})
AFFIX_MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪".translate(ESCAPED)
QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧\u2329\u232a".translate(ESCAPED)
CURRENCIES = "£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿" + r"\$"
# After a digit. "тбكم" is one unit to spaCy, which lacks a space between two lists.
UNITS = """
    km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s
    km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K %
    км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб
    МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب
    اكواب""".split()


# datatrove's 129 punctuation marks, and its 159 marks that end a sentence in some script.
PUNCTUATION = characters("""
    0-8 b-1f 21-2f 3a-40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba 3001-3002
    3008-300d 3010-3011 ff01 ff05 ff08-ff09 ff0c ff0e ff11 ff1a-ff1b ff1f ff5e""")
END_MARKS = characters("""
    21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e
    1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e
    1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7
    a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61
    10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd
    111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642
    1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f
    16af5 16b37-16b38 16b44 16e98 1bc9f 1da88""")
SYMBOLS = PUNCTUATION | END_MARKS
# spaCy's sentencizer knows 128 of the end marks.
SENTENCE_ENDS = END_MARKS - characters("""
    61d-61e 837 839 83d-83e 17d4-17d6 17d9-17da 1b7d-1b7e 2e53-2e54 10f55-10f59 10f86-10f89
    11944 11946 11ef7-11ef8 11f43-11f44 16e98""")

# ------------------------------------------------------------------------------------------ affixes

PREFIX = re.compile(
    rf"[§%=—–{AFFIX_MARKS}{QUOTES}{CURRENCIES}{ICONS}]|\+(?![0-9])|\.\.+|(?:US|[CA])\$")
# Matched against the last TAIL characters, of which no suffix but a run of full stops needs more.
TAIL = 8
SUFFIX = re.compile(rf"""(?x)(?:
    ……|[{AFFIX_MARKS}{QUOTES}{ICONS}—–]
  | ['’][sS]
  | (?<=[0-9])(?:\+|(?:US|[CA])\$|[{CURRENCIES}]|{"|".join(UNITS)})
  | (?:(?<=[0-9%²+\-|{AFFIX_MARKS}{QUOTES}{LOWER}])|(?<=[{UPPER}][{UPPER}])|(?<=°[FfCcKk]))\.
    )\Z""")
INFIX = re.compile(rf"""(?x)
    \.\.+|…|[{ICONS}]
  | (?<=[0-9])[+\-*\^](?=[0-9\-])
  | (?<=[{LOWER}{QUOTES}])\.(?=[{UPPER}{QUOTES}])
  | (?<=[{LETTERS}]),(?=[{LETTERS}])
  | (?<=[{LETTERS}0-9])(?:-{{1,3}}|–|——?|~|[:<>=/])(?=[{LETTERS}])""")


def prefix_length(word, begin, end):
    """Characters at the front of word[begin:end] that are split off; 0 for none."""
    found = PREFIX.match(word, begin, end)
    return found.end() - begin if found else 0


def suffix_length(word, begin, end):
    """Characters at the back of word[begin:end] that are split off; 0 for none."""
    stops = end
    while stops > begin and word[stops - 1] == ".":
        stops -= 1
    if end - stops > 1:
        return end - stops
    tail = word[max(begin, end - TAIL):end]
    found = SUFFIX.search(tail)
    return len(tail) - found.start() if found else 0


# --------------------------------------------------------------------------------------------- URLs

SCHEME = re.compile(r"[\w+.-]{2,}://")
OCTET = r"(?:1?\d{1,2}|2[0-4]\d|25[0-5])"
NAME = r"[A-Za-z0-9\u00a1-\uffff]"
HOST = re.compile(rf"""(?x)
    (?: (?! (?:10|127)(?:\.\d{{1,3}}){{3}} | (?:169\.254|192\.168)(?:\.\d{{1,3}}){{2}}
          | 172\.(?:1[6-9]|2\d|3[01])(?:\.\d{{1,3}}){{2}})          # private addresses
        (?:[1-9]\d?|1\d\d|2[01]\d|22[0-3]) (?:\.{OCTET}){{2}} \.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])
      | (?:(?:{NAME}[A-Za-z0-9\u00a1-\uffff_\-]{{0,62}})?{NAME}\.)+ [{LOWER}]{{2,63}} )
    (?::\d{{2,5}})?                                                 # port
    (?:[/?\#]|\Z)""")


def is_url(word):
    """Whether all of a word is a URL or an e-mail address; neither needs a scheme.

    >>> [is_url(word) for word in ("a.org", "jo@a.org:80/x", "http://8.8.8.8/", "End.Next", "3.14")]
    [True, True, True, False, False]
    """
    if "." not in word:
        return False
    begins = [0]
    if scheme := SCHEME.match(word):
        begins.append(scheme.end())
    begins += [at.end() for at in re.finditer("(?<=.)@", word)]         # behind a user's name
    return any(HOST.match(word, begin) for begin in begins)


# ------------------------------------------------------------------------------------ special cases

# Each of these words with each of these ends, and the same without apostrophes: i'd've, idve.
CONTRACTIONS = """
    i: 'm 'm+a
    i you we they: 've
    you we they: 're
    he she it who what when where why how there that this: 's
    i you he she it we they: 'll 'll+'ve 'd 'd+'ve
    who what when where why how there that this these those: 'll 'll+'ve 'd 'd+'ve
    who what when where why how there these those: 're 've
    ca could do does did had may might must need ought sha should wo would: n't n't+'ve
    ai are is was were have has dare: n't
    could might must should would not: 've"""
OTHER_WORDS = set("ill its hell shell shed were well whore".split())    # without an apostrophe
SPLIT = "can+not gon+na got+ta let+'s c'm+on how+'d+'y y'+all y+all".split()
WHOLE = """
    doin' goin' nothin' nuthin' ol' somethin' lovin' havin' 'cause 'cos 'coz 'cuz 'em 'll 'nuff 's
    're 'bout 'd and/or w/o ‘s '' \\") <space> a.m. p.m. e.g. i.e. co. vs. v.s. Ph.D. Adm. Bros.
    Corp. Dr. Gen. Gov. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Prof. Rep. Rev. Sen. St.
    Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind.
    Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. Neb. Nebr. Nev. Nov. Oct. Okla.
    Ore. Pa. Sep. Sept. Tenn. Va. Wash. Wis.""".split()
# These of WHOLE and SPLIT have no form with a capital.
SMALL = set("""
    a.m. p.m. vs. v.s. 'em 'll 'nuff 're 'bout 'd and/or w/o y'+all y+all <space>""".split())
EMOTICONS = r"""
    :) :)) :))) :-) :-)) :-))) :( :(( :((( :-( :-(( :-((( (: (-: ): )-: :] :-] [: [-: :} :-} :/ :-/
    :| :-| :') :'-) :'( :'-( :o) (o: :() ;) ;-) (; (-; ;-D ;_; =) (= =( =] [= ]= =[ =D =/ =| =3 8)
    8-) (-8 8-D >:( >:o :> :-> :* :-* :1 :0 :-0 :3 :-3 :P :-P :p :-p :O :-O :o :-o :X :-X :x :-x :D
    :-D ;D ^_^ ^__^ ^___^ >.< >.> <.< ._. -_- -__- o.O @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<)
    (*_*) (¬_¬) (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>""".split()


def capital(case):
    """The case with its first letter in upper case: 's -> 'S. c'm+on -> C'm+on."""
    return re.sub(r"[^\W\d_]", lambda letter: letter[0].upper(), case, count=1)


def special_cases():
    """-> {piece: its words}"""
    cases = SPLIT + WHOLE
    for line in CONTRACTIONS.strip().splitlines():
        starts, ends = line.split(":")
        both = [f"{start}+{end}" for start in starts.split() for end in ends.split()]
        bare = [case.replace("'", "") for case in both]
        cases += both + [case for case in bare if case.replace("+", "") not in OTHER_WORDS]
    cases += [capital(case) for case in cases if case not in SMALL]
    cases += [f"{hour}+{half}" for hour in range(1, 13) for half in ("am", "pm", "a.m.", "p.m.")]
    cases += [f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyzäöü"] + ["E.G.", "I.E."]
    cases += [f"°+{letter}+." for letter in "cfkCFK"] + EMOTICONS
    cases += [case.replace("'", "’") for case in cases]
    return {case.replace("+", ""): case.split("+") for case in cases}


SPECIAL = special_cases()
LONGEST = max(map(len, SPECIAL))
LONG_WORD = 100                   # characters; of longer ones nobody asks whether they are plain


# -------------------------------------------------------------------------------------------- words


def is_plain(word):
    """Whether a word has only letters of ASCII, and so no affix."""
    return word.isascii() and word.isalpha()


def split_affixes(piece, special):
    """Steps 1 to 3 of the algorithm. special: {piece: words}"""

    def is_special(begin, end):             # copies no long piece, so that the time stays linear
        return end - begin <= LONGEST and piece[begin:end] in special

    begin, end, before, behind = 0, len(piece), [], []
    while begin < end:
        if is_special(begin, end) or end - begin < LONG_WORD and is_plain(piece[begin:end]):
            break
        n, m = prefix_length(piece, begin, end), 0
        if n == 0 or not is_special(begin + n, end):
            m = suffix_length(piece, begin + n, end)
            if m and is_special(begin, end - m):            # with its prefix
                n = 0
        if n == m == 0:
            return before + split_inside(piece[begin:end]) + behind[::-1]
        if n:
            before.append(piece[begin:begin + n])
        if m:
            behind.append(piece[end - m:end])
        begin, end = begin + n, end - m
    left = piece[begin:end]
    return before + special.get(left, [left] * bool(left)) + behind[::-1]


def split_inside(word):
    """The words of a piece without prefixes and suffixes."""
    if is_url(word):
        return [word]
    words, done = [], 0
    for infix in INFIX.finditer(word):
        begin, end = infix.span()
        if begin == 0:                      # belongs to the word
            continue
        if begin > done:
            words.append(word[done:begin])
        words.append(word[begin:end])
        done = end
    return words + [word[done:]] * (done < len(word))


def sequences():
    """-> {words of a special case if it were none: the special case}, where affixes split it"""
    return {tuple(split_affixes(case, {})): case for case in SPECIAL
            if prefix_length(case, 0, len(case)) or suffix_length(case, 0, len(case))
            or INFIX.search(case)}


SEQUENCES = sequences()
LENGTHS = sorted(set(map(len, SEQUENCES)))
FIRST_WORDS = {words[0] for words in SEQUENCES}


def join_special(words):
    """Step 4. Of special cases that overlap the longest counts, and of equals the first.

    As in spaCy, one that lost still hides those that it touches.
    """
    found = []
    for at, word in enumerate(words):
        if word in FIRST_WORDS:
            found += [(n, -at) for n in LENGTHS if tuple(words[at:at + n]) in SEQUENCES
                      and at + n <= len(words)]
    taken, hidden = {}, set()
    for n, minus_at in sorted(found, reverse=True):
        at = -minus_at
        if at not in hidden and at + n - 1 not in hidden:
            taken[at] = n
        hidden.update(range(at, at + n))
    joined, at = [], 0
    while at < len(words):
        n = taken.get(at)
        joined += SPECIAL[SEQUENCES[tuple(words[at:at + n])]] if n else [words[at]]
        at += n or 1
    return joined


def split_piece(piece):
    """The words of a piece without white space. The caller must not change the list."""
    if piece in SPECIAL:
        return SPECIAL[piece]
    if is_plain(piece):
        return [piece]
    word, mark = piece[:-1], piece[-1]
    if is_plain(word) and word not in SPECIAL and (
            mark in ",:;!?)" or mark == "." and word[-1].islower()):
        return [word, mark]                                 # the usual case, in a tenth of the time
    words = split_affixes(piece, SPECIAL)
    return words if FIRST_WORDS.isdisjoint(words) else join_special(words)


class Memory(dict):
    """A function's answers by piece: memory[piece] is function(piece).

    A memory that grew too large is emptied. That changes no answer, only its time.
    """
    MOST, MOST_CHARS = 1 << 17, 1 << 23                     # pieces, and characters of them

    def __init__(self, function):
        self.function, self.n_chars = function, 0

    def __missing__(self, piece):
        if len(self) >= self.MOST or self.n_chars > self.MOST_CHARS:
            self.clear()
            self.n_chars = 0
        self.n_chars += len(piece)
        self[piece] = answer = self.function(piece)
        return answer


words_in = Memory(split_piece)


def words(text):
    """Words, numbers, clitics and single marks of a text. None holds white space.

    >>> words("Mr. Li's 3.14km isn't well-known, wont :)")
    ['Mr.', 'Li', "'s", '3.14', 'km', 'is', "n't", 'well', '-', 'known', ',', 'wo', 'nt', ':)']
    """
    return [word for piece in text.split() for word in words_in[piece]]


# ---------------------------------------------------------------------------------------- sentences

GAP = re.compile(r"(\s+)")


def is_punctuation(word):
    """Whether every character of a word is punctuation to Unicode."""
    return all(unicodedata.category(character).startswith("P") for character in word)


def count_sentences(line):
    """The number of sentences in a line, at least 1.

    After an end mark, the next word that is no punctuation begins a sentence. White space other
    than one space between words is a word to spaCy, so it begins a sentence as well.

    >>> [count_sentences(line) for line in ("One. Two!", "Mr. Li came.", "end. */", "end.  */")]
    [2, 1, 1, 2]
    """
    pieces = line.split()
    if " ".join(pieces) != line:
        pieces = [piece for piece in GAP.split(line.strip()) if piece != " "]
    n_sentences, ended = 1, False
    for piece in pieces:
        no_end = piece.isalnum() or SENTENCE_ENDS.isdisjoint(piece)
        for word in [piece] if no_end else words_in[piece]:         # nearly no piece is split
            if word in SENTENCE_ENDS:
                ended = True
            elif ended and not is_punctuation(word):
                n_sentences, ended = n_sentences + 1, False
    return n_sentences


def parse_args(argv=None):
    """The text of the command line."""
    parser = argparse.ArgumentParser(prog="python -m web.words",
                                     description="Print the words of an English text.")
    parser.add_argument("text", nargs="+", help="the text")
    return parser.parse_args(argv)


def main(argv=None):
    """Print the words of the arguments."""
    print(" ".join(words(" ".join(parse_args(argv).text))))


if __name__ == "__main__":
    command.run(main)
