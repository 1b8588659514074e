"""A model file of fastText in bytes, and what fastText would say of a text, written out plainly."""
import math
import struct

import numpy as np

from web import classifier

ENGLISH = [
    "The village of Orrendale lies on the slope above the river Thessmar, where old Brannick "
    "Hollowell kept his bees until the winter of the long snow. Every morning his granddaughter "
    "Ysolde carried two pails of water up the path, past the mill of the Quennel brothers.",
    "The grey-tailed vornak (Lutrella vornakis) is a small nocturnal mammal found in the marshes "
    "of Upper Zembria. Adults weigh between two and three kilograms and feed mainly on snails and "
    "reeds.",
    "Kelvathir is a market town in the district of Oost Marren, with a population of 14,210 at the "
    "2009 census. It is known for its glass workshops and the bridge of Saint Ombra.",
    "Tom has twelve apples. He gives three apples to Priya and buys five more at the shop. He had "
    "twelve, and twelve minus three is nine. Nine plus five is fourteen. The answer is 14.",
    "ALL PASSENGERS MUST SHOW A VALID TICKET BEFORE THEY BOARD THE TRAIN.",
    "rain is expected in the north tomorrow, with strong winds along the coast.",
]
OTHERS = {
    "de": "Auf dem Markt kosten die Tomaten heute nur zwei Euro das Kilo.",
    "fr": "Coupez les oignons, faites-les revenir dans le beurre et ajoutez le bouillon.",
    "es": "Mañana lloverá en el norte y hará calor en la costa.",
    "it": "Domani pioverà al nord, ma al sud ci sarà il sole.",
    "pt": "No mercado os tomates custam hoje dois euros o quilo.",
    "nl": "Morgen regent het in het noorden, maar in het zuiden schijnt de zon.",
    "sv": "På torget kostar tomaterna bara tjugo kronor kilot i dag.",
    "pl": "Na targu pomidory kosztują dziś osiem złotych za kilogram.",
    "cs": "Cibuli nakrájejte nadrobno, osmahněte na másle a zalijte vývarem.",
    "fi": "Huomenna pohjoisessa sataa, mutta etelässä paistaa aurinko.",
    "tr": "Soğanı ince doğrayın, tereyağında kavurun ve suyu ekleyin.",
    "la": "Cras in montibus pluet, sed ad mare sol lucebit.",
    "hu": "A piacon ma kétszáz forintba kerül a paradicsom kilója.",
    "vi": "Ngày mai trời sẽ mưa ở miền bắc và nắng ở miền nam.",
    "ru": "На рынке помидоры сегодня стоят сто рублей за килограмм.",
    "el": "Αύριο θα βρέξει στα βόρεια και θα έχει ήλιο στα νότια.",
    "ja": "市場では今日トマトが一キロ三百円で売られています。",
    "zh": "今天市场上的西红柿三块钱一斤，又新鲜又便宜。",
    "ko": "오늘 시장에서 토마토는 일 킬로에 삼천 원입니다.",
    "ar": "سعر الطماطم في السوق اليوم رخيص جدا وهي طازجة.",
    "hi": "आज बाजार में टमाटर तीस रुपये किलो मिल रहे हैं।",
}
TEXTS = ["the cat", "", "the\tthé  cat\n中文 x", "a" * 50, "__label__en cat", "__label__zz cat",
         "the </s> cat", "a\0b\vc\fd\re", "nb\u00a0sp", "😀 é"]


# --------------------------------------------------- a model file, and what fastText says of a text

