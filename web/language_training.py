"""Training of the language classifier: texts, how they are drawn, the gradient, and the test.

The training texts are few: ten kilobytes of one treaty in most languages. So they are drawn anew in
every epoch: runs of sentences of all lengths, restyled, with made-up words among them. A fifth of
the sentences is held out. Left out: any loss but softmax, and a vocabulary of words.

The commands are web/language.py's:

    python -m web.language train --input udhr/ en=english.txt --out web/language.ftz
    python -m web.language test --input udhr/ en=english.txt

Shapes: B texts of a minibatch, U distinct features, D hidden size, L labels.
"""
import argparse
import os
import re
import zlib
from pathlib import Path

import numpy as np

from run import progress
from web import fasttext_file
from web.classifier import EOS, PREFIX, Args, Classifier, by_token, numbered

# ISO 639-3 -> the two-letter codes that lid.176 has. Individual languages stand for their group.
ISO_639_1 = dict(pair.split(":") for pair in """
    abk:ab afr:af aka:ak als:sq amh:am arb:ar ayr:ay azj:az bam:bm bel:be ben:bn bis:bi bod:bo
    bos:bs bre:br bul:bg cat:ca ces:cs cha:ch cmn:zh cos:co cym:cy dan:da deu:de div:dv dzo:dz
    ell:el eng:en epo:eo est:et eus:eu ewe:ee fao:fo fij:fj fin:fi fra:fr fri:fy fuc:ff gla:gd
    gle:ga glg:gl gug:gn guj:gu hat:ht hau:ha heb:he hin:hi hrv:hr hun:hu hye:hy ibo:ig ido:io
    iii:ii ike:iu ina:ia ind:id isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kat:ka kaz:kk khk:mn
    khm:km kin:rw kir:ky kor:ko lao:lo lat:la lav:lv lin:ln lit:lt ltz:lb lug:lg mah:mh mal:ml
    mar:mr mkd:mk mlt:mt mri:mi mya:my nav:nv nbl:nr ndo:ng nep:ne nld:nl nno:nn nob:no nya:ny
    ojb:oj oss:os pan:pa pes:fa plt:mg pol:pl por:pt quz:qu roh:rm ron:ro run:rn rus:ru sag:sg
    san:sa slk:sk slv:sl sme:se smo:sm sna:sn som:so sot:st spa:es src:sc srp:sr ssw:ss sun:su
    swe:sv swh:sw tah:ty tam:ta tat:tt tgk:tg tgl:tl tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk
    tur:tr uig:ug ukr:uk urd:ur uzn:uz ven:ve vie:vi wln:wa wol:wo xho:xh ydd:yi yor:yo zul:zu
    """.split())


# --------------------------------------------------------------------------------------------------
# Texts.

SENTENCE_END = re.compile(r"(?<=[.!?;:…؟۔।])\s+|(?<=[。！？；])|\n+")


def read_texts(inputs):
    """{label: [sentence, ...]} of inputs that are each one of

    "__label__xx a text"; a file of such lines; LABEL=FILE; a file, or a directory of files, named
    by ISO 639-3 code up to the first "_" or "." ("deu_1901.txt" -> "de"; "007.txt" -> "und").
    """
    texts, lines = {}, []
    for item in map(str, inputs):
        if item.startswith("__label__"):
            lines.append(item)
            continue
        label, path = "", item
        if not os.path.exists(item):
            label, _, path = item.rpartition("=")
        if not os.path.exists(path):
            raise FileNotFoundError(f"{item}: no such file; --input takes DIR, FILE or LABEL=FILE")
        files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace")
            if text.startswith("__label__") and not label:
                lines += filter(None, text.split("\n"))
                continue
            stripped = map(str.strip, SENTENCE_END.split(text))
            found = texts.setdefault(label or code_of(file.name), [])
            found.extend(filter(None, stripped))
    for line in lines:
        label, _, text = line.removeprefix("__label__").partition(" ")
        if not label or not line.startswith("__label__"):
            raise ValueError(f"{line[:60]!r} among __label__ lines; write __label__xx TEXT")
        texts.setdefault(label, []).append(text.strip())
    return texts