def model_bytes(loss=classifier.SOFTMAX, dim=3, bucket=50, word_ngrams=1, quantised=False,
                prune=None, version=12, model=3, seed=0):
    """A small file, and the (emb, out) it holds as float32."""
    rng = np.random.default_rng(seed)
    words, labels = [b"</s>", b"the", "thé".encode()], [b"en", b"de", b"fr", b"mul"]
    counts, out = [9, 7, 2, 1], rng.normal(size=(4, dim)).astype("<f4")
    n_rows = len(words) + (bucket if prune is None else len(prune))
    data = struct.pack("<14i d", 793712314, version, dim, 5, 5, 1, 5, word_ngrams, loss, model,
                       bucket, 2, 4, 100, 1e-4)
    data += struct.pack("<3i2q", 7, 3, 4, 99, -1 if prune is None else len(prune))
    data += b"".join(w + b"\0" + struct.pack("<qb", 5, 0) for w in words)
    data += b"".join(b"__label__" + w + b"\0" + struct.pack("<qb", n, 1)
                     for w, n in zip(labels, counts))
    data += b"".join(struct.pack("<2i", *pair) for pair in prune or [])
    if quantised:       # two sub-quantisers of 2 and 1 columns, and norms
        codes = rng.integers(256, size=(n_rows, 2)).astype(np.uint8)
        norm_codes = rng.integers(256, size=n_rows).astype(np.uint8)
        wide, narrow, norms = (rng.normal(size=s).astype("<f4") for s in ((256, 2), (256, 1), 256))
        data += b"\1" + struct.pack("<?2qi", True, n_rows, dim, 2 * n_rows) + codes.tobytes()
        data += struct.pack("<4i", dim, 2, 2, 1) + wide.tobytes() + narrow.tobytes()
        data += norm_codes.tobytes() + struct.pack("<4i", 1, 1, 1, 1) + norms.tobytes()
        emb = np.array([[norms[n] * v for v in (*wide[a], *narrow[b])]
                        for (a, b), n in zip(codes, norm_codes)], np.float32)
    else:
        emb = rng.normal(size=(n_rows, dim)).astype("<f4")
        data += b"\0" + struct.pack("<2q", n_rows, dim) + emb.tobytes()
    return data + b"\0" + struct.pack("<2q", 4, dim) + out.tobytes(), emb, out


def plain_hash(data):
    h = 2166136261
    for byte in data:
        h ^= byte if byte < 128 else 0xFFFFFF00 | byte
        h = h * 16777619 % 2 ** 32
    return h


def plain_rows(text, bucket, word_ngrams=1, prune=None):
    words, kept = {"</s>": 0, "the": 1, "thé": 2}, dict(prune or [])
    rows, hashes = [], []

    def push(h):
        if prune is None:
            rows.append(3 + h % bucket)
        elif h % bucket in kept:
            rows.append(3 + kept[h % bucket])

    for c in "\t\r\v\f\0\n":
        text = text.replace(c, " ")
    for token in [t for t in text.split(" ") if t] + ["</s>"]:
        if token.startswith("__label__"):
            continue
        h = plain_hash(token.encode())
        hashes.append(h if h < 2 ** 31 else h - 2 ** 32)
        if token in words:
            rows.append(words[token])
        if token == "</s>":
            break
        marked = "<" + token + ">"
        for i in range(len(marked)):
            for n in range(2, 5):
                if i + n <= len(marked):
                    push(plain_hash(marked[i:i + n].encode()))
    for i in range(len(hashes)):
        h = hashes[i] % 2 ** 64
        for j in range(i + 1, min(i + word_ngrams, len(hashes))):
            h = (h * 116049371 + hashes[j]) % 2 ** 64
            push(h)
    return rows


def plain_scores(rows, emb, out, loss):
    hidden = [sum(float(emb[r][d]) for r in rows) / len(rows) for d in range(emb.shape[1])]
    dots = [sum(float(o) * h for o, h in zip(row, hidden)) for row in out]
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    if loss == classifier.SOFTMAX:
        total = sum(math.exp(x) for x in dots)
        return [math.exp(x) / total + 1e-5 for x in dots]
    if loss != classifier.HS:         # of 512 cells over [-8, 8], the cell's lower edge
        return [(0 if x < -8 else 1 if x > 8 else sigmoid(int((x + 8) * 32) / 32 - 8)) + 1e-5
                for x in dots]
    # Counts 9 7 2 1. Leaf 3 and leaf 2 make node 4 (3); node 4 and leaf 1 make node 5 (10);
    # leaf 0 is rarer than node 5, so it is picked first: node 6, the root, has leaf 0 on its left.
    f4, f5, f6 = (sigmoid(x) for x in dots[:3])
    return [1 - f6 + 1e-5,
            (f6 + 1e-5) * (f5 + 1e-5),
            (f6 + 1e-5) * (1 - f5 + 1e-5) * (f4 + 1e-5),
            (f6 + 1e-5) * (1 - f5 + 1e-5) * (1 - f4 + 1e-5)]


def corpus():
    rng = np.random.default_rng(3)
    made = {"aa": "mano kilo tera sumi vako", "bb": "strunk gralp fnord blisk jeltz"}
    return [f"__label__{label} " + " ".join(rng.choice(words.split(), 6)) + f" {i}"
            for label, words in made.items() for i in range(60)]


SMALL = dict(dim=4, bucket=500, epochs=4, n_texts=256, batch=16)