def code_of(name):
    """The label of a file from its name: "deu_1901.txt" -> "de"."""
    code = re.split("[_.]", name)[0]
    return ISO_639_1.get(code, code) if code.isalpha() else "und"


def held_out(sentence):
    """Whether a sentence is for `test` only: one in five. Its bytes decide, so all runs agree."""
    return zlib.crc32(sentence.encode("utf-8", "replace")) % 5 == 0


def training_texts(inputs):
    """({label: sentences that are not held out}, {label: characters}, labels by falling size)."""
    texts = {}
    for label, sentences in read_texts(inputs).items():
        texts[label] = [sentence for sentence in sentences if not held_out(sentence)]
    size = {label: sum(map(len, sentences)) for label, sentences in texts.items()}
    labels = sorted(filter(size.get, texts), key=lambda label: (-size[label], label))
    if len(labels) < 2:
        raise ValueError(f"training needs text of two labels, has {labels}; add to --input")
    return texts, size, labels


# --------------------------------------------------------------------------------------------------
# Drawing.

def pseudo_words(sentences, n, rng):
    """n words that no one wrote: each character is drawn from those seen after the two before it.

    Ten kilobytes of one treaty hold few words of a language; these show what others are like.
    """
    after = {}
    for word in " ".join(sentences[:3000]).split():
        word = "\0\0" + word + "\n"
        for i in range(2, len(word)):
            after.setdefault(word[i - 2:i], []).append(word[i])
    words = []
    for _ in range(n):
        word = "\0\0"
        while word[-1] != "\n" and len(word) < 20:
            choices = after[word[-2:]]
            word += choices[rng.integers(len(choices))]
        words.append(word[2:].rstrip("\n"))
    return words


def draw_text(sentences, own, foreign, rng, min_chars=12, max_chars=400):
    """A training text: a run of sentences of a log-uniform length, restyled, strangers added.

    own, foreign: made-up words of the language, and of all. Every language gets the same styles, so
    that case, spaced punctuation, digits and names say nothing about the language.
    """
    n_chars = int(np.exp(rng.uniform(np.log(min_chars), np.log(max_chars))))
    i, text = int(rng.integers(len(sentences))), ""
    while len(text) < n_chars and i < len(sentences):
        text, i = text + sentences[i] + " ", i + 1
    if len(text) > n_chars:                                 # cut at a space; without one, anywhere
        text = text[:max(text.rfind(" ", 0, n_chars), 0) or n_chars]
    case, punctuation, strangers = rng.random(3)
    text = restyled(text, case, punctuation)
    if strangers < 0.75:
        words = text.split(" ")
        for kind in rng.random(int(len(words) * rng.random())):
            if kind < 0.03:
                word = str(int(10 ** rng.uniform(0, 5)))
            elif kind < 0.85:
                word = own[rng.integers(len(own))]
            else:
                word = foreign[rng.integers(len(foreign))].title()
            words.insert(int(rng.integers(len(words) + 1)), word)
        text = " ".join(words)
    return text


def restyled(text, case, punctuation):
    """The text in another style. case, punctuation: draws from [0, 1) that choose it."""
    if case < 0.15:
        text = text.lower()
    elif case < 0.3:
        text = text.upper()
    elif case < 0.35:
        text = text.title()
    elif case < 0.6:
        text = text[:1].upper() + text[1:]
    if punctuation < 0.15:
        return re.sub(r"([.,;:!?()\"'])", r" \1 ", text)    # spaced, as some corpora have it
    if punctuation < 0.5:
        return re.sub(r"(?<! ) +([.,;:!?)'])", r"\1", text)            # and back
    if punctuation < 0.6:
        return re.sub(r"[.,;:!?()\"]", "", text)
    return text


# --------------------------------------------------------------------------------------------------
# Training.

MOST = 2 ** 31 - 1                # the file's integers have 32 bits
OPTIONS = {                       # of train, by topic: default, least, most, meaning
    "the model": {
        "dim": (32, 1, MOST, "size of the hidden layer"),
        "bucket": (7000, 1, MOST, "rows for hashed n-grams"),
        "minn": (1, 1, MOST, "characters of the shortest n-gram"),
        "maxn": (4, 1, MOST, "characters of the longest n-gram"),
    },
    "the training": {
        "epochs": (8, 1, MOST, "number of rounds"),
        "n_texts": (20000, 1, MOST, "texts drawn in a round"),
        "batch": (32, 1, MOST, "texts in a step"),
        "lr": (1.5, 1e-9, 1e38, "learning rate of the first step, for one text"),
        "smoothing": (0.3, 0, 10, "exponent of a label's share of the texts"),
        "seed": (0, 0, 2 ** 63, "seed of all draws"),
    },
}


def loss_and_grads(emb, w, x, y):
    """Mean cross-entropy, in nats, of softmax(x @ emb @ w), and its gradients by emb and w.

    x (B,U): each feature's share of the text, rows sum to 1; emb (U,D); w (D,L); y (B,) int.
    """
    h = x @ emb                                             # (B,D) the mean of the features' rows
    logits = h @ w
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    at = np.arange(len(y)), y
    dlogits = np.exp(log_p)                                 # loss was: -log_p[at].mean()
    dlogits[at] -= 1
    dlogits /= len(y)
    dw = h.T @ dlogits                                      # logits were: h @ w
    demb = x.T @ (dlogits @ w.T)                            # h was: x @ emb
    return -log_p[at].mean(), demb, dw


def checked(out, given):
    """All options by name. ValueError or FileNotFoundError if training is impossible with them."""
    o = argparse.Namespace()
    for name, (default, low, high, _) in (OPTIONS["the model"] | OPTIONS["the training"]).items():
        value = given.get(name, default)
        if not low <= value <= high:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be {low} to {high}")
        setattr(o, name, value)
    if o.minn > o.maxn:
        raise ValueError(f"--minn {o.minn} must be at most --maxn {o.maxn}")
    if o.batch > o.n_texts:
        raise ValueError(f"--n-texts {o.n_texts} must be at least --batch {o.batch}")
    if not Path(out).parent.is_dir() or Path(out).is_dir():
        raise FileNotFoundError(f"--out {out} must be a file in a folder that exists")
    return o


class Batches:
    """The features of the texts of an epoch; .batch(step, size) gives those of a minibatch."""

    def __init__(self, model, texts):
        lists = model.tokenize(texts)
        ids = numbered(lists)
        self.ids = np.array([ids[token] for tokens in lists for token in tokens])
        self.lengths = np.array(list(map(len, lists)))
        self.rows, self.n = by_token(*model.find_rows(list(ids)))   # n: rows of each token
        self.starts = np.cumsum(self.n) - self.n
        self.bounds = np.cumsum(np.append(0, self.lengths))
        self.n_rows = len(model.emb)

    def batch(self, step, size):                            # -> (U,) int, (B,U) float32
        """(the rows that the texts stand for, each one's share of each text)."""
        b = slice(step * size, (step + 1) * size)
        token = self.ids[self.bounds[b.start]:self.bounds[b.stop]]
        k = self.n[token]
        within = np.arange(k.sum()) - np.repeat(np.cumsum(k) - k, k)
        row = self.rows[np.repeat(self.starts[token], k) + within]      # of a token, in a run
        text = np.repeat(np.repeat(np.arange(size), self.lengths[b]), k)
        used = np.flatnonzero(np.bincount(row))             # only these rows can move
        column = np.zeros(self.n_rows, np.int64)
        column[used] = np.arange(len(used))
        x = np.bincount(text * len(used) + column[row], minlength=size * len(used))
        x = x.reshape(size, -1).astype(np.float32)          # (B,U) counts, then shares
        return used, x / x.sum(1, keepdims=True)


def train(inputs, out, log=None, **options):
    """Train on read_texts(inputs) without the held-out fifth; write the model to out, return it.

    An epoch is n_texts fresh draws, a label drawn in proportion to (its characters) ** smoothing.
    Softmax by plain SGD; lr, which is for one text as fastText's is, falls to 0 in a straight line.
    The vocabulary is </s> alone. On foreign text unlike the training text, 1,500 words, 80,000
    buckets or the 60,000 commonest n-grams did no better than 1 MB of buckets; more epochs did
    worse. The same seed gives the same file on one machine with OPENBLAS_NUM_THREADS=1.
    """
    o = checked(out, options)
    rng = np.random.default_rng(o.seed)
    texts, size, labels = training_texts(inputs)
    share = np.array([size[label] for label in labels], float) ** o.smoothing
    own = [pseudo_words(texts[label], 1000, rng) for label in labels]
    foreign = [word for words in own for word in words[:100]]
    emb = rng.uniform(-1 / o.dim, 1 / o.dim, (1 + o.bucket, o.dim)).astype(np.float32)
    w = np.zeros((o.dim, len(labels)), np.float32)
    args = Args(dim=o.dim, bucket=o.bucket, minn=o.minn, maxn=o.maxn, epoch=o.epochs)
    model = Classifier(args, [EOS], [PREFIX + label.encode() for label in labels],
                       [size[label] for label in labels], emb, w)
    if log:
        print(f"{len(labels)} labels, {sum(size.values())} characters, {args}", file=log)
    n_steps = o.n_texts // o.batch
    for epoch in range(o.epochs):
        y = rng.choice(len(labels), o.n_texts, p=share / share.sum())
        drawn = [draw_text(texts[labels[i]], own[i], foreign, rng) for i in y]
        batches, total = Batches(model, drawn), 0.0
        for step in progress.each(range(n_steps), f"epoch {epoch + 1} of {o.epochs}: steps"):
            used, x = batches.batch(step, o.batch)
            of_step = slice(step * o.batch, (step + 1) * o.batch)
            loss, demb, dw = loss_and_grads(emb[used], w, x, y[of_step])
            rate = np.float32(o.lr * o.batch * (1 - (epoch + step / n_steps) / o.epochs))
            emb[used] -= rate * demb
            w -= rate * dw
            total += float(loss)
            if not np.isfinite(total):
                raise ValueError(f"epoch {epoch + 1}: the loss is {loss}; halve --lr {o.lr}")
        if log:
            print(f"epoch {epoch + 1}/{o.epochs}  loss {total / n_steps:.4f} nats", file=log,
                  flush=True)
    fasttext_file.write(out, model)
    return model


def evaluate(model, inputs, focus="en", threshold=0.65):
    """How well one label, scored above threshold, is told from the rest on held-out sentences."""
    pairs = []
    for label, sentences in read_texts(inputs).items():
        pairs += [(label, s) for s in sentences if held_out(s) and len(s) >= 20]
    truth = np.array([label for label, _ in pairs])
    guess, scores = model.predict([sentence for _, sentence in pairs])
    right, taken = truth == focus, (np.array(guess) == focus) & (scores > threshold)
    if not right.any() or right.all():
        raise ValueError(f"{right.sum()} of {len(right)} held-out sentences are {focus!r}; "
                         "--input needs that label and another")
    mistaken, times = np.unique(truth[taken & ~right], return_counts=True)
    worst = sorted(zip(-times, mistaken))[:8]
    return {
        "held-out sentences": len(pairs),
        f"of them {focus}": int(right.sum()),
        "recall": float(taken[right].mean()),
        "precision": float(right[taken].mean()),
        "others taken for it": float(taken[~right].mean()),
        "mostly": ", ".join(f"{label} {-n}" for n, label in worst),
        "others named right": float((truth == guess)[~right].mean()),
    }
